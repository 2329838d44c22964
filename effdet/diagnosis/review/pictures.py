"""The images of the rows of a review: a cut around each box, with the boxes of the annotations.

They are drawn in `effdet/report/review_page.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.images import decode_image
from effdet.diagnosis.review.rows import Row
from effdet.errors import DataError
from effdet.report.check_page import Picture

_SIDE = 300  # pixels along a side
_SURROUNDINGS = 3.0  # longer sides of the box along a side
_LEAST = 120  # pixels of the image along a side


def row_pictures(rows: Sequence[Row], tables: Mapping[str, Annotations]) -> list[Picture]:
    """A picture of each row; every image is decoded once."""
    pictures: dict[int, Picture] = {}
    by_image: dict[tuple[str, int], list[int]] = {}
    for number, row in enumerate(rows):
        by_image.setdefault((row.split, row.image), []).append(number)
    for (split, image), numbers in by_image.items():
        table = tables[split]
        try:
            pixels = decode_image(table.read(image), table.file_name(image), value_range=table.value_range)
        except DataError:  # removed since it was predicted
            pixels = None
        for number in numbers:
            pictures[number] = _picture(rows[number], table, pixels)
    return [pictures[number] for number in range(len(rows))]


def _picture(row: Row, table: Annotations, pixels: NDArray[np.uint8] | None) -> Picture:
    name = {"missed": f"+ {row.proposed}", "misnamed": f"{row.given} \u2192 {row.proposed}"}.get(
        row.kind, f"{row.given}?"
    )
    where = table.rows(row.image)
    boxes: list[Sequence[float]] = [
        box for number, box in enumerate(table.boxes[where].tolist(), start=1) if number != row.number
    ]
    labels = np.delete(table.labels[where], [] if row.number is None else [row.number - 1])
    names = [table.label_map.names[label] for label in labels.tolist()]
    caption = f"{row.split}: {row.file_name}"
    if pixels is None:
        return Picture(None, (3, 4), [], [], [], caption)
    left, top, right, bottom = _cut(row.box, pixels.shape[:2])
    shown = [
        ((x1 - left, y1 - top, x2 - left, y2 - top), text, marked)
        for (x1, y1, x2, y2), text, marked in zip(
            [*boxes, row.box], [*names, name], [*[False] * len(boxes), True], strict=True
        )
        if marked or (x1 < right and x2 > left and y1 < bottom and y2 > top)
    ]
    inside, texts, marks = zip(*shown, strict=True)
    size = bottom - top, right - left
    return Picture(_scaled(pixels[top:bottom, left:right]), size, inside, texts, marks, caption)


def _cut(box: Sequence[float], size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The part of an image of (H, W) around a box, as square as the image allows: left, top, right, bottom."""
    side = max(_SURROUNDINGS * max(box[2] - box[0], box[3] - box[1]), _LEAST)
    ends = []
    for low, high, length in ((box[0], box[2], size[1]), (box[1], box[3], size[0])):
        span = min(int(side), length)
        start = int(np.clip((low + high) / 2 - span / 2, 0, length - span))
        ends.append((start, start + span))
    (left, right), (top, bottom) = ends
    return left, top, right, bottom


def _scaled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from effdet.opencv import cv2

    scale = _SIDE / max(pixels.shape[:2])
    size = max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(pixels, size, interpolation=how), np.uint8)
