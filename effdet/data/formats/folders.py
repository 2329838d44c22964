"""Reader of image folders: one folder per class, whose name is the class and which holds its images.

How their names become the labels of a recipe or a model is in `classes.py`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from effdet.data.formats.classes import clean_name, ordered_names
from effdet.data.formats.listing import DEEPEST, is_folder, is_split_name
from effdet.data.formats.split_files import WHOLE, SplitFiles
from effdet.data.images import is_image_name
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.errors import DataError

_OF_LISTS = ("images", "imgs", "img", "data", "annotations", "labels")  # folders of other formats, which are no classes


def find_folders(path: Path) -> dict[str, SplitFiles]:
    """The splits of class folders at a path: SPLIT/CLASS/*.jpg, or CLASS/*.jpg for one split.

    Folders that hold folders are splits if one is named train, or if all have names of splits, such as test alone.
    """
    if not path.is_dir():
        return {}
    try:
        folders = {folder: _contents(folder) for folder in sorted(path.iterdir()) if _is_visible_folder(folder)}
        splits = {
            folder.name: SplitFiles(folder, folder)
            for folder, (inner, images, _, _) in folders.items()
            if not images and any(_images_below(folder, name)[0] for name in inner)
        }
        if {"train", "training"} & {name.lower() for name in splits} or (splits and all(map(is_split_name, splits))):
            return splits
        classes = [folder for folder in folders if folder.name.lower() not in _OF_LISTS]
        count = sum(bool(_images_below(path, folder.name)[0]) for folder in classes)
    except OSError as error:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None
    if count == 1 and any(path.glob("[!.]*.csv")):  # a list and the folder of its images
        count = 0
    return {WHOLE: SplitFiles(path, path)} if count else {}


def _is_visible_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def read_folders(files: SplitFiles) -> ImageLabels:
    """Table of the images FOLDER/CLASS/*.jpg, sub-folders of a class included.

    Classes are the names of the folders, sorted. Folders without images, images beside the class folders, names that
    begin with a dot, and files that are no images are left out and counted in the repairs.

    Args:
        files: `images` is the folder of the class folders.

    Raises:
        DataError: there are no class folders with images, or a folder cannot be read.
    """
    folder = files.images
    try:
        class_folders, stray, others, hidden = _contents(folder)
        of_class: dict[str, list[str]] = {}
        for name in class_folders:
            of_class[name], more_others, more_hidden = _images_below(folder, name)
            others, hidden = others + more_others, hidden + more_hidden
    except OSError as error:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None
    empty = [name for name, images in of_class.items() if not images]
    names = ordered_names(name for name, images in of_class.items() if images)
    if not names:
        beside = f"; {len(stray)} images lie in no class folder, such as {stray[0]}" if stray else ""
        raise DataError(f"{folder}: there are no class folders with images{beside}; expected CLASS/IMAGE.jpg")
    table = ImageLabels(
        source=folder,
        image_folder=folder,
        file_names=np.array([image for name in names for image in of_class[name]], np.str_),
        labels=np.repeat(np.arange(len(names)), [len(of_class[name]) for name in names]),
        label_map=LabelMap(tuple(map(clean_name, names)), tuple(range(len(names)))),
    )
    table = table.with_repairs("images beside the class folders left out", len(stray), stray)
    table = table.with_repairs("class folders without images left out", len(empty), empty)
    table = table.with_repairs("files that are no images left out", others)
    return table.with_repairs("hidden images and folders left out", hidden)


def _images_below(folder: Path, name: str, above: tuple[str, ...] = ()) -> tuple[list[str], int, int]:
    """Images in the folder of a class and below, sorted, relative to `folder`; and the counts of `_contents`.

    A link to one of the folders `above` counts as a file that is no image, because it would never end.
    """
    above = (*(above or (os.path.realpath(folder),)), os.path.realpath(folder / name))
    if above[-1] in above[:-1]:
        return [], 1, 0
    if len(above) > DEEPEST:
        raise DataError(f"{folder / name}: lies more than {DEEPEST} folders deep; move it up")
    folders, names, others, hidden = _contents(folder / name)
    images = [f"{name}/{image}" for image in names]
    for inner in folders:
        more_images, more_others, more_hidden = _images_below(folder, f"{name}/{inner}", above)
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
            is_image = is_image_name(entry.name)
            if entry.name.startswith("."):
                hidden += is_image or is_folder(entry)
            elif is_folder(entry):
                folders.append(entry.name)
            elif is_image:
                images.append(entry.name)
            else:
                others += 1
    return sorted(folders), sorted(images), others, hidden
