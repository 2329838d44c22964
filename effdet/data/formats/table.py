"""From what an annotation file says to the table: images located, objects sorted by image, faulty boxes repaired.

The file formats themselves are read in the files beside this one. `effdet check` looks at tables before the repair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.image_files import MISSING, OTHER_NAME, find_images, under_other_names
from effdet.data.image_header import image_sizes
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

# Causes of repairs.
UNKNOWN_SIZE = "boxes of images whose size cannot be read dropped"
NOT_FINITE = "boxes with NaN or infinite coordinates dropped"
REVERSED = "boxes with corners in reverse order sorted"
NO_AREA = "boxes without area dropped"
OUTSIDE = "boxes outside their image dropped"
OVERHANGING = "boxes extending beyond their image clipped to it"
LISTED_TWICE = "images listed twice merged"
LEAST_SIDE = 1e-3  # pixels from which on a box has an area
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
    label_map: LabelMap,
    crowd: NDArray[np.bool_] | None = None,
    areas: NDArray[np.float64] | None = None,
    difficult: NDArray[np.bool_] | None = None,
    normalized: bool = False,
    repairs: Mapping[str, Sequence[str]] | None = None,
) -> Annotations:
    """The table of I images and of N boxes in any order, boxes as written; see `Annotations` for more on the columns.

    Rows of one file, under two ids, become one image. Sizes that the annotations lack are read from the images. Images
    that do not exist are counted; `require_images` refuses them.

    Args:
        source: file or folder that was read.
        image_folder: folder of the images.
        file_names: I names as the file spells them.
        image_ids: [I].
        sizes: [I, 2] (H, W), 0 if unknown.
        image_of_box: [N] row of the image that each box belongs to.
        boxes: [N, 4] xyxy as written.
        labels: [N].
        label_map: the classes.
        crowd: [N]; None for no crowds.
        areas: [N]; NaN, and None, use the area of the box.
        difficult: [N]; None for no difficult objects.
        normalized: whether boxes are fractions of the image's width and height.
        repairs: what the reader left out, guessed or changed, by cause: the file of each.

    Raises:
        DataError: two names stand for the same file, several files fit one name, or there are no images.
    """
    existing, missing = find_images(source, image_folder, file_names)
    rows, row_of_name = _merged(existing)
    image_of_box = row_of_name[image_of_box]
    order = np.argsort(image_of_box, kind="stable")
    sizes = _known_sizes(image_folder, [existing[row] for row in rows], sizes[rows])
    pixels = np.asarray(boxes, np.float64)[order]
    areas = np.full(len(boxes), np.nan) if areas is None else areas[order]
    with np.errstate(invalid="ignore", over="ignore"):  # what overflows is dropped and counted
        if normalized:
            of_box = sizes[image_of_box[order]].astype(np.float64)
            pixels = pixels * np.where(of_box > 0, of_box, np.nan)[:, [1, 0, 1, 0]]
        stored = pixels.astype(np.float32)
        box_areas = np.abs(pixels[:, 2] - pixels[:, 0]) * np.abs(pixels[:, 3] - pixels[:, 1])
    table = Annotations(
        source=source,
        image_folder=image_folder,
        file_names=np.array([existing[row] for row in rows], np.str_),
        image_ids=image_ids[rows],
        sizes=sizes,
        offsets=np.concatenate([[0], np.cumsum(np.bincount(image_of_box, minlength=len(rows)))]).astype(np.int64),
        boxes=stored,
        labels=labels[order],
        crowd=np.zeros(len(boxes), np.bool_) if crowd is None else crowd[order],
        areas=np.where(np.isnan(areas), box_areas, areas),
        difficult=np.zeros(len(boxes), np.bool_) if difficult is None else difficult[order],
        label_map=label_map,
    )
    other_names = under_other_names(image_folder, file_names, existing)
    for cause, places in {MISSING: missing, OTHER_NAME: other_names, **(repairs or {})}.items():
        table = table.with_repairs(cause, len(places), places)
    twice = [name for row, name in enumerate(existing) if rows[row_of_name[row]] != row]
    return table.with_repairs(LISTED_TWICE, len(twice), twice)


def check_not_only_crowds(table: Annotations) -> None:
    """Checks that a table to train on has objects that are no crowds, or none at all.

    Raises:
        DataError: all objects are crowds, which are not trained on.
    """
    if len(table.crowd) and table.crowd.all():
        raise DataError(
            f"{table.source}: all {len(table.crowd)} objects are marked as crowds (iscrowd: 1), which are not trained "
            f"on; if these are masks of single objects, set data.crowd_as_objects=true"
        )


def repair_boxes(table: Annotations, crowd_as_objects: bool = False) -> Annotations:
    """The table with valid boxes alone: corners sorted, boxes clipped to their image, others dropped; all counted.

    Args:
        table: as a reader gives it.
        crowd_as_objects: whether regions marked as crowds become ordinary objects.
    """
    faults, boxes, kept = box_faults(table)
    owners = table.image_of_label()
    for cause, faulty in faults.items():
        images = owners[faulty]
        names = (table.file_name(image) for image in images[:100].tolist())
        table = table.with_repairs(cause, len(images), names)
    if crowd_as_objects and table.crowd.any():
        table = table.with_repairs("crowds used as ordinary objects", int(table.crowd.sum()))
        table = replace(table, crowd=np.zeros_like(table.crowd))
    table = replace(table, boxes=boxes)
    return table if kept.all() else table.select(kept)


def box_faults(
    table: Annotations,
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.float32], NDArray[np.bool_]]:
    """What is wrong with the boxes of a table.

    Returns:
        Cause -> which boxes, [N], without causes that do not occur; the repaired boxes, [N, 4]; which to keep, [N].
    """
    sizes = table.sizes[table.image_of_label()]
    known = np.asarray(np.all(sizes > 0, axis=1))
    boxes = table.boxes
    finite = np.asarray(np.isfinite(boxes).all(axis=1))
    ordered = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        sides = np.abs(boxes[:, 2:] - boxes[:, :2])
    flat: NDArray[np.bool_] = finite & (sides < LEAST_SIDE).any(axis=1)
    turned = finite & ~flat & (ordered != boxes).any(axis=1)
    limits = np.where(known[:, None], sizes[:, ::-1], np.inf)
    lowest = np.where(known[:, None], 0.0, -np.inf)
    clipped = np.concatenate([np.clip(side, lowest, limits) for side in (ordered[:, :2], ordered[:, 2:])], axis=1)
    outside = finite & ~flat & ~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    kept = finite & ~flat & ~outside
    with np.errstate(invalid="ignore"):
        overhanging = kept & (np.abs(clipped - ordered) > ALLOWED_OVERHANG).any(axis=1)
    causes = {
        UNKNOWN_SIZE: ~finite & ~known,
        NOT_FINITE: ~finite & known,
        REVERSED: turned,
        NO_AREA: flat,
        OUTSIDE: outside,
        OVERHANGING: overhanging,
    }
    repaired = np.where(overhanging[:, None], clipped, ordered).astype(np.float32)
    return {cause: faulty for cause, faulty in causes.items() if faulty.any()}, repaired, kept


def _merged(existing: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First row of each different file; and, for every row, its file's number among these."""
    number_of: dict[str, int] = {}
    numbers = np.array([number_of.setdefault(name, len(number_of)) for name in existing], np.int64)
    _, first = np.unique(numbers, return_index=True)
    return first, numbers


def _known_sizes(folder: Path, names: Sequence[str], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Sizes [I, 2] (H, W) with those that are unknown read from the images; 0 where that fails."""
    unknown = np.flatnonzero((sizes <= 0).any(axis=1))
    if not len(unknown):
        return sizes
    sizes = sizes.copy()
    for row, size in zip(unknown, image_sizes([folder / names[row] for row in unknown.tolist()]), strict=True):
        sizes[row] = (0, 0) if isinstance(size, DataError) else size
    return sizes
