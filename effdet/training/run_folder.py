"""Where a run writes and which earlier run it continues.

What a run's folder holds is written by `engine.py` and `records/`.
"""

from __future__ import annotations

import re
from pathlib import Path

from rich.console import Console

from effdet.errors import ConfigError, WeightsError
from effdet.training.resume import newest_state


def choose_folders(
    output_dir: Path | None, recipe: Path, resume: str | None, console: Console
) -> tuple[Path | None, Path]:
    """What to resume, if anything, and the folder to write to.

    Args:
        output_dir: the folder that the recipe names; None if it names none.
        recipe: the file of the recipe; its name is the name of the run.
        resume: a run's folder, its last.pt, "auto" for the newest run of the recipe, or None for a new run.
        console: where damaged runs are printed.

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
    """The folder of the newest run of a recipe that can be resumed; None if none has saved anything.

    Raises:
        ConfigError: there are runs, but all their checkpoints are damaged.
    """
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
        raise ConfigError(
            f"--resume auto: all checkpoints are damaged ({'; '.join(damaged)}); move them away to start a new run"
        )
    return None


def run_folder(output_dir: Path | None, name: str, resume: Path | None) -> Path:
    """Where a run writes: the resumed folder, the given one, or the first free one of runs/NAME, runs/NAME-2, ...

    Raises:
        ConfigError: the given folder holds another run, or there is nothing to resume.
    """
    output_dir = output_dir and output_dir.expanduser()
    if resume is not None:
        if not resume.exists():
            raise ConfigError(f"--resume {resume}: no such file or folder; give a run's folder or its last.pt")
        folder = resume if resume.is_dir() else resume.parent
        if output_dir is not None and output_dir.resolve() != folder.resolve():
            raise ConfigError(
                f"--resume {resume}: a run continues in its own folder, but output_dir is {output_dir}; "
                f"set output_dir={folder} too"
            )
        return folder
    if output_dir is not None:
        if any((output_dir / name).exists() for name in ("last.pt", "log.jsonl")):
            raise ConfigError(
                f"{output_dir}: holds a run already; continue it with --resume {output_dir}, or set another output_dir"
            )
        return output_dir
    folder, number = Path("runs") / name, 1
    while folder.exists():
        number += 1
        folder = Path("runs") / f"{name}-{number}"
    return folder
