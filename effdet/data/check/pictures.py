"""The images that a finding is about, small and with their boxes, for a page.

They are drawn in `effdet/report/check_page.py`.
"""

from __future__ import annotations

from itertools import islice

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.check.checking import DataCheck
from effdet.data.check.findings import Finding, Place
from effdet.data.images import Image, decode_image, usable_reduction
from effdet.data.labels import ImageLabels
from effdet.errors import DataError
from effdet.report.check_page import Picture

_SIDE = 420  # pixels along the longer side


def finding_pictures(
    check: DataCheck, finding: Finding, most: int, value_range: tuple[float, float] | None = None
) -> list[list[Picture]]:
    """The images of the first places of a finding: of each one image, or two where one repeats the other.

    Args:
        check: the check.
        finding: one of its findings.
        most: images, or pairs of them.
        value_range: see `decode_image`.
    """
    of_image: dict[tuple[str, int], list[Place]] = {}
    for place in finding.places:
        if place.row is not None:
            of_image.setdefault((place.split, place.row), []).append(place)
    groups = []
    for places in islice(of_image.values(), most):
        first = places[0]
        group = [_picture(check, first, {place.box for place in places if place.box}, value_range)]
        if first.other is not None:
            group.append(_picture(check, first.other, set(), value_range, first.other.split != first.split))
        groups.append(group)
    return groups


def _picture(
    check: DataCheck,
    place: Place,
    marked: set[int],
    value_range: tuple[float, float] | None,
    name_split: bool = False,
) -> Picture:
    number = next(number for number, split in enumerate(check.splits) if split.name == place.split)
    assert place.row is not None
    table, fact = check.splits[number].table, check.facts[number][place.row]
    caption = f"{place.split}: {place.file}" if name_split else place.file
    if isinstance(table, Annotations):
        rows = table.rows(place.row)
        names = [table.label_map.names[label] for label in table.labels[rows].tolist()]
        boxes = table.boxes[rows].tolist()
    else:
        assert isinstance(table, ImageLabels)
        boxes, names = [], []
        caption += f" ({table.label_map.names[table.labels[place.row]]})"
    pixels = None
    if fact.readable:
        try:
            pixels = _small(table.read(place.row), place.file, fact.size, value_range)
        except DataError:  # removed since the check
            pixels = None
    if place.detail and not marked:
        caption += f", {place.detail}"
    size = fact.size if fact.readable else (3, 4)
    return Picture(pixels, size, boxes, names, [box + 1 in marked for box in range(len(boxes))], caption)


def _small(data: bytes, name: str, size: tuple[int, int], value_range: tuple[float, float] | None) -> Image:
    """An image of `size`, made smaller if it is large, with the same aspect ratio."""
    from effdet.opencv import cv2

    shrink = max(size) / _SIDE
    image = decode_image(data, name, usable_reduction(shrink), value_range)
    if shrink <= 1:
        return image
    small = max(1, round(size[1] / shrink)), max(1, round(size[0] / shrink))
    return np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)
