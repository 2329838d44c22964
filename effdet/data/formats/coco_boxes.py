"""Boxes of the objects of a COCO file: as written, or those of their masks.

Masks are used for nothing else. What is wrong with boxes is looked at in `table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.formats.coco_values import as_integer
from effdet.errors import DataError

FROM_MASKS = "boxes made from masks, because the objects have none"
WITHOUT_BOX = "objects without box and mask left out"


def read_boxes(
    path: Path, annotations: Mapping[int, Mapping[str, Any]], names: Sequence[str], repairs: dict[str, list[str]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes [N, 4] xyxy, and which objects have one, [N].

    Args:
        path: the file, for messages.
        annotations: the N objects by their numbers in the file.
        names: [N] file name of the image of each.
        repairs: gets the causes `FROM_MASKS` and `WITHOUT_BOX` with the files concerned.

    Raises:
        DataError: a box is none of four numbers.
    """
    boxes = _as_array([row.get("bbox") for row in annotations.values()])
    if boxes is None:
        boxes = np.array([_box(path, number, row.get("bbox")) for number, row in annotations.items()], np.float64)
    empty = (boxes == 0).all(axis=1)  # [0, 0, 0, 0] stands for a box that nobody has written
    lacking = np.flatnonzero(empty | np.isnan(boxes).all(axis=1))
    boxed = np.ones(len(boxes), np.bool_)
    rows = list(annotations.values())
    for index in lacking.tolist():
        of_mask = mask_box(rows[index].get("segmentation"))
        if of_mask is not None:
            boxes[index] = of_mask
            repairs.setdefault(FROM_MASKS, []).append(names[index])
        elif not empty[index]:
            boxed[index] = False
            repairs.setdefault(WITHOUT_BOX, []).append(names[index])
    with np.errstate(invalid="ignore", over="ignore"):
        boxes[:, 2:] += boxes[:, :2]
    return boxes, boxed


def mask_box(mask: Any) -> tuple[float, float, float, float] | None:
    """Box (x, y, width, height) around a mask: polygons or a run-length encoding; None for anything else."""
    if isinstance(mask, dict):
        return _encoded_box(mask)
    if not isinstance(mask, list) or not mask:
        return None
    try:
        numbers = np.concatenate([np.asarray(polygon, np.float64).ravel() for polygon in mask])
    except (TypeError, ValueError, OverflowError):
        return None
    if len(numbers) < 2 or len(numbers) % 2 or not np.isfinite(numbers).all():
        return None
    points = numbers.reshape(-1, 2)
    (left, top), (right, bottom) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return left, top, right - left, bottom - top


def _encoded_box(mask: Mapping[str, Any]) -> tuple[float, float, float, float] | None:
    """Box of a mask as run-length encoding, compressed (a text) or not (a list of counts)."""
    from pycocotools import mask as encoding

    size, counts = mask.get("size"), mask.get("counts")
    sides = [as_integer(side) for side in size] if isinstance(size, list) and len(size) == 2 else []
    height, width = (side if side is not None and 0 < side < 2**31 else 0 for side in sides or (None, None))
    if not height or not width:
        return None
    if isinstance(counts, list):
        try:
            runs = np.array(counts, np.uint32)
        except (TypeError, ValueError, OverflowError):
            return None
        if runs.ndim != 1 or int(runs.sum(dtype=np.uint64)) > height * width:
            return None
        coded = encoding.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    elif isinstance(counts, str) and _is_whole(counts):
        coded = {"size": [height, width], "counts": counts.encode("ascii")}
    else:
        return None
    left, top, box_width, box_height = encoding.toBbox(coded).tolist()
    return (left, top, box_width, box_height) if box_width > 0 and box_height > 0 else None


def _is_whole(counts: str) -> bool:
    """Whether a compressed encoding has only its characters and ends with a number; the decoder does not check that."""
    return bool(counts) and all("0" <= letter <= "o" for letter in counts) and not (ord(counts[-1]) - 48) & 0x20


def _as_array(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """The boxes [N, 4] if all of them are four numbers."""
    try:
        boxes = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    return boxes if boxes.shape == (len(values), 4) else np.empty((0, 4)) if not values else None


def _box(path: Path, number: int, value: Any) -> list[float]:
    """A box as four numbers; NaN for one that is not written."""
    if value is None or value == []:
        return [np.nan] * 4
    if isinstance(value, list) and len(value) == 4:
        try:
            return [np.nan if side is None else float(side) for side in value]
        except (TypeError, ValueError, OverflowError):
            pass
    raise DataError(f"{path}: annotations[{number}] has the bbox {value!r}; expected [x, y, width, height]")
