"""Reader of Pascal VOC annotations: one XML file per image, and a list of the images of a split.

Boxes are used as written: VOC's own tools count pixels from 1, most others from 0, and the files do not say which.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.formats.classes import clean_name, ordered_names
from effdet.data.formats.image_files import find_image
from effdet.data.formats.split_files import WHOLE, SplitFiles
from effdet.data.formats.table import build_table
from effdet.data.images import IMAGE_SUFFIXES
from effdet.data.label_map import LabelMap
from effdet.errors import DataError


def find_voc(path: Path) -> dict[str, SplitFiles]:
    """The splits of a VOC data set at a path: the lists in ImageSets/Main/, or a folder of XML files."""
    annotations, images = path / "Annotations", path / "JPEGImages"
    lists = sorted((path / "ImageSets" / "Main").glob("[!.]*.txt"))
    if annotations.is_dir() and images.is_dir():
        splits = {file.stem: SplitFiles(annotations, images, file) for file in lists}
        return splits or {WHOLE: SplitFiles(annotations, images)}
    return {WHOLE: SplitFiles(path, path)} if path.is_dir() and any(path.glob("[!.]*.xml")) else {}


def read_voc(files: SplitFiles) -> Annotations:
    """Table of the images of a list, or of a folder of XML files.

    Classes are the names in the files, sorted. Objects marked as difficult are kept as ordinary ones. Image ids are the
    names of the XML files without suffix, category ids 1..K.

    Args:
        files: `images` is the folder of the images, `annotations` that of the XML files; `file_list` has the name of an
            image in each line, without suffix; a second column, as in the lists of single classes, is ignored.

    Raises:
        DataError: a file is missing or broken, or there are no images.
    """
    annotation_folder, image_folder, image_list = files.annotations, files.images, files.file_list
    source = image_list or annotation_folder
    stems = _read_list(image_list, annotation_folder) if image_list else _all_stems(annotation_folder)
    contents = [_read_xml(annotation_folder / f"{stem}.xml") for stem in stems]
    names = [clean_name(name) for content in contents for name in content.names]
    classes = ordered_names(names)
    label_of = {name: label for label, name in enumerate(classes)}
    boxes = np.array([box for content in contents for box in content.boxes], np.float64).reshape(-1, 4)
    table = build_table(
        source=source,
        image_folder=image_folder,
        file_names=[_image_name(image_folder, stem, file) for stem, file in zip(stems, contents, strict=True)],
        image_ids=np.array(stems, np.str_),
        sizes=np.array([content.size for content in contents], np.int32).reshape(-1, 2),
        image_of_box=np.repeat(np.arange(len(contents)), [len(content.boxes) for content in contents]),
        boxes=boxes,
        labels=np.array([label_of[name] for name in names], np.int64),
        label_map=LabelMap(classes, tuple(range(1, len(classes) + 1))),
    )
    unused = 0 if image_list else _num_without_xml(image_folder, set(stems))
    return table.with_repairs("images without an XML file left out", unused)


@dataclass(frozen=True)
class _File:
    """Content of an XML file: `names` and `boxes` of its objects, (H, W) or zeros, and the image's name or nothing."""

    path: Path
    file_name: str
    size: tuple[int, int]
    names: list[str]
    boxes: list[tuple[float, ...]]


def _read_xml(path: Path) -> _File:
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file; every image of the list needs one") from None
    except ElementTree.ParseError as error:
        line, column = error.position
        raise DataError(f"{path}: not valid XML, line {line} column {column + 1}; write the file again") from None
    except (OSError, ValueError, LookupError) as error:  # unreadable, or in an encoding that is not known
        raise DataError(f"{path}: the annotation file cannot be read: {error}") from None
    height, width = (root.findtext(f"size/{side}", "").strip() for side in ("height", "width"))
    names, boxes = [], []
    for element in root.iter("object"):
        names.append(_text(path, element, "name"))
        boxes.append(tuple(_number(path, element, f"bndbox/{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")))
    size = (int(height), int(width)) if height.isdecimal() and width.isdecimal() else (0, 0)
    size = size if max(size) < 2**31 else (0, 0)
    return _File(path, root.findtext("filename", "").strip(), size, names, boxes)


def _text(path: Path, element: ElementTree.Element, tag: str) -> str:
    text = element.findtext(tag, "").strip()
    if not text:
        raise DataError(f"{path}: an object has no <{tag.replace('/', '><')}>; every object needs one")
    return text


def _number(path: Path, element: ElementTree.Element, tag: str) -> float:
    text = _text(path, element, tag)
    try:
        return float(text)
    except ValueError:
        raise DataError(f"{path}: <{tag.split('/')[-1]}> is '{text}'; expected a number of pixels") from None


def _read_list(image_list: Path, annotation_folder: Path) -> list[str]:
    """Names of the images of a list, without folder and extension."""
    try:
        lines = image_list.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DataError(f"{image_list}: no such list of images; check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{image_list}: the list of images cannot be read: {error}") from None
    stems = []
    for line in filter(None, map(str.strip, lines)):
        whole = _stem(line)
        first = _stem(re.sub(r"\s+-?[01]$", "", line))
        stems.append(first if first == whole or not (annotation_folder / f"{whole}.xml").is_file() else whole)
    if not stems:
        raise DataError(f"{image_list}: the list is empty; expected the name of an image in each line")
    stem, count = Counter(stems).most_common(1)[0]
    if count > 1:
        raise DataError(f"{image_list}: '{stem}' is listed {count} times; keep one")
    return stems


def _stem(line: str) -> str:
    name = PurePosixPath(line.replace("\\", "/")).name
    known = (".xml", *IMAGE_SUFFIXES)
    return name[: name.rindex(".")] if name.lower().endswith(known) else name


def _all_stems(annotation_folder: Path) -> list[str]:
    stems = sorted(path.stem for path in annotation_folder.glob("[!.]*.xml"))
    if not stems:
        raise DataError(f"{annotation_folder}: no XML files; expected one for each image")
    return stems


def _num_without_xml(image_folder: Path, stems: set[str]) -> int:
    return sum(
        path.suffix.lower() in IMAGE_SUFFIXES and path.stem not in stems for path in image_folder.glob("[!.]*.*")
    )


def _image_name(folder: Path, stem: str, file: _File) -> str:
    """Name of the image of an XML file: its `filename`, unless only the name of the XML file itself fits an image."""
    same = _stem(file.file_name) == stem and find_image(folder, file.file_name) is not None
    if not same and find_image(folder, stem) is not None:
        return stem
    return file.file_name or stem
