"""One XML file of Pascal VOC as plain values, from all tools that write such files.

Which files belong to a data set, and which image each is of, is decided in `voc.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

from effdet.data.formats.annotation_files import first_bytes, read_file
from effdet.data.formats.classes import clean_name
from effdet.errors import DataError

# Causes for which objects are left out or changed.
NO_NAME = "objects without a name left out"
NO_BOX = "objects without a box left out"
NO_NUMBER = "objects whose box is not made of numbers left out"
POLYGON = "polygons and rotated boxes made into boxes"
_EDGES = ("xmin", "ymin", "xmax", "ymax")

Box = tuple[float, float, float, float]


class VocObject(NamedTuple):
    """An object: its class, xyxy box as written, and whether it is marked as difficult."""

    name: str
    box: Box
    difficult: bool


class VocFile(NamedTuple):
    """Content of an XML file.

    Attributes:
        file_name: of the image; empty if the file does not say.
        image_path: of the image on the machine where the file was written; empty if the file does not say.
        size: (H, W), zeros if unknown.
        objects: those that have a name and a box.
        faults: a cause for every object that was left out or changed.
    """

    file_name: str
    image_path: str
    size: tuple[int, int]
    objects: list[VocObject]
    faults: list[str]


def is_voc(path: Path) -> bool:
    """Whether a file begins like an XML file of VOC."""
    start = first_bytes(path, 4096).replace(b"\0", b"")  # UTF-16 too
    return re.search(rb"<(\w+:)?annotation[\s>]", start) is not None


def read_voc_file(path: Path) -> VocFile:
    """Content of an XML file.

    Raises:
        DataError: the file cannot be read or is not XML.
    """
    root = _parse(path)
    folder, name = _text(root, "folder"), _text(root, "filename")
    size = _child(root, "size")
    sides = [_number(_text(size, side)) if size is not None else None for side in ("height", "width")]
    height, width = (int(side) if side is not None and 0 < side < 2**31 else 0 for side in sides)
    objects, faults = [], []
    for element in _children(root, "object"):
        found, fault = _object(element)
        if found is not None:
            objects.append(found)
        if fault is not None:
            faults.append(fault)
    path_hint = _text(root, "path") or (f"{folder}/{name}" if folder and name else "")
    return VocFile(name, path_hint, (height, width) if height and width else (0, 0), objects, faults)


def _parse(path: Path) -> ElementTree.Element:
    data = read_file(path)
    if b"<!ENTITY" in data.replace(b"\0", b""):
        raise DataError(
            f"{path}: the XML file declares entities, which can expand without limit; write the file without them"
        )
    data = data if data.startswith((b"\xff\xfe", b"\xfe\xff")) else data.removeprefix(b"\xef\xbb\xbf").lstrip()
    try:
        return ElementTree.fromstring(_recoded(data))
    except ElementTree.ParseError as error:
        line, column = error.position
        raise DataError(f"{path}: not valid XML, line {line} column {column + 1}; write the file again") from None
    except (ValueError, LookupError) as error:  # in an encoding that is not known
        raise DataError(f"{path}: the annotation file cannot be read: {error}") from None


def _recoded(data: bytes) -> bytes | str:
    """The data as text if its declared encoding is one that the XML parser lacks, such as GB2312 or Shift JIS."""
    declared = re.match(rb"<\?xml[^>]*encoding=[\"']([\w.:-]+)[\"'][^>]*\?>", data)
    if declared is None or declared[1].lower().startswith((b"utf", b"us-ascii", b"iso-8859", b"windows-125")):
        return data
    return data[declared.end() :].decode(declared[1].decode("ascii"))


def _object(element: ElementTree.Element) -> tuple[VocObject | None, str | None]:
    """The object of an element; and why it was left out or changed."""
    name = clean_name(_text(element, "name"))
    box, fault = _box(element)
    if not name:
        return None, NO_NAME if box else NO_BOX
    if box is None:
        return None, fault
    difficult = _text(element, "difficult").lower() in ("1", "1.0", "true", "yes")
    return VocObject(name, box, difficult), fault


def _box(element: ElementTree.Element) -> tuple[Box | None, str | None]:
    """Box of an object; and why there is none, or that it was made of another shape."""
    unreadable = False
    for bndbox in _children(element, "bndbox"):
        texts = [_text(bndbox, edge) for edge in _EDGES]
        edges = [edge for edge in map(_number, texts) if edge is not None]
        if len(edges) == 4:
            return (edges[0], edges[1], edges[2], edges[3]), None
        unreadable = unreadable or all(texts)
    points = _polygon(element) or _rotated_box(element)
    if points:
        xs, ys = zip(*points, strict=True)
        return (min(xs), min(ys), max(xs), max(ys)), POLYGON
    return None, NO_NUMBER if unreadable else NO_BOX


def _polygon(element: ElementTree.Element) -> list[tuple[float, float]]:
    """Corners (x, y) of the object's polygon: <x1>, <y1>, ...; <pt><x/><y/></pt>; or a text of numbers."""
    for shape in (*_children(element, "polygon"), *_children(element, "points")):
        xs = [_number(inner.text or "") for inner in shape.iter() if re.fullmatch(r"x\d*", _tag(inner))]
        ys = [_number(inner.text or "") for inner in shape.iter() if re.fullmatch(r"y\d*", _tag(inner))]
        if not xs:
            values = [_number(text) for text in re.split(r"[\s,;]+", (shape.text or "").strip())]
            xs, ys = values[::2], values[1::2]
        points = [(x, y) for x, y in zip(xs, ys, strict=False) if x is not None and y is not None]
        if len(points) == len(xs) == len(ys) and len(points) > 1:
            return points
    return []


def _rotated_box(element: ElementTree.Element) -> list[tuple[float, float]]:
    """Opposite corners of the upright box around <robndbox>: centre, sides, and an angle in radians."""
    for shape in _children(element, "robndbox"):
        values = [_number(_text(shape, tag)) for tag in ("cx", "cy", "w", "h", "angle")]
        numbers = [value for value in values if value is not None]
        if len(numbers) == 5:
            x, y, width, height, angle = numbers
            across = (abs(width * math.cos(angle)) + abs(height * math.sin(angle))) / 2
            down = (abs(width * math.sin(angle)) + abs(height * math.cos(angle))) / 2
            return [(x - across, y - down), (x + across, y + down)]
    return []


def _number(text: str) -> float | None:
    """The number that a text stands for, with a decimal point or comma; None if it stands for none."""
    text = text.strip()
    try:
        return float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        return None


def _tag(element: ElementTree.Element) -> str:
    """Tag of an element without namespace, in lower case."""
    return str(element.tag).rpartition("}")[2].lower()


def _children(element: ElementTree.Element, tag: str) -> Iterator[ElementTree.Element]:
    """The direct children of a tag: an object's parts have boxes of their own."""
    return (child for child in element if _tag(child) == tag)


def _child(element: ElementTree.Element, tag: str) -> ElementTree.Element | None:
    return next(_children(element, tag), None)


def _text(element: ElementTree.Element, tag: str) -> str:
    child = _child(element, tag)
    return "" if child is None else (child.text or "").strip()
