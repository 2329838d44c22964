"""What all readers end with: images are looked for, faulty boxes repaired and counted, rows sorted into one table.

What the files look like is the business of the readers beside this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.images import find_image
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

OUTSIDE = "boxes outside their image dropped"  # of the repairs
OVERHANGING = "boxes reaching beyond their image cut to it"
ALLOWED_OVERHANG = 1.0  # pixels by which a box may reach beyond its image and still be kept as it is


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
    """The table of I images and of N boxes in any order; see `Annotations` for what is not told here.

    Args:
        source: file or folder that was read.
        image_folder: folder of the images.
        file_names: I names as the file spells them.
        image_ids: [I].
        sizes: [I, 2] (H, W), 0 where unknown.
        image_of_box: [N] row of the image that each box belongs to.
        boxes: [N, 4] xyxy as written.
        labels: [N].
        crowd: [N].
        areas: [N]; NaN takes the area of the box.
        label_map: the classes.

    Raises:
        DataError: an image does not exist, or there are none.
    """
    found = find_images(source, image_folder, file_names)
    boxes, kept, repairs = _repair(boxes, sizes[image_of_box])
    order = np.flatnonzero(kept)
    order = order[np.argsort(image_of_box[order], kind="stable")]
    boxes, areas = boxes[order], areas[order]
    box_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    per_image = np.bincount(image_of_box[order], minlength=len(file_names))
    return Annotations(
        source=source,
        image_folder=image_folder,
        file_names=np.array(found, np.str_),
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


def find_images(source: Path, folder: Path, file_names: Sequence[str]) -> list[str]:
    """The file names in the spelling that exists, relative to `folder` where they lie in it."""
    found, missing = [], []
    for name in file_names:
        path = find_image(folder, name)
        if path is None:
            missing.append(name)
        else:
            found.append(str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path))
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{source}: {len(missing)} of {len(file_names)} images do not exist in {folder}: {some}; "
            f"correct the image folder, or take the images out of the annotations"
        )
    return found


def _repair(
    boxes: NDArray[np.float64], sizes: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], dict[str, int]]:
    """Boxes [N, 4] cut to their images of `sizes` [N, 2] (H, W); which of them to keep [N]; what was done how often."""
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
    counts = {
        "boxes with coordinates that are no numbers dropped": ~finite,
        "boxes without area dropped": flat,
        OUTSIDE: outside,
        OVERHANGING: overhanging,
    }
    repairs = {what: int(which.sum()) for what, which in counts.items() if which.any()}
    return np.where(overhanging[:, None], clipped, boxes), kept, repairs
