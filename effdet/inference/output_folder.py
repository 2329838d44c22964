"""The folder of a prediction: which one is used, and what an earlier prediction left in it.

What is written into it is in `writers.py`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from effdet.errors import ConfigError
from effdet.files import atomic_write, read_bytes
from effdet.inference.writers import CSV_NAME, JSON_NAME, part_name
from effdet.text import count_of, path_cell

DEFAULT_FOLDER = Path("runs/predict")
PICTURES_NAME = "pictures.csv"
_RESULTS = (JSON_NAME, CSV_NAME, PICTURES_NAME)


def numbered_folders(first: Path = DEFAULT_FOLDER) -> list[Path]:
    """FIRST and those of FIRST-2, FIRST-3 ... that exist: the output folders of all predictions without --out."""
    existing = first.parent.glob(f"{first.name}-*") if first.parent.is_dir() else ()
    return [first, *sorted(folder for folder in existing if folder.name.removeprefix(f"{first.name}-").isdecimal())]


def prepare_folder(folder: Path, paths: Mapping[Path, Path], overwrite: bool) -> None:
    """Makes room for a prediction: with `overwrite`, removes the results that an earlier one wrote.

    Args:
        folder: the output folder; it need not exist.
        paths: the annotated copy of each source (see `picture_paths`).
        overwrite: whether earlier results may be removed.

    Raises:
        ConfigError: there are files that would be overwritten, a source is among the files to remove, or a subfolder is
            a link out of the folder.
    """
    _check_links(folder, paths)
    results = [folder / name for name in _RESULTS if (folder / name).is_file()]
    written = _listed_pictures(folder)
    if not overwrite:
        existing = results + sorted(path for path in paths.values() if path.exists())
        if existing:
            raise ConfigError(
                f"{folder}: holds {count_of(len(existing), 'file')} that would be overwritten, such as "
                f"{existing[0].name}; choose another folder, or add --overwrite (in Python overwrite=True)"
            )
        return
    foreign = sorted({path for path in paths.values() if path.exists()} - set(written))
    if foreign and not any(folder.glob(f".{JSON_NAME}.*")):  # which a prediction that was killed leaves
        raise ConfigError(
            f"{foreign[0]}: exists, and no earlier prediction wrote it ({count_of(len(foreign), 'such file')}); "
            "--overwrite replaces results alone, choose another folder"
        )
    real = {path.resolve() for path in written}
    source = next((source for source in paths if source.resolve() in real), None)
    if source is not None:
        raise ConfigError(
            f"{source}: is an annotated picture that --overwrite would remove; leave it out of the sources, in Python "
            "with open_sources(..., leave_out=[folder])"
        )
    for path in [*written, *results]:
        path.unlink(missing_ok=True)


def _check_links(folder: Path, paths: Mapping[Path, Path]) -> None:
    """Raises ConfigError if a picture would be written through a link to another place."""
    inside = os.path.realpath(folder)
    for parent in sorted({path.parent for path in paths.values()} - {folder}):
        real = os.path.realpath(parent)
        if not (real + os.sep).startswith(inside.rstrip(os.sep) + os.sep):
            raise ConfigError(f"{parent}: is a link to {real}, outside of the output folder; choose another folder")


def remove_parts(folder: Path) -> None:
    """Removes what the processes of a killed prediction wrote and nobody merged."""
    for name in (JSON_NAME, CSV_NAME):
        for path in folder.glob(part_name(name, "*")):
            path.unlink(missing_ok=True)


def list_pictures(folder: Path, paths: Mapping[Path, Path]) -> None:
    """Writes pictures.csv: each source, and its annotated copy as a path relative to the folder."""
    with (
        atomic_write(folder / PICTURES_NAME) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("file_name", "picture"))
        table.writerows(
            (path_cell(source.as_posix()), path_cell(path.relative_to(folder).as_posix()))
            for source, path in _existing(paths)
        )


def _existing(paths: Mapping[Path, Path]) -> Iterable[tuple[Path, Path]]:
    return ((source, path) for source, path in paths.items() if path.is_file())


def _listed_pictures(folder: Path) -> list[Path]:
    """The annotated copies that an earlier prediction wrote into the folder and that are still there."""
    try:
        text = read_bytes(folder / PICTURES_NAME).decode("utf-8", "surrogateescape")
        rows = csv.DictReader(io.StringIO(text, newline=""))
        pictures = [folder / row["picture"] for row in rows if row.get("picture")]
    except (OSError, csv.Error):
        return []
    inside = folder.resolve()
    return [path for path in pictures if path.is_file() and path.resolve().is_relative_to(inside)]
