"""What a data set holds, in numbers: images and objects of each split, objects of each class, sizes of the boxes.

What is wrong with it is a list of findings.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.check.boxes import input_sides
from effdet.data.check.classes import class_counts
from effdet.data.check.findings import Split
from effdet.types import Letterbox

_COCO_EDGES = (32, 96)  # pixels of the original image: limits of COCO's small, medium and large objects
_INPUT_EDGES = (4, 8, 16, 32, 64, 128, 256, 512)  # pixels of the model input


def split_rows(splits: Sequence[Split]) -> list[dict[str, Any]]:
    """Images, objects, classes with labels and images without objects of every split."""
    rows = []
    for split in splits:
        table = split.table
        row: dict[str, Any] = {"name": split.name, "part": split.part, "images": len(table)}
        if isinstance(table, Annotations):
            row["objects"] = len(table.boxes)
        row["classes"] = len(np.unique(table.labels))
        if isinstance(table, Annotations):
            row["images_without_objects"] = int((np.diff(table.offsets) == 0).sum())
        rows.append(row)
    return rows


def class_histogram(splits: Sequence[Split]) -> dict[str, Any]:
    """Labels of each class in every split, most frequent first: names, K, and counts, K for each split."""
    counts = {split.name: class_counts(split.table) for split in splits}
    total: dict[str, int] = {}
    for of_split in counts.values():
        for name, count in of_split.items():
            total[name] = total.get(name, 0) + count
    names = sorted(total, key=lambda name: -total[name])
    return {"names": names, "counts": {split: [of.get(name, 0) for name in names] for split, of in counts.items()}}


def size_histograms(splits: Sequence[Split], image_size: tuple[int, int], mode: Letterbox) -> list[dict[str, Any]]:
    """How many objects of all splits are how large: as in COCO, and in pixels of the model input.

    The size of a box is the square root of its area. Crowds and faulty boxes are left out.
    """
    original, in_input = [], []
    for split in splits:
        table = split.table
        assert isinstance(table, Annotations)
        with np.errstate(invalid="ignore"):
            sides = (table.boxes[:, 2:] - table.boxes[:, :2]).astype(np.float64)
            valid = (sides > 0).all(axis=1) & np.isfinite(sides).all(axis=1) & ~table.crowd
        sizes = table.sizes[table.image_of_label()][valid]
        original.append(np.sqrt(sides[valid].prod(axis=1)))
        scaled = np.sqrt(input_sides(table.boxes[valid], sizes, image_size, mode).prod(axis=1))
        in_input.append(scaled[np.isfinite(scaled)])
    height, width = image_size
    names = ("small, below 32", "medium, 32 to 96", "large, 96 or more")
    input_names = [f"below {_INPUT_EDGES[0]}"]
    input_names += [f"{low} to {high}" for low, high in itertools.pairwise(_INPUT_EDGES)]
    input_names.append(f"{_INPUT_EDGES[-1]} or more")
    return [
        {"title": "pixels of the image, as in COCO", "bins": _binned(original, _COCO_EDGES, names)},
        {"title": f"pixels of an input of {width} x {height}", "bins": _binned(in_input, _INPUT_EDGES, input_names)},
    ]


def _binned(values: Sequence[NDArray[np.float64]], edges: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    bins = np.digitize(np.concatenate([np.empty(0), *values]), edges)
    counts = np.bincount(bins, minlength=len(names)).tolist()
    return [{"name": name, "count": count} for name, count in zip(names, counts, strict=True)]
