"""Train a detector or a classifier by a recipe.

  effdet train configs/d0.yaml data.root=/data/coco train.batch_size=16

The run's folder (runs/ and the recipe's name) gets config.yaml, log.jsonl and log.csv, last.pt to resume from, best.pt
to use, metrics.json and predictions.json. Ctrl-C or SIGTERM finish the step in hand and save last.pt (status 130, 143),
and so does the end of train.max_hours (75). --resume goes on as if the run had never stopped.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.recipes import add_recipe_arguments, read_recipe, recipe_path
from effdet.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

# Of a program ended by Ctrl-C, by SIGTERM, and one that asks to be started again.
EXIT_STATUS = {"finished": 0, "interrupted": 130, "terminated": 143, "out of time": 75}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `train` to a parser."""
    add_recipe_arguments(parser)
    parser.add_argument(
        "--resume",
        metavar="PATH|auto",
        help="go on from a run's folder or its last.pt; auto: from the newest run of the recipe, or start one",
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (a GPU where there is one)")


def run(args: argparse.Namespace) -> int:
    """Trains; the exit status is 0, 130 after Ctrl-C, 143 after SIGTERM, 75 after train.max_hours.

    Raises:
        EffdetError: recipe, data or weights cannot be used, or the loss is no longer finite.
    """
    from rich.console import Console

    config = read_recipe(args)
    recipe = recipe_path(args)
    assert recipe is not None

    from effdet.distributed import processes
    from effdet.training.engine import train

    with processes(args.device, config.train.timeout_minutes) as (together, device):
        console = Console(soft_wrap=True, markup=False, highlight=False, quiet=not together.is_main)
        # The main process chooses for all, before any of them writes.
        chosen = where(config.output_dir, recipe, args.resume, console) if together.is_main else (None, Path())
        resume, folder = together.broadcast(chosen)
        # Nobody leaves before the main process has saved: torchrun ends the others when one leaves with a status.
        ending = together.broadcast(train(config, folder, str(device), resume, console, together))
    if ending == "finished":
        console.print(f"done: {folder}/best.pt")
    else:
        console.print(f"{ending}; go on with --resume {folder}")
    return EXIT_STATUS[ending]


def where(output_dir: Path | None, recipe: Path, resume: str | None, console: Console) -> tuple[Path | None, Path]:
    """What to resume, if anything, and the folder to write to, of a recipe's file and the argument of --resume.

    Raises:
        ConfigError: see `run_folder` and `newest_run`.
    """
    if resume != "auto":
        earlier = Path(resume) if resume else None
        return earlier, run_folder(output_dir, recipe.stem, earlier)
    earlier = newest_run(output_dir, recipe, console)
    if earlier is None and output_dir is not None:  # of a run that was killed before it saved anything, too
        return None, output_dir.expanduser()
    return earlier, run_folder(output_dir, recipe.stem, earlier)


def newest_run(output_dir: Path | None, recipe: Path, console: Console) -> Path | None:
    """The folder of the newest run of a recipe that can be resumed, or None where none was ever saved.

    Raises:
        ConfigError: there are runs, but all that they saved is damaged.
    """
    from effdet.errors import WeightsError
    from effdet.training.setup import newest_state

    own = re.compile(re.escape(recipe.stem) + r"(-\d+)?")
    others = {path.stem for path in recipe.parent.glob("*.yaml")} - {recipe.stem}  # such as NAME-640
    folders = [path for path in Path("runs").glob("*") if own.fullmatch(path.name) and path.name not in others]
    if output_dir:
        folders = [output_dir.expanduser()]
    saved = [path for folder in folders for path in (folder / "last.pt", folder / "previous.pt") if path.exists()]
    newest_first = sorted(saved, key=lambda path: path.stat().st_mtime, reverse=True)
    damaged = []
    for folder in dict.fromkeys(path.parent for path in newest_first):
        try:
            newest_state(folder, console)
        except WeightsError as error:
            damaged.append(str(error))
            console.print(f"{error}; looking for an earlier run", style="yellow")
        else:
            return folder
    if damaged:
        raise ConfigError(f"--resume auto: no saved state is whole ({'; '.join(damaged)}); move it away to start anew")
    return None


def run_folder(output_dir: Path | None, name: str, resume: Path | None) -> Path:
    """Where a run writes: the folder that is resumed, the given one, or the first free of runs/NAME, runs/NAME-2, ...

    Raises:
        ConfigError: the given folder holds a run that is not resumed, or is not the resumed one's; or there is nothing
            to resume.
    """
    output_dir = output_dir and output_dir.expanduser()
    if resume is not None:
        if not resume.exists():
            raise ConfigError(f"--resume {resume}: no such file or folder; give a run's folder or its last.pt")
        folder = resume if resume.is_dir() else resume.parent
        if output_dir is not None and output_dir.resolve() != folder.resolve():
            raise ConfigError(
                f"--resume {resume}: a run goes on in its own folder, but output_dir is {output_dir}; "
                f"set output_dir={folder} too"
            )
        return folder
    if output_dir is not None:
        if any((output_dir / name).exists() for name in ("last.pt", "log.jsonl")):
            raise ConfigError(
                f"{output_dir}: holds a run already; go on with it by --resume {output_dir}, or set another output_dir"
            )
        return output_dir
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
