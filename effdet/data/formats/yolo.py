"""Reader of YOLO data sets: one text file per image, with a class index and a box in fractions of the image per line.

The layouts are in `yolo_layout.py`, data.yaml is read in `yolo_data_file.py`, the lines in `yolo_labels.py`.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.annotation_files import read_text
from effdet.data.formats.classes import clean_name
from effdet.data.formats.image_files import path_inside
from effdet.data.formats.image_names import loose_name
from effdet.data.formats.listing import Names, files_below, is_split_name, subfolder
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import LISTED_TWICE, build_table
from effdet.data.formats.yolo_data_file import (
    NAME_FILES,
    YoloDataFile,
    read_data_file,
    read_names,
)
from effdet.data.formats.yolo_labels import Labels, read_labels
from effdet.data.formats.yolo_layout import IMAGE_FOLDER, LABEL_FOLDER, common_folder, is_label_file
from effdet.data.formats.yolo_layout import find_yolo as find_yolo
from effdet.data.images import is_image_name
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

# Causes of repairs, besides those in `yolo_labels.py`.
NO_LABELS = "images without a label file used as background"
NO_IMAGE = "label files without an image left out"
SHARED = "images with the label file of another image of the same name"
MADE_UP = "class names made up, because no data.yaml or classes.txt gives them"
SAME_NAME = "class names that several class indices have, which become one class"
ABSENT = "splits whose images do not exist left out"
OTHER_COUNT = "nc differs from the number of names, which is used"


def read_yolo(files: SplitFiles) -> Annotations:
    """Table of the images of a split.

    Category ids are class indices; image ids are the file names relative to the folder of all images. An image without
    a label file, or with an empty one, has no objects.

    Args:
        files: `annotations` is data.yaml or obj.data, with the split in `member`, or a folder of label files;
            `images` is the folder of the images, `file_list` has the path of an image in each line.

    Raises:
        DataError: images or labels do not exist, a class index has no name, or labels are not of this format.
    """
    repairs: dict[str, list[str]] = defaultdict(list)
    data = read_data_file(files.annotations) if files.annotations.is_file() else None
    sources = _sources(files, data)
    images = list(_images(sources, (data.folder if data else files.images, files.images), repairs))
    if not images:
        raise DataError(f"{sources[0]}: no images; expected those of the split")
    folder = files.images
    if not all(image.startswith(os.path.join(folder, "")) for image in images):
        folder = Path(os.path.commonpath([os.path.dirname(image) for image in images]))
    rows, label_files = _label_files(files, images, repairs, all(source.is_dir() for source in sources))
    labels = read_labels(label_files, data is not None and data.keypoints)
    names = (data.names if data else {}) or _names_near(files)
    if not names:
        names = {index: str(index) for index in range(int(labels.classes.max(initial=-1)) + 1)}
        repairs[MADE_UP] += names.values()
    if data is not None:
        repairs[ABSENT] += data.absent
        if data.names and data.num_classes not in (None, len(data.names), max(data.names) + 1):
            repairs[OTHER_COUNT].append(f"{data.num_classes} and {len(data.names)}")
    indices = sorted(names)
    repeated = [name for name, count in Counter(map(clean_name, names.values())).items() if count > 1]
    repairs[SAME_NAME] += repeated
    inside = len(os.path.join(folder, ""))
    file_names = [image[inside:].replace(os.sep, "/") for image in images]
    return build_table(
        source=files.file_list or files.annotations,
        image_folder=folder,
        file_names=file_names,
        image_ids=np.array(file_names, np.str_),
        sizes=np.zeros((len(images), 2), np.int32),
        image_of_box=rows[labels.file_of],
        boxes=labels.boxes,
        labels=_class_labels(labels, indices, label_files),
        label_map=LabelMap(tuple(names[index] for index in indices), tuple(indices)),
        normalized=True,
        repairs={**repairs, **labels.repairs},
    )


def _sources(files: SplitFiles, data: YoloDataFile | None) -> list[Path]:
    """Folders and lists of the images of a split: those that data.yaml names, unless others are given."""
    own = data.sources.get(files.member or "", []) if data else []
    if own and files.file_list is None and common_folder(own) == files.images:
        return own
    return [files.file_list or files.images]


def _images(sources: Sequence[Path], folders: Sequence[Path], repairs: dict[str, list[str]]) -> Iterator[str]:
    """Paths of the images of some folders, and of lists that are relative to `folders`, each once."""
    seen: set[str] = set()
    for source in sources:
        for path in _below(source) if source.is_dir() else _listed(source, (*folders, source.parent)):
            if path in seen:
                repairs[LISTED_TWICE].append(os.path.basename(path))
            else:
                seen.add(path)
                yield path


def _below(folder: Path) -> list[str]:
    return [os.path.join(folder, name) for name in files_below(folder) if is_image_name(name)]


def _listed(path: Path, folders: Sequence[Path]) -> list[str]:
    """Paths of the images of a list, whose lines are relative to one of the folders or end like a path in the first."""
    lines = [line.strip().replace("\\", "/") for line in read_text(path, "list of images").splitlines()]
    names: Names | None = None
    line_of: dict[str, str] = {}
    images, missing = [], []
    for line in filter(None, lines):
        exact = _in_one_of(folders, line)
        if exact is not None:
            images.append(exact)
            continue
        names = names or Names(name for name in files_below(folders[0]) if is_image_name(name))
        found = names.exact(line)[:1] or names.nearest(line)
        if not found:
            missing.append(line)
            continue
        image = os.path.normpath(os.path.join(folders[0], found[0]))
        if len(found) > 1:
            raise DataError(f"{path}: '{line}' may be {found[0]} or {found[1]}; write the path of the image")
        if line_of.setdefault(image, line) != line:
            raise DataError(f"{path}: '{line_of[image]}' and '{line}' would both be {image}; write paths that exist")
        images.append(image)
    if missing:
        outside = next((line for line in missing if os.path.isfile(os.path.join(folders[0], line))), None)
        if outside is not None:
            raise DataError(
                f"{path}: {outside} is no image in {folders[0]}; a list names images below that folder, so set "
                f"data.train.images=FOLDER (or data.val.images) to one that has all of them, or remove the line"
            )
        examples = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{path}: {len(missing)} of {len(missing) + len(images)} images do not exist in {folders[0]}: {examples}; "
            f"correct the paths, or remove the lines"
        )
    return images


def _in_one_of(folders: Sequence[Path], line: str) -> str | None:
    """The path of the image that a line names, if it is in one of the folders or below."""
    for folder in folders if is_image_name(line) else ():
        if os.path.isfile(os.path.join(folder, line)):
            inside = path_inside(folder, line)
            if inside is not None:
                return os.path.normpath(os.path.join(folder, inside))
    return None


def _label_files(
    files: SplitFiles, images: Sequence[str], repairs: dict[str, list[str]], whole: bool
) -> tuple[NDArray[np.int64], list[str]]:
    """The label files of the images: the row of the image of each, [F], and their paths.

    Args:
        files: as `read_yolo` has them.
        images: paths of the images.
        repairs: where to count what is missing.
        whole: whether the images are all of their folders, so that other label files have no image.
    """
    folder_of: dict[str, tuple[str, dict[str, str]]] = {}  # with the names there, by how they are compared
    image_of: dict[str, str] = {}
    rows, paths = [], []
    for row, image in enumerate(images):
        folder, name = os.path.split(image)
        if folder not in folder_of:
            place = _label_folder(files, Path(folder))
            there = _names_of_files(place)
            folder_of[folder] = str(place), {**{loose_name(one): one for one in there}, **{one: one for one in there}}
        place_name, present = folder_of[folder]
        label = os.path.splitext(name)[0] + ".txt"
        label = present.get(label) or present.get(loose_name(label), "")
        if not label:
            repairs[NO_LABELS].append(name)
            continue
        path = os.path.join(place_name, label)
        other = image_of.setdefault(path, image)
        if os.path.dirname(other) != folder:
            raise DataError(f"{path}: the labels may be of {other} or {image}; put them into folders like the images")
        if other != image:
            repairs[SHARED].append(name)
        rows.append(row)
        paths.append(path)
    if not paths:
        looked = ", ".join(list(dict.fromkeys(place for place, _ in folder_of.values()))[:3])
        raise DataError(
            f"{files.file_list or files.annotations}: none of {len(images)} images has a label file; looked in "
            f"{looked}, expected NAME.txt for NAME.jpg"
        )
    if whole:
        present_files = {os.path.join(place, name) for place, names in folder_of.values() for name in names.values()}
        if files.annotations.is_dir():
            present_files |= {os.path.join(files.annotations, name) for name in files_below(files.annotations)}
        unused = sorted(file for file in present_files - image_of.keys() if is_label_file(file))
        repairs[NO_IMAGE] += [os.path.basename(file) for file in unused]
    return np.array(rows, np.int64), paths


def _names_of_files(folder: Path) -> list[str]:
    """What is in a folder; nothing if there is no such folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DataError(f"{folder}: the folder of labels cannot be read: {error.strerror}") from None


def _label_folder(files: SplitFiles, folder: Path) -> Path:
    """The folder with the labels of the images in `folder`: below that of all labels, or with labels for images."""
    if files.annotations.is_dir():
        if folder.is_relative_to(files.images):
            place = files.annotations / folder.relative_to(files.images)
            if place.is_dir():
                return place
        if files.annotations != files.images:
            return files.annotations
    for parent in (folder, *folder.parents):
        if parent.name.lower() == IMAGE_FOLDER:
            labels = subfolder(parent.parent, [LABEL_FOLDER])
            if labels is not None and (labels / folder.relative_to(parent)).is_dir():
                return labels / folder.relative_to(parent)
            break
    return folder


def _names_near(files: SplitFiles) -> dict[int, str]:
    """Class names of a file near the labels or images, such as classes.txt; empty if there is none."""
    for start in dict.fromkeys([files.annotations, files.images]):
        folder = start.parent if start.is_file() else start
        while True:
            names = _names_in(folder)
            if names:
                return names
            name = folder.name.lower()
            if not (name in (IMAGE_FOLDER, LABEL_FOLDER) or is_split_name(name) or name.startswith("obj_")):
                break
            folder = folder.parent
    return {}


def _names_in(folder: Path) -> dict[int, str]:
    for name in NAME_FILES:
        if (folder / name).is_file():
            return read_names(folder / name)
    for name in ("data.yaml", "dataset.yaml"):
        if (folder / name).is_file():
            return read_data_file(folder / name).names
    others = sorted(folder.glob("[!.]*.names"))
    return read_names(others[0]) if len(others) == 1 else {}


def _class_labels(labels: Labels, indices: Iterable[int], paths: Sequence[str]) -> NDArray[np.int64]:
    """Label of every object, [N]."""
    label_of = {index: label for label, index in enumerate(indices)}
    known = np.array([index in label_of for index in labels.classes.tolist()], np.bool_)
    if not known.all():
        first = int(np.argmin(known))
        raise DataError(
            f"{paths[labels.file_of[first]]}: line {labels.lines[first]} has the class index {labels.classes[first]}, "
            f"but there are {len(label_of)} class names, with the indices {_listed_indices(label_of)}; add the name, "
            f"or correct the line"
        )
    return np.array([label_of[index] for index in labels.classes.tolist()], np.int64)


def _listed_indices(indices: Iterable[int]) -> str:
    ordered = list(indices)
    whole = ordered == list(range(len(ordered)))
    return f"0 to {len(ordered) - 1}" if whole and len(ordered) > 1 else ", ".join(map(str, ordered))
