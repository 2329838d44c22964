"""Reader of Pascal VOC annotations: one XML file per image, and a list of the images of a split.

Boxes are used as written: VOC's own tools count pixels from 1, most others from 0, and the files do not say which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import numpy as np

from effdet.config import DetectionData
from effdet.data.annotations import Annotations
from effdet.data.formats.image_files import find_image
from effdet.data.formats.location import locate, require_file, require_folder, root_folder, split_section
from effdet.data.formats.table import build_table
from effdet.data.images import IMAGE_SUFFIXES
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.types import Part


def read_voc_split(data: DetectionData, split: Part, label_map: LabelMap | None = None) -> Annotations:
    """Table of a split: JPEGImages/, Annotations/ and the list ImageSets/Main/SPLIT.txt; see `read_table`.

    A folder of XML files given as `annotations` without a list is the whole split.
    """
    section = split_section(data, split)
    settings = f"data.{split}.images=FOLDER", f"data.{split}.annotations=FOLDER"
    root = root_folder(data, section.annotations, " and ".join(settings))
    images = require_folder(locate(section.images, root, "JPEGImages"), "image folder", settings[0])
    annotations = locate(section.annotations, root, "Annotations")
    annotations = require_folder(annotations, "folder of XML files", settings[1])
    image_list = None
    if section.split is not None or section.annotations is None:
        name = section.split or split
        given = Path(name) if "/" in name or name.endswith(".txt") else None
        image_list = locate(given, root, f"ImageSets/Main/{name}.txt")
        image_list = require_file(image_list, "list of images", f"data.{split}.split=NAME or the path of a list")
    return read_voc(images, annotations, image_list, data.classes, label_map)


def read_voc(
    image_folder: Path,
    annotation_folder: Path,
    image_list: Path | None,
    classes: Sequence[str] | None,
    label_map: LabelMap | None = None,
) -> Annotations:
    """Table of the images of a list.

    Objects marked as difficult are kept as ordinary ones. Image ids are the names of the XML files without suffix,
    category ids 1..K.

    Args:
        image_folder: folder of the images, JPEGImages in the devkit.
        annotation_folder: folder of the XML files.
        image_list: text file with the name of an image in each line, without extension; a second column, as in the
            lists of single classes, is ignored. None reads every XML file of the folder.
        classes: class names in label order; None uses the names in the files, sorted.
        label_map: classes that the labels must follow, in place of `classes`.

    Raises:
        DataError: a file is missing or broken, an object has a name that is not among the classes, or there are no
            images.
    """
    source = image_list or annotation_folder
    stems = _read_list(image_list, annotation_folder) if image_list else _all_stems(annotation_folder)
    files = [_read_xml(annotation_folder / f"{stem}.xml") for stem in stems]
    if label_map is None:
        label_map = _label_map(source, classes, {name for file in files for name in file.names})
    label_of = {name: label for label, name in enumerate(label_map.names)}
    for file in files:
        unknown = next((name for name in file.names if name not in label_of), None)
        if unknown is not None:
            raise DataError(
                f"{file.path}: unknown class '{unknown}'; known are {', '.join(label_map.names)}, "
                f"correct the name or add it to data.classes"
            )
    boxes = np.array([box for file in files for box in file.boxes], np.float64).reshape(-1, 4)
    table = build_table(
        source=source,
        image_folder=image_folder,
        file_names=[_image_name(image_folder, stem, file) for stem, file in zip(stems, files, strict=True)],
        image_ids=np.array(stems, np.str_),
        sizes=np.array([file.size for file in files], np.int32).reshape(-1, 2),
        image_of_box=np.repeat(np.arange(len(files)), [len(file.boxes) for file in files]),
        boxes=boxes,
        labels=np.array([label_of[name] for file in files for name in file.names], np.int64),
        crowd=np.zeros(len(boxes), np.bool_),
        areas=np.full(len(boxes), np.nan),
        label_map=label_map,
    )
    unused = 0 if image_list else _num_without_xml(image_folder, set(stems))
    return replace(table, repairs={**table.repairs, "images without an XML file left out": unused}) if unused else table


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


def _label_map(source: Path, classes: Sequence[str] | None, used: set[str]) -> LabelMap:
    names = tuple(sorted(used) if classes is None else classes)
    if not names:
        raise DataError(f"{source}: the images have no objects, so the classes are not known; set data.classes=[...]")
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(f"data.classes names '{double}' twice; keep one")
    return LabelMap(names, tuple(range(1, len(names) + 1)))


def _image_name(folder: Path, stem: str, file: _File) -> str:
    """Name of the image of an XML file: its `filename`, unless only the name of the XML file itself fits an image."""
    same = _stem(file.file_name) == stem and find_image(folder, file.file_name) is not None
    if not same and find_image(folder, stem) is not None:
        return stem
    return file.file_name or stem
