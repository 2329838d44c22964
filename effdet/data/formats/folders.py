"""Reader of image folders: one folder per class, whose name is the class and in which its images lie.

Names that begin with a dot are left out.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from effdet.config import ClassificationData
from effdet.data.formats.classes import match_classes
from effdet.data.formats.location import locate, require_folder, root_folder, split_section
from effdet.data.images import IMAGE_SUFFIXES
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.errors import DataError
from effdet.types import Part


def read_folders_split(data: ClassificationData, split: Part, label_map: LabelMap | None = None) -> ImageLabels:
    """Table of a split: the class folders in SPLIT/; see `read_table`."""
    section = split_section(data, split)
    root = root_folder(data, section.images, f"data.{split}.images=FOLDER")
    folder = locate(section.images, root, section.split or split)
    settings = f"data.{split}.images=FOLDER, data.{split}.split=NAME"
    return read_folders(require_folder(folder, "folder of class folders", settings), label_map)


def read_folders(folder: Path, label_map: LabelMap | None = None) -> ImageLabels:
    """Table of the images FOLDER/CLASS/*.jpg, sub-folders of a class included.

    Names that begin with a dot are ignored; other files that are no images are counted in the repairs.

    Args:
        folder: folder of the class folders.
        label_map: classes that the labels must follow; not all of them need a folder. None takes the names of the
            folders, sorted.

    Raises:
        DataError: there are no class folders, one is empty or not among the classes of `label_map`, images lie beside
            them, or there is only one class.
    """
    try:
        class_folders, images, others = _contents(folder)
        if images:
            raise DataError(
                f"{folder}: {len(images)} images lie in no class folder, such as {images[0]}; "
                f"expected CLASS/{images[0]}, move every image into the folder of its class"
            )
        if not class_folders:
            raise DataError(f"{folder}: there are no class folders; expected a folder of images for each class")
        label_map, label_of = match_classes(folder, class_folders, label_map)
        file_names: list[str] = []
        labels: list[int] = []
        num_others = len(others)
        for name, label in label_of.items():
            found, left_out = _images_below(folder, name)
            if not found:
                raise DataError(f"{folder / name}: the class folder has no images; add some or remove the folder")
            file_names += found
            labels += [label] * len(found)
            num_others += left_out
    except OSError as error:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None
    return ImageLabels(
        source=folder,
        image_folder=folder,
        file_names=np.array(file_names, np.str_),
        labels=np.array(labels, np.int64),
        label_map=label_map,
        repairs={"files that are no images left out": num_others} if num_others else {},
    )


def _images_below(folder: Path, name: str) -> tuple[list[str], int]:
    """Images in the folder of a class and below, sorted, relative to `folder`; and how many other files lie there."""
    class_folders, images, others = _contents(folder / name)
    found, num_others = [f"{name}/{image}" for image in images], len(others)
    for inner in class_folders:
        images_there, others_there = _images_below(folder, f"{name}/{inner}")
        found += images_there
        num_others += others_there
    return found, num_others


def _contents(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Sorted names of the folders, images and other files in a folder, hidden ones left out."""
    folders: list[str] = []
    images: list[str] = []
    others: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            kind = folders if entry.is_dir() else images if entry.name.lower().endswith(IMAGE_SUFFIXES) else others
            kind.append(entry.name)
    return sorted(folders), sorted(images), sorted(others)
