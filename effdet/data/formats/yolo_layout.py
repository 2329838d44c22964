"""Where the files of a YOLO data set are: as data.yaml or obj.data says, or in the usual folders.

What is in the label files is read in `yolo.py`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from effdet.data.formats.annotation_files import first_bytes, first_line
from effdet.data.formats.listing import files_below, is_split_name, subfolder, subfolders, without_suffix
from effdet.data.formats.split_files import WHOLE, SplitFiles, usual_split
from effdet.data.formats.yolo_data_file import NAME_FILES, find_data_file, read_data_file
from effdet.data.images import is_image_name
from effdet.errors import DataError

IMAGE_FOLDER, LABEL_FOLDER = "images", "labels"
_FILES_TRIED = 50  # text files that are looked at to know whether a folder has labels
_NO_LABELS = {name.lower() for name in NAME_FILES} | {"notes.txt", "requirements.txt", "license.txt", "labels.txt"}


def find_yolo(path: Path) -> dict[str, SplitFiles]:
    """The splits of a YOLO data set at a path.

    Recognized are data.yaml and obj.data; images/ and labels/ with a folder for each split or with train.txt; a folder
    for each split with images/ and labels/; and labels beside the images. The path may be data.yaml or labels/ too.

    Raises:
        DataError: the folder of the training split does not exist.
    """
    if path.is_file():
        return _described(path) if path.suffix.lower() in (".yaml", ".yml", ".data") else {}
    data_file = find_data_file(path)
    if data_file is not None:
        return _described(data_file)
    images, labels = subfolder(path, [IMAGE_FOLDER]), subfolder(path, [LABEL_FOLDER])
    if images is not None and labels is not None and _has_labels(labels):
        return _in_two_folders(path, images, labels)
    splits = {}
    for folder in subfolders(path):
        images, labels = subfolder(folder, [IMAGE_FOLDER]), subfolder(folder, [LABEL_FOLDER])
        if images is not None and labels is not None and _has_labels(labels):
            splits[folder.name] = SplitFiles(labels, images)
        elif is_split_name(folder.name) and _has_labels(folder) and _has_images(folder):
            splits[folder.name] = SplitFiles(folder, folder)
    return splits or _in_one_folder(path)


def is_label_file(name: str) -> bool:
    """Whether a file of this name may hold labels: a text file that is no list of classes or images, and no read-me."""
    base = name.rpartition("/")[2].lower()
    stem = base.removesuffix(".txt")
    return (
        base.endswith(".txt") and base not in _NO_LABELS and not stem.startswith("readme") and not is_split_name(stem)
    )


def _described(path: Path) -> dict[str, SplitFiles]:
    data = read_data_file(path)
    named = {*data.sources, *(text.partition(":")[0] for text in data.absent)}
    training = usual_split({name: SplitFiles(path, path) for name in named}, "train")
    if data.absent and training not in data.sources:
        written = ", ".join(data.absent)
        folders = ", ".join(f"{folder.name}/" for folder in subfolders(path.parent)) or "no folders"
        raise DataError(f"{path}: {written}: no such images; {path.parent} has {folders}, correct the paths")
    return {split: SplitFiles(path, common_folder(sources), None, split) for split, sources in data.sources.items()}


def common_folder(sources: Iterable[Path]) -> Path:
    """The folder that holds all of some folders and lists."""
    return Path(os.path.commonpath([source if source.is_dir() else source.parent for source in sources]))


def _in_two_folders(path: Path, images: Path, labels: Path) -> dict[str, SplitFiles]:
    of_split = {}
    for folder in subfolders(labels):
        own = subfolder(images, [folder.name.lower()])
        if own is not None:
            of_split[folder.name] = SplitFiles(folder, own)
    if not any(map(is_split_name, of_split)):  # the folders are those of cameras or days
        of_split = {}
    by_list = {file.stem: SplitFiles(labels, images, file) for file in _lists(path)}
    return of_split or by_list or {WHOLE: SplitFiles(labels, images)}


def _in_one_folder(path: Path) -> dict[str, SplitFiles]:
    """Labels beside the images; or a folder of labels alone, whose images are in the folder beside it."""
    names = list(files_below(path))
    images = {without_suffix(name) for name in names if is_image_name(name)}
    labels = [name for name in names if is_label_file(name)]
    if images:
        labels = [name for name in labels if name[:-4] in images]
    if not any(_is_label(path / name) for name in labels[:_FILES_TRIED]):
        return {}
    if images:
        by_list = {file.stem: SplitFiles(path, path, file) for file in _lists(path)}
        return by_list or {WHOLE: SplitFiles(path, path)}
    beside = path.parent
    folder = subfolder(beside, [IMAGE_FOLDER])
    if path.name.lower() == LABEL_FOLDER and folder is not None:
        return _in_two_folders(beside, folder, path)
    if beside.name.lower() == LABEL_FOLDER:
        folder = subfolder(beside.parent, [IMAGE_FOLDER])
        folder = folder and subfolder(folder, [path.name.lower()])
    return {WHOLE: SplitFiles(path, folder or path)}


def _lists(path: Path) -> list[Path]:
    """Lists of the images of a split: train.txt and the like, whose first line is the name of an image."""
    lists = []
    for file in sorted(path.glob("[!.]*.txt")):
        if is_split_name(file.stem) and is_image_name(first_line(file)):
            lists.append(file)
    return lists


def _has_images(folder: Path) -> bool:
    return any(map(is_image_name, files_below(folder)))


def _has_labels(folder: Path) -> bool:
    files = (folder / name for name in files_below(folder) if is_label_file(name))
    return any(map(_is_label, itertools.islice(files, _FILES_TRIED)))


def _is_label(path: Path) -> bool:
    """Whether the first line of a file is a class and at least four numbers."""
    start = first_bytes(path, 4096).replace(b"\0", b"").replace(b",", b" ").strip()
    fields = start.split(b"\n")[0].split()
    try:
        numbers = [float(field) for field in fields[1:]]
    except ValueError:
        return False
    has_index = fields[0].lstrip(b"\xef\xbb\xbf\xff\xfe").replace(b".0", b"").isdigit() if fields else False
    return len(numbers) == 4 or (len(numbers) > 4 and has_index)
