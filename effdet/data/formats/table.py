"""The last step of every reader of boxes: repair and count faulty boxes, sort all by image, and build the table.

The file formats themselves are read in the files beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.image_files import find_images
from effdet.data.label_map import LabelMap

# Kinds of repairs.
NOT_FINITE = "boxes with NaN or infinite coordinates dropped"
NO_AREA = "boxes without area dropped"
OUTSIDE = "boxes outside their image dropped"
OVERHANGING = "boxes extending beyond their image clipped to it"
ALLOWED_OVERHANG = 1.0  # pixels by which a box may extend beyond its image without being clipped


def build_table(
    source: Path,
    image_folder: Path,
    file_names: Sequence[str],
    image_ids: NDArray[Any],
    sizes: NDArray[np.int32],
    image_of_box: NDArray[np.int64],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    crowd: NDArray[np.bool_],
    areas: NDArray[np.float64],
    label_map: LabelMap,
) -> Annotations:
    """The table of I images and of N boxes in any order; see `Annotations` for more on the columns.

    Args:
        source: file or folder that was read.
        image_folder: folder of the images.
        file_names: I names as the file spells them.
        image_ids: [I].
        sizes: [I, 2] (H, W), 0 if unknown.
        image_of_box: [N] row of the image that each box belongs to.
        boxes: [N, 4] xyxy as written.
        labels: [N].
        crowd: [N].
        areas: [N]; NaN uses the area of the box.
        label_map: the classes.

    Raises:
        DataError: an image does not exist, or there are none.
    """
    existing = find_images(source, image_folder, file_names)
    boxes, kept, repairs = _repair(boxes, sizes[image_of_box])
    order = np.flatnonzero(kept)
    order = order[np.argsort(image_of_box[order], kind="stable")]
    boxes, areas = boxes[order], areas[order]
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    per_image = np.bincount(image_of_box[order], minlength=len(file_names))
    return Annotations(
        source=source,
        image_folder=image_folder,
        file_names=np.array(existing, np.str_),
        image_ids=image_ids,
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
        boxes=boxes.astype(np.float32),
        labels=labels[order],
        crowd=crowd[order],
        areas=np.where(np.isnan(areas), box_areas, areas),
        label_map=label_map,
        repairs=repairs,
    )


def _repair(
    boxes: NDArray[np.float64], sizes: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, int]]:
    """Boxes [N, 4] clipped to images of `sizes` [N, 2] (H, W); which to keep, [N]; count of each kind of repair."""
    finite: NDArray[np.bool_] = np.all(np.isfinite(boxes), axis=1)
    with np.errstate(invalid="ignore"):
        flat = finite & ~(boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    known = (sizes > 0).all(axis=1, keepdims=True)
    limits = np.where(known, sizes[:, ::-1], np.inf)
    lowest = np.where(known, 0.0, -np.inf)
    start, end = np.clip(boxes[:, :2], lowest, limits), np.clip(boxes[:, 2:], lowest, limits)
    outside = finite & ~flat & ~(end > start).all(axis=1)
    kept = finite & ~flat & ~outside
    clipped = np.concatenate([start, end], axis=1)
    with np.errstate(invalid="ignore"):
        overhanging = kept & (np.abs(clipped - boxes) > ALLOWED_OVERHANG).any(axis=1)
    counts = {NOT_FINITE: ~finite, NO_AREA: flat, OUTSIDE: outside, OVERHANGING: overhanging}
    repairs = {kind: int(which.sum()) for kind, which in counts.items() if which.any()}
    return np.where(overhanging[:, None], clipped, boxes), kept, repairs
