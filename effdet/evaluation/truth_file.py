"""Reads the objects of a COCO file for an evaluation: as exact as JSON has them, and without images.

The reader for training, which locates images and repairs boxes, is in `effdet/data/formats/coco.py`; results files are
read in `results_file.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.coco import is_difficult
from effdet.data.formats.coco_json import Rows, read_lists
from effdet.data.formats.coco_values import IdLookup, as_integer, as_number, id_array
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.evaluation.matching import Objects
from effdet.plain_data import shown
from effdet.text import count_of

LARGEST = 1e9  # coordinate or score; sums and areas of larger ones could become Inf


def read_truth(path: Path, ignore_is_difficult: bool = False) -> tuple[Annotations, Objects, list[str]]:
    """The table of a COCO file, its objects in the order of the table, and lines on what was left out.

    All categories are kept, in ascending order of their ids, and all images, whether they exist or not.

    Args:
        path: the file.
        ignore_is_difficult: whether a mark `ignore` stands for VOC's mark of difficult objects.

    Raises:
        DataError: the file is missing, holds something else, or has no images, categories or objects.
    """
    images, annotations, categories = read_lists(path)
    for key, rows in (("images", images), ("annotations", annotations), ("categories", categories)):
        if not rows:
            advice = "; give a file with objects, not that of a test set without" * (key == "annotations")
            raise DataError(f"{path}: '{key}' is empty, so there is nothing to evaluate with{advice}")
    label_map, label_of = _classes(path, categories)
    image_ids = _ids(path, "images", images)
    owners = np.array(IdLookup(image_ids).rows_of(row.get("image_id") for row in annotations), np.int64)
    classes = label_of.rows_of(row.get("category_id") for row in annotations)
    labels = np.array(classes, np.int64)
    boxes = np.array([_box(row.get("bbox")) for row in annotations], np.float64)
    left_out = {
        "of images that the file does not list": owners < 0,
        "of categories that the file does not list": (owners >= 0) & (labels < 0),
        f"without a box of four numbers up to {LARGEST:,.0f}": (owners >= 0)
        & (labels >= 0)
        & ~are_usable(boxes).all(axis=1),
    }
    kept = ~np.any(list(left_out.values()), axis=0)
    if not kept.any():
        cause = max(left_out, key=lambda cause: int(np.count_nonzero(left_out[cause])))
        raise DataError(f"{path}: none of {count_of(len(kept), 'object')} can be used: they are {cause}")
    lines = [
        f"{path.name}: {count_of(int(which.sum()), 'object')} {cause} left out"
        for cause, which in left_out.items()
        if which.any()
    ]
    order = np.flatnonzero(kept)
    order = order[np.argsort(owners[order], kind="stable")]
    rows = [annotations[row] for row in order.tolist()]
    objects = _objects(rows, owners[order], labels[order], boxes[order])
    names = [str(row.get("file_name") or row.get("coco_url") or row["id"]) for row in images]
    table = Annotations(
        source=path,
        image_folder=path.parent,
        file_names=np.array(names, np.str_),
        image_ids=id_array(image_ids),
        sizes=_sizes(images),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(objects.images, minlength=len(images)))]).astype(np.int64),
        boxes=objects.boxes.astype(np.float32),
        labels=objects.labels,
        crowd=objects.crowd,
        areas=objects.areas,
        difficult=np.array([is_difficult(row) or (ignore_is_difficult and _mark(row, "ignore")) for row in rows], bool),
        label_map=label_map,
        format="coco",
    )
    return table, objects, [*lines, *_id_lines(path, rows)]


def _classes(path: Path, categories: Rows) -> tuple[LabelMap, IdLookup]:
    """All classes in ascending order of their ids, and the label of each id."""
    name_of: dict[int, str] = {}
    for value, row in zip(_ids(path, "categories", categories), categories, strict=True):
        category_id = as_integer(value)
        if category_id is None:
            raise DataError(f"{path}: a category has the id {shown(value)}; expected an integer")
        name_of.setdefault(category_id, str(row.get("name", category_id)))
    ids = sorted(name_of)
    return LabelMap(tuple(name_of[category_id] for category_id in ids), tuple(ids)), IdLookup(ids)


def _ids(path: Path, key: str, rows: Rows) -> list[Any]:
    for number, row in enumerate(rows):
        if not isinstance(row.get("id"), (int, float, str)):
            raise DataError(
                f"{path}: {key}[{number}] has the id {shown(row.get('id'))}; every entry needs a number or text"
            )
    return [row["id"] for row in rows]


def are_usable(numbers: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether numbers are finite, and not so large that sums and areas become Inf."""
    with np.errstate(invalid="ignore"):
        return np.asarray(abs(numbers) <= LARGEST)


def _box(value: Any) -> Iterable[float]:
    """The numbers of a box, NaN for those that are missing."""
    numbers = [as_number(side) for side in value] if isinstance(value, list) else []
    return numbers if len(numbers) == 4 else [np.nan] * 4


def _objects(rows: Rows, images: NDArray[np.int64], labels: NDArray[np.int64], boxes: NDArray[np.float64]) -> Objects:
    x, y, width, height = boxes.T
    box_areas = width * height
    areas = np.array([as_number(row.get("area")) for row in rows], np.float64)
    return Objects(
        images=images,
        labels=labels,
        boxes=np.stack([x, y, x + width, y + height], axis=1),
        box_areas=box_areas,
        areas=np.where(np.isfinite(areas), areas, box_areas),
        crowd=np.array([_mark(row, "iscrowd") for row in rows], np.bool_),
    )


def _mark(row: dict[str, Any], key: str) -> bool:
    """Whether a mark is set: 1, true or "1"."""
    value = as_number(row.get(key, 0))
    return value == value and value != 0


def _sizes(images: Rows) -> NDArray[np.int32]:
    """Sizes [I, 2] (H, W), 0 where the file does not say."""
    sizes = np.array([[as_number(row.get(key)) for key in ("height", "width")] for row in images], np.float64)
    with np.errstate(invalid="ignore"):
        return np.where((sizes > 0) & (sizes < 2**31), sizes, 0).astype(np.int32)


def _id_lines(path: Path, rows: Rows) -> list[str]:
    """A line if pycocotools gives other metrics, because it tells objects apart by ids from 1 up."""
    ids = [row.get("id") for row in rows]
    unusual = len(ids) - len({repr(own) for own in ids if own})
    if not unusual:
        return []
    return [
        f"{path.name}: {count_of(unusual, 'object')} without an id of its own above 0; all are counted here, but "
        f"pycocotools, which knows objects by their ids, gives other metrics"
    ]
