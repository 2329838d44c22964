"""Reader of image folders: one folder per class, whose name is the class and which holds its images.

Where the folders are is in `location.py`, how their names become labels in `classes.py`.
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

    Names that begin with a dot and files that are no images are left out and counted in the repairs.

    Args:
        folder: folder of the class folders.
        label_map: classes that the labels must follow; not all of them need a folder. None uses the names of the
            folders, sorted.

    Raises:
        DataError: there are no class folders, one is empty or not among the classes of `label_map`, images lie beside
            them, or there is only one class.
    """
    try:
        class_folders, images, others, hidden = _contents(folder)
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
        for name, label in label_of.items():
            images, more_others, more_hidden = _images_below(folder, name)
            if not images:
                raise DataError(f"{folder / name}: the class folder has no images; add some or remove the folder")
            file_names += images
            labels += [label] * len(images)
            others, hidden = others + more_others, hidden + more_hidden
    except OSError as error:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None
    repairs = {"files that are no images left out": others, "hidden images and folders left out": hidden}
    return ImageLabels(
        source=folder,
        image_folder=folder,
        file_names=np.array(file_names, np.str_),
        labels=np.array(labels, np.int64),
        label_map=label_map,
        repairs={what: count for what, count in repairs.items() if count},
    )


def _images_below(folder: Path, name: str) -> tuple[list[str], int, int]:
    """Images in the folder of a class and below, sorted, relative to `folder`; and the counts of `_contents`."""
    folders, names, others, hidden = _contents(folder / name)
    images = [f"{name}/{image}" for image in names]
    for inner in folders:
        more_images, more_others, more_hidden = _images_below(folder, f"{name}/{inner}")
        images += more_images
        others, hidden = others + more_others, hidden + more_hidden
    return images, others, hidden


def _contents(folder: Path) -> tuple[list[str], list[str], int, int]:
    """Sorted names of the folders and of the images in a folder; counts of its other files, and of hidden ones.

    Of names that begin with a dot those of images and folders are counted.
    """
    folders: list[str] = []
    images: list[str] = []
    others = hidden = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            is_image = entry.name.lower().endswith(IMAGE_SUFFIXES)
            if entry.name.startswith("."):
                hidden += is_image or entry.is_dir()
            elif entry.is_dir():
                folders.append(entry.name)
            elif is_image:
                images.append(entry.name)
            else:
                others += 1
    return sorted(folders), sorted(images), others, hidden
