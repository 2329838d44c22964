"""The anchors of a recipe against the boxes of a data set: which objects they reach, by size, class and level.

Boxes are those of the plain letterbox, without augmentation. The matching itself is in `grid.py`, what to change
in `suggestion.py`, and what is printed in the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.letterbox import fitting_scale
from effdet.diagnosis.anchors.grid import AnchorGrid, Matches, make_grid, match
from effdet.errors import DataError
from effdet.models import EfficientDetSpec
from effdet.models.efficientdet import MIN_LEVEL
from effdet.types import Letterbox

# Size classes of COCO: the areas in square pixels of the original image from which on each begins.
SIZES = {"small": 0.0, "medium": 32.0**2, "large": 96.0**2}


@dataclass(frozen=True)
class Objects:
    """The objects of a data set that a detector is trained on, N of them, sorted by image.

    Attributes:
        boxes: [N, 4] float32, xyxy in pixels of the original image.
        labels: [N] int64, 0..K-1.
        areas: [N] float64, square pixels of the original, as COCO's size classes use them.
        image: [N] int64, row of the image.
        sizes: [I, 2] (H, W) of the images in pixels; 0 if unknown.
        names: of the K classes.
        crowds: crowd regions, which are not trained on and not among the objects.
        unknown: objects left out because the size of their image is unknown.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float64]
    image: NDArray[np.int64]
    sizes: NDArray[np.int32]
    names: tuple[str, ...]
    crowds: int
    unknown: int

    def __len__(self) -> int:
        return len(self.boxes)

    def chosen(self, rows: NDArray[np.int64]) -> Objects:
        """Some of the objects."""
        columns = {name: getattr(self, name)[rows] for name in ("boxes", "labels", "areas", "image")}
        return replace(self, **columns)

    def at_input(self, image_size: tuple[int, int], letterbox: Letterbox) -> NDArray[np.float32]:
        """The boxes [N, 4] in pixels of a network input of `image_size` (H, W)."""
        scales = input_scales(self.sizes, image_size, letterbox)[self.image]
        return self.boxes * scales[:, [1, 0, 1, 0]].astype(np.float32)


def objects_of(table: Annotations) -> Objects:
    """The objects of a split.

    Raises:
        DataError: it has none, or no image of known size.
    """
    image = table.image_of_label()
    known: NDArray[np.bool_] = np.all(table.sizes > 0, axis=1)
    known = known[image]
    kept = ~table.crowd & known
    if not kept.any():
        why = "no image has objects" if not len(table.crowd) else "no object is left"
        detail = "" if not len(table.crowd) else ", because all are crowds or their images cannot be read"
        raise DataError(f"{table.source}: {why}{detail}; anchors are compared with the objects of the training split")
    unknown = int(np.count_nonzero(~table.crowd & ~known))
    columns = (table.boxes[kept], table.labels[kept], table.areas[kept], image[kept])
    return Objects(*columns, table.sizes, table.label_map.names, int(np.count_nonzero(table.crowd)), unknown)


def input_scales(sizes: NDArray[np.int32], image_size: tuple[int, int], mode: Letterbox) -> NDArray[np.float64]:
    """Pixels of the input per pixel of the image (vertical, horizontal), [I, 2], as `letterbox` returns them.

    Args:
        sizes: [I, 2] (H, W) of the images; the scale of a size of 0 means nothing.
        image_size: (H, W) of the input in pixels.
        mode: how images fit it.
    """
    distinct, which = np.unique(np.maximum(sizes, 1), axis=0, return_inverse=True)
    limit = np.array(image_size)
    scale = np.array([fitting_scale((int(height), int(width)), image_size, mode) for height, width in distinct])
    fitted = np.rint(distinct * scale).clip(1, limit)
    scales: NDArray[np.float64] = (fitted / distinct)[which.reshape(-1)]
    return scales


def grid_of(spec: EfficientDetSpec) -> AnchorGrid:
    """The anchors of a detector at its own image size."""
    return make_grid(spec.image_size, spec.max_level, spec.anchor_scale, spec.anchor_aspects)


def analyze(objects: Objects, spec: EfficientDetSpec) -> dict[str, Any]:
    """What the anchors of a detector reach of some objects, as plain values; fractions are 0..1.

    "recall_ceiling" is the fraction of objects with an anchor of IoU 0.5 or more: the recall at IoU 0.5 of the anchors
    before a box is regressed. "claimed_only" is the fraction whose best anchor has less and which are trained by that
    one alone, because every object claims its best anchor. "without" is the fraction that no anchor is trained on,
    because another object claims the same one.
    """
    grid = grid_of(spec)
    boxes = objects.at_input(spec.image_size, spec.letterbox)
    matches = match(boxes, objects.image, grid)
    sides = np.sqrt((boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(axis=1))
    size = np.searchsorted(list(SIZES.values()), objects.areas, side="right") - 1
    return {
        "model": spec.name,
        "image_size": list(spec.image_size),
        "letterbox": spec.letterbox,
        "anchor_scale": spec.anchor_scale,
        "anchor_aspects": [list(aspect) for aspect in spec.anchor_aspects],
        "anchors": len(grid.anchors),
        "images": len(objects.sizes),
        "crowds": objects.crowds,
        "objects_of_unknown_size": objects.unknown,
        **_row(matches, sides, np.ones(len(objects), np.bool_)),
        "sizes": _rows(zip(SIZES, (size == number for number in range(len(SIZES))), strict=True), matches, sides),
        "classes": _rows(((name, objects.labels == label) for label, name in enumerate(objects.names)), matches, sides),
        "levels": _levels(grid, matches),
    }


def _rows(
    groups: Iterable[tuple[str, NDArray[np.bool_]]], matches: Matches, sides: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """A row for each named group of objects."""
    return [{"name": name, **_row(matches, sides, members)} for name, members in groups]


def _row(matches: Matches, sides: NDArray[np.float64], members: NDArray[np.bool_]) -> dict[str, Any]:
    """What the anchors reach of the objects of a group, [N]; None where there are no objects."""
    count = int(np.count_nonzero(members))
    columns: dict[str, Any] = {
        "recall_ceiling": matches.covered,
        "claimed_only": matches.claimed_only,
        "without": matches.without,
        "best_iou": matches.best_iou,
        "positives": matches.positives.sum(axis=1),
    }
    means = {name: float(values[members].mean(dtype=np.float64)) if count else None for name, values in columns.items()}
    low, middle, high = np.percentile(sides[members], (5, 50, 95)).tolist() if count else (None, None, None)
    return {"objects": count, **means, "side_at_input": {"5%": low, "median": middle, "95%": high}}


def _levels(grid: AnchorGrid, matches: Matches) -> list[dict[str, Any]]:
    """Stride, anchor sides in pixels and positives of each level."""
    total = max(int(matches.positives.sum()), 1)
    ends = [*grid.starts[1:].tolist(), len(grid.anchors)]
    rows = []
    for level, (start, end, shapes) in enumerate(zip(grid.starts.tolist(), ends, grid.shapes, strict=True)):
        sides = np.sqrt(shapes.prod(axis=1))
        positives = matches.positives[:, level]
        rows.append(
            {
                "name": f"P{level + MIN_LEVEL}",
                "stride": 2 ** (level + MIN_LEVEL),
                "anchor_sides": [float(sides.min()), float(sides.max())],
                "anchors": end - start,
                "positives": int(positives.sum()),
                "positive_fraction": float(positives.sum() / total),
                "objects": int(np.count_nonzero(positives)),
            }
        )
    return rows
