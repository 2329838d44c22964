"""The images that a finding is about, small and with their boxes, for a page.

They are drawn in `effdet/report/check_page.py`.
"""

from __future__ import annotations

from itertools import islice

from effdet.data.annotations import Annotations
from effdet.data.check.checking import DataCheck
from effdet.data.check.findings import Finding, Place
from effdet.data.images import small_image
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
            pixels = small_image(table.read(place.row), place.file, fact.size, _SIDE, value_range)
        except DataError:  # removed since the check
            pixels = None
    if place.detail and not marked:
        caption += f", {place.detail}"
    size = fact.size if fact.readable else (3, 4)
    return Picture(pixels, size, boxes, names, [box + 1 in marked for box in range(len(boxes))], caption)
