"""Where a run writes, which earlier run it continues, and by which recipe.

What a run's folder holds is written by `engine.py` and `records/`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from effdet.config import ClassificationConfig, DetectionConfig, load_config
from effdet.errors import ConfigError, WeightsError
from effdet.files import full_path
from effdet.folders import owned_folder
from effdet.training.resume import newest_state

CHECKPOINTS = ("last.pt", "previous.pt")
_LISTED = 8  # runs in a message


@contextlib.contextmanager
def own_folders(
    output_dir: Path | None, recipe: Path, resume: str | None, console: Console
) -> Iterator[tuple[Path | None, Path]]:
    """What `choose_folders` chooses, in a context in which no other process writes to the folder.

    Raises:
        ConfigError: see `choose_folders` and `owned_folder`.
    """
    while True:
        earlier, folder = choose_folders(output_dir, recipe, resume, console)
        made = earlier is None and output_dir is None
        if made:
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue  # another process has just taken the name
            except OSError as error:
                raise ConfigError(f"{folder}: cannot be made ({error.strerror}); set another output_dir") from None
        with owned_folder(folder, made):
            if resume is None and not made:
                run_folder(folder, recipe.stem, None)  # another process may have written a run meanwhile
            yield earlier, folder
        return


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
        return None, full_path(output_dir)
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
        folders = [full_path(output_dir)]
    saved = [path for folder in folders for path in _checkpoints(folder)]
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
    output_dir = output_dir and full_path(output_dir)
    if resume is not None:
        folder = existing_run(resume)
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


def existing_run(resume: Path) -> Path:
    """The folder of a run, given the folder or its last.pt.

    Raises:
        ConfigError: there is nothing to resume; the message lists the runs that there are.
    """
    if resume.is_file() or (resume.is_dir() and _checkpoints(resume)):
        return resume if resume.is_dir() else resume.parent
    place = resume if resume.is_dir() else resume.parent
    runs = saved_runs(place) or saved_runs(Path("runs"))
    listed = ", ".join(map(str, runs[:_LISTED])) + (", ..." if len(runs) > _LISTED else "")
    hint = f"runs that can be continued are {listed}" if runs else "give a run's folder or its last.pt"
    if not resume.is_dir():
        raise ConfigError(f"--resume {resume}: no such file or folder; {hint}")
    names = sorted(path.name for path in resume.iterdir())[:_LISTED]
    holds = f"it holds {', '.join(names)}" if names else "it is empty"
    raise ConfigError(f"--resume {resume}: the folder has no last.pt, {holds}; {hint}")


def saved_runs(place: Path) -> list[Path]:
    """The folders in a folder that hold the last.pt of a run, the newest first."""
    try:
        folders = [path for path in place.iterdir() if _checkpoints(path)]
    except OSError:
        return []
    return sorted(folders, key=lambda folder: -max(path.stat().st_mtime for path in _checkpoints(folder)))


def recipe_of_run(resume: Path, overrides: Sequence[str] = ()) -> tuple[DetectionConfig | ClassificationConfig, Path]:
    """The recipe by which a run was trained, with overrides, and its file.

    Raises:
        ConfigError: there is no such run, its config.yaml is missing, or an override cannot be used.
    """
    file = existing_run(resume) / "config.yaml"
    if not file.exists():
        raise ConfigError(f"{file}: no such file, so the recipe of the run is not known; give the recipe too")
    return load_config(file, overrides), file


def _checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder from which a run can be continued."""
    return [path for path in (folder / name for name in CHECKPOINTS) if os.path.isfile(path)]
