"""Where the files of a Pascal VOC data set are: the devkit's layout, and those of other tools that write VOC.

What is in the XML files and in the lists is read in `voc.py`.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path

from effdet.data.formats.annotation_files import first_line
from effdet.data.formats.listing import files_below, is_split_name, subfolder, subfolders
from effdet.data.formats.split_files import WHOLE, SplitFiles
from effdet.data.formats.voc_xml import is_voc
from effdet.data.images import is_image_name
from effdet.errors import DataError

ANNOTATION_FOLDERS = ("annotations", "annotation", "xml", "xmls", "labels", "label")
IMAGE_FOLDERS = ("jpegimages", "images", "image", "img", "imgs", "data")
_FILES_TRIED = 10  # XML files that are looked at to know whether a folder is of VOC


def find_voc(path: Path) -> dict[str, SplitFiles]:
    """The splits of a VOC data set at a path, or in its one folder such as VOCdevkit/VOC2012.

    Recognized are the devkit's lists in ImageSets/Main/, XML files beside the images or in a folder of their own, and
    either of these in a folder for each split.

    Raises:
        DataError: there are several data sets, such as VOC2007 and VOC2012.
    """
    if not path.is_dir():
        return {}
    inside = [folder for folder in subfolders(path) if _is_devkit(folder)]
    for folder in subfolders(path):
        if folder.name.lower().startswith("voc") and folder not in inside:
            inside += [inner for inner in subfolders(folder) if _is_devkit(inner)]
    inside = [folder for folder in inside if not is_split_name(folder.name)]
    if len(inside) > 1:
        names = ", ".join(folder.relative_to(path).as_posix() for folder in inside)
        raise DataError(f"{path}: several VOC data sets: {names}; set data.root to one of them")
    return find_voc(inside[0]) if inside else _splits(path)


def _is_devkit(folder: Path) -> bool:
    return (
        subfolder(folder, ANNOTATION_FOLDERS[:1]) is not None
        and subfolder(folder, ("imagesets", *IMAGE_FOLDERS[:1])) is not None
        and _has_xml(folder)
    )


def _splits(path: Path) -> dict[str, SplitFiles]:
    annotations, images = subfolder(path, ANNOTATION_FOLDERS), subfolder(path, IMAGE_FOLDERS)
    if annotations is not None and _has_xml(annotations):
        images = images or path
        by_list = {file.stem: SplitFiles(annotations, images, file) for file in _lists(path)}
        return by_list or _by_folder(annotations, images) or {WHOLE: SplitFiles(annotations, images)}
    splits = {}
    for folder in subfolders(path):
        if is_split_name(folder.name):
            files = _splits(folder).get(WHOLE)
            splits.update({folder.name: files} if files else {})
    if splits:
        return splits
    if not _has_xml(path):
        return {}
    images = path if any(map(is_image_name, files_below(path))) else subfolder(path.parent, IMAGE_FOLDERS) or path
    by_list = {file.stem: SplitFiles(path, images, file) for file in _lists(path)}
    return by_list or _by_folder(path, images) or {WHOLE: SplitFiles(path, images)}


def _by_folder(annotations: Path, images: Path) -> dict[str, SplitFiles]:
    """Splits whose XML files, and perhaps images, are in a folder for each."""
    folders = [folder for folder in subfolders(annotations) if is_split_name(folder.name) and _has_xml(folder)]
    return {folder.name: SplitFiles(folder, subfolder(images, [folder.name.lower()]) or images) for folder in folders}


def _has_xml(folder: Path) -> bool:
    files = (folder / name for name in files_below(folder) if name.lower().endswith(".xml"))
    return any(map(is_voc, itertools.islice(files, _FILES_TRIED)))


def _lists(path: Path) -> list[Path]:
    """The lists of the images of a split, without those of single classes, such as aeroplane_train.txt."""
    image_sets = subfolder(path, ["imagesets"])
    main = None if image_sets is None else subfolder(image_sets, ["main"])
    for folder in (main, image_sets, path):
        if folder is not None:
            files = sorted(folder.glob("[!.]*.txt"))
            if folder == path:
                files = [file for file in files if is_split_name(file.stem)]
            stems = {file.stem for file in files}
            if files:
                return [file for file in files if not _is_of_one_class(file, stems)]
    return []


def _is_of_one_class(file: Path, stems: set[str]) -> bool:
    """Whether a list is of the images with and without one class, marked by 1 and -1."""
    ends = (file.stem[match.end() :] for match in re.finditer("_", file.stem))
    if not any(end in stems for end in ends):
        return False
    return re.search(r"\s-?[01]$", first_line(file)) is not None
