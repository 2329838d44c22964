"""The label files of YOLO as numbers: a line for each object, with its class and its box or polygon.

Which files there are and which images they are of is decided in `yolo.py`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.formats.annotation_files import read_file
from effdet.errors import DataError

# Causes for which lines are left out or changed.
POLYGONS = "polygons made into boxes"
CONFIDENCES = "confidences after a box ignored"
REPEATED = "repeated label lines left out"
FAULTY = "label lines that are neither box nor polygon left out"
TOO_LARGE = "label lines with values far above 1 left out"
_LARGEST = 2.0  # fractions of an image are at most 1; a box may extend beyond the image, but not by another image
_CHUNK = 256  # files that a thread reads at a time
_EXPECTED = "expected 'class x_center y_center width height', the last four as fractions of the image's size"


class Labels(NamedTuple):
    """Objects of all label files.

    Attributes:
        file_of: [N] number of the file of each object.
        lines: [N] number of its line, from 1.
        classes: [N] class index.
        boxes: [N, 4] xyxy as fractions of the image's width and height.
        repairs: cause -> "FILE:LINE" of each line that was left out or changed.
    """

    file_of: NDArray[np.int64]
    lines: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    repairs: dict[str, list[str]]


def read_labels(paths: Sequence[str], keypoints: bool = False) -> Labels:
    """Objects of label files, in the order of the files and lines.

    Args:
        paths: the files.
        keypoints: whether lines have keypoints after the box; otherwise more than six numbers are a polygon.

    Raises:
        DataError: a file cannot be read, all its lines are in pixels, or no line of all files is a label.
    """
    repairs: dict[str, list[str]] = {cause: [] for cause in (POLYGONS, CONFIDENCES, REPEATED, FAULTY, TOO_LARGE)}
    rows: list[tuple[int, int, int]] = []
    values: list[float] = []
    for number, text in enumerate(_read_texts(paths)):
        first, too_large = len(rows), 0
        seen: set[str] = set()
        for line_number, line in enumerate(text.splitlines(), 1):
            fields = line.split()
            if not fields:
                continue
            if line in seen:
                repairs[REPEATED].append(_place(paths[number], line_number))
                continue
            seen.add(line)
            label, cause = _label(fields if "," not in line else _without_commas(line).split(), keypoints)
            if cause is not None:
                repairs[cause].append(_place(paths[number], line_number))
                too_large += cause == TOO_LARGE
            if label is not None:
                rows.append((number, line_number, label[0]))
                values += label[1]
        if too_large and len(rows) == first:
            raise DataError(f"{paths[number]}: the boxes are in pixels; {_EXPECTED}")
    if repairs[FAULTY] and not rows:
        raise DataError(f"{repairs[FAULTY][0]}: no line of {len(paths)} label files is a label; {_EXPECTED}")
    columns = np.array(rows, np.int64).reshape(-1, 3)
    boxes = _corners(np.array(values, np.float64).reshape(-1, 4))
    return Labels(columns[:, 0], columns[:, 1], columns[:, 2], boxes, repairs)


def _label(fields: list[str], keypoints: bool) -> tuple[tuple[int, Sequence[float]] | None, str | None]:
    """Class, and centre and sides of the box, of a line; and why it was left out or changed."""
    try:
        first, *numbers = map(float, fields)
    except ValueError:
        return None, FAULTY
    if not first.is_integer() or abs(first) > 2**31 or len(numbers) < 4:
        return None, FAULTY
    cause = None
    if len(numbers) > 4:
        if keypoints:
            numbers = numbers[:4]
        elif len(numbers) == 5:
            numbers, cause = numbers[:4], CONFIDENCES
        elif len(numbers) % 2:
            return None, FAULTY
        else:
            numbers, cause = _around(numbers), POLYGONS
    if _LARGEST < max(numbers) < math.inf:
        return None, TOO_LARGE
    return (int(first), numbers), cause


def _around(points: Sequence[float]) -> list[float]:
    """Centre and sides of the box around a polygon x, y, x, y, ..."""
    left, right, top, bottom = min(points[::2]), max(points[::2]), min(points[1::2]), max(points[1::2])
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    boxes = np.where(np.isfinite(boxes), boxes, np.nan)
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _without_commas(line: str) -> str:
    """A line whose commas separate fields, or are decimal commas where blanks separate fields."""
    has_blanks = re.search(r"[^,\s]\s+\S", line.strip()) is not None
    return re.sub(r"(?<=\d),(?=\d)", ".", line) if has_blanks else line.replace(",", " ")


def _place(path: str, line: int) -> str:
    return f"{Path(path).name}:{line}"


def _read_texts(paths: Sequence[str]) -> list[str]:
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor() as pool:
        return list(itertools.chain.from_iterable(pool.map(_read_some, chunks)))


def _read_some(paths: Sequence[str]) -> list[str]:
    texts = []
    for path in paths:
        data = read_file(path, "label file")
        try:
            texts.append(data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a text file at byte {error.start}; {_EXPECTED}") from None
    return texts
