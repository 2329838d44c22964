"""Writing a data set in another format: images are copied or linked, annotations are written by the format's writer.

Reading all splits of a data set is in `data_set.py`, the files of each format in `data/formats`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effdet.data.formats import FORMATS
from effdet.data.formats.image_files import check_copied
from effdet.data.formats.voc_writer import is_file_name
from effdet.data.image_table import ImageTable
from effdet.data.labels import ImageLabels
from effdet.errors import DataError
from effdet.files import atomic_folder, full_path
from effdet.types import Task


class Written(NamedTuple):
    """What became of a data set that was written.

    Attributes:
        lost: what the format cannot hold, by cause -> count.
        renamed: number of images that got another name, because two had the same or because it was hidden.
    """

    lost: dict[str, int]
    renamed: int


def writable_formats(task: Task) -> tuple[str, ...]:
    """Names of the formats that can be written."""
    return tuple(name for name, chosen in FORMATS[task].items() if chosen.write is not None)


def write_data_set(
    folder: Path,
    format_name: str,
    tables: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
    link: bool = False,
    on_image: Callable[[], None] = lambda: None,
) -> Written:
    """Writes a data set into a new folder, which is there in the end or not at all.

    Args:
        folder: where to write; it must not exist or be empty.
        format_name: one of `writable_formats`.
        tables: the splits by name, with the same classes.
        names: wanted file name of each image of each split; of names that differ in their suffix alone, or in case, all
            but the first get a number, because the annotations of many formats are files of the same name.
        link: hard links to the images instead of copies.
        on_image: called after each image.

    Raises:
        DataError: the folder is not empty or cannot be written, an image cannot be read, or a class cannot be the name
            of a folder.
    """
    check_empty(folder)
    first = next(iter(tables.values()))
    chosen = FORMATS[first.task][format_name]
    assert chosen.write is not None
    below = chosen.images.removesuffix("/{name}")
    if below != chosen.images:
        names = {split: _in_class_folders(tables[split], own) for split, own in names.items()}
    folders = {split: below.format(split=split) for split in tables}
    given, renamed = _unique_names(tables, names, folders)
    folder = full_path(folder).absolute()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, replace=False) as partial:
            written = {}
            for split, table in tables.items():
                images = partial / folders[split]
                _copy_images(table, images, given[split], link, on_image)
                written[split] = _with_names(table, images, given[split])
            return Written(chosen.write(partial, written), renamed)
    except OSError as error:
        raise DataError(f"{folder}: the data set cannot be written: {error.strerror or error}") from None


def check_empty(folder: Path) -> None:
    """Does nothing if a data set can be written to a folder.

    Raises:
        DataError: the folder is not empty, or is a file.
    """
    folder = full_path(folder)
    if folder.is_file():
        raise DataError(f"{folder}: is a file; expected a new folder to write to")
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder}: the folder is not empty; nothing is overwritten, choose a new folder")


def _with_names(table: Any, folder: Path, names: Sequence[str]) -> Any:
    """The table of the images in another folder and under other names; ids that are file names are the new ones."""
    file_names = np.array(names, np.str_)
    named = table.task == "detection" and all(is_file_name(table, row) for row in range(len(table)))
    changes = {"image_ids": file_names} if named else {}
    return replace(table, image_folder=folder, file_names=file_names, store=None, **changes)


def _copy_images(
    table: ImageTable, folder: Path, names: Sequence[str], link: bool, on_image: Callable[[], None]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    made = {folder}
    for row, name in enumerate(names):
        target = folder / name
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        if not target.exists():  # an image of two splits is there already
            _copy_image(table, row, target, link)
        on_image()


def _copy_image(table: ImageTable, row: int, target: Path, link: bool) -> None:
    if table.store is not None:
        target.write_bytes(table.read(row))
        return
    source = table.path(row)
    check_copied(table.image_folder, source)
    try:
        if link:
            os.link(source.resolve(), target)
        else:
            shutil.copyfile(source, target)
    except OSError as error:
        if not link:
            raise
        raise DataError(f"{source}: cannot be linked ({error.strerror}); copy the images, without --link") from None


def _in_class_folders(table: ImageLabels, names: Sequence[str]) -> list[str]:
    """File names below a folder for each class; folders that they had are left out."""
    for name in table.label_map.names:
        if "/" in name or "\\" in name or name.startswith("."):
            raise DataError(f"the class '{name}' cannot be the name of a folder; rename it with data.rename")
    of_label = [table.label_map.names[label] for label in table.labels.tolist()]
    return [f"{label}/{name.rpartition('/')[2]}" for label, name in zip(of_label, names, strict=True)]


def _unique_names(
    tables: Mapping[str, ImageTable], names: Mapping[str, Sequence[str]], folders: Mapping[str, str]
) -> tuple[dict[str, list[str]], int]:
    """A different name for each different image of a folder, by split; and how many are not the wanted ones."""
    image_of: dict[tuple[str, str], str] = {}
    number_of: dict[tuple[str, str], int] = {}
    given: dict[str, list[str]] = {}
    renamed = 0
    for split, table in tables.items():
        given[split] = []
        for row, name in enumerate(names[split]):
            wanted, suffix = os.path.splitext(name)
            stem = re.sub(r"(^|/)\.+(?=[^/])", r"\1_", wanted)  # readers pass over hidden files
            image, unique = str(table.path(row)), stem
            while image_of.setdefault((folders[split], unique.casefold()), image) != image:
                key = folders[split], stem.casefold()
                number_of[key] = number_of.get(key, 1) + 1
                unique = f"{stem}_{number_of[key]}"
            renamed += unique != wanted
            given[split].append(unique + suffix)
    return given, renamed
