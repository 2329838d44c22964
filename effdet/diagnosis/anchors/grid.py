"""IoU of boxes with the anchors of an image size, and which anchors train them, by the grid of each level.

A box is compared with the few anchors near it and not with all, so that a million boxes need seconds; the results equal
those of `effdet/losses/matching.py`. What they mean for a data set is in `coverage.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.models.anchors import anchor_boxes, anchors_per_cell, level_sizes
from effdet.models.efficientdet import MIN_LEVEL

POSITIVE_IOU = 0.5  # from which on an anchor is positive
CLAIM = 2.0  # IoU that a box is given with its best anchor: above every real one, as in the matcher
ROUNDING = 1e-4  # relative slack of a threshold, so that rounding loses no anchor
OBJECTS_AT_ONCE = 8192  # arrays of that many rows stay in the cache


class AnchorGrid(NamedTuple):
    """The anchors of an image size, level by level.

    Attributes:
        anchors: [A, 4] float32, xyxy in pixels of the network input, as the detector has them.
        sizes: rows and columns of each level.
        strides: pixels (vertical, horizontal) from a cell to the next, of each level.
        starts: [L] number of the first anchor of each level.
        shapes: [L, S, 2] float64, width and height of the S anchors of a cell.
    """

    anchors: NDArray[np.float32]
    sizes: list[tuple[int, int]]
    strides: list[tuple[float, float]]
    starts: NDArray[np.int64]
    shapes: NDArray[np.float64]

    def numbers(self, level: int, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first anchor of each cell of a level."""
        cell = row * self.sizes[level][1] + column
        numbers: NDArray[np.int64] = int(self.starts[level]) + cell * self.shapes.shape[1]
        return numbers


class Matches(NamedTuple):
    """The anchors of N objects.

    Attributes:
        best_iou: [N] float32, highest IoU with an anchor.
        positives: [N, L] int64, positive anchors of each object by level, a claimed one included.
    """

    best_iou: NDArray[np.float32]
    positives: NDArray[np.int64]

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Which objects, [N], have an anchor of IoU 0.5 or more."""
        covered: NDArray[np.bool_] = self.best_iou >= POSITIVE_IOU
        return covered

    @property
    def claimed_only(self) -> NDArray[np.bool_]:
        """Which objects, [N], are trained by the anchor that they claim and by no other: its IoU is below 0.5."""
        return ~self.covered & ~self.without

    @property
    def without(self) -> NDArray[np.bool_]:
        """Which objects, [N], have no positive anchor: another object has theirs."""
        without: NDArray[np.bool_] = self.positives.sum(axis=1) == 0
        return without


def make_grid(
    image_size: tuple[int, int], max_level: int, scale: float, aspects: Sequence[tuple[float, float]]
) -> AnchorGrid:
    """The anchors of an image size; the arguments are those of `anchor_boxes`."""
    anchors = anchor_boxes(image_size, MIN_LEVEL, max_level, scale, aspects).numpy()
    sizes = level_sizes(image_size, MIN_LEVEL, max_level)
    per_cell = anchors_per_cell(aspects)
    starts = np.cumsum([0, *(rows * columns * per_cell for rows, columns in sizes)])[:-1]
    first = np.stack([anchors[start : start + per_cell] for start in starts]).astype(np.float64)
    strides = [(image_size[0] / rows, image_size[1] / columns) for rows, columns in sizes]
    return AnchorGrid(anchors, sizes, strides, starts, first[..., 2:] - first[..., :2])


def best_overlaps(boxes: NDArray[np.float32], grid: AnchorGrid) -> NDArray[np.float32]:
    """Highest IoU of each box with the anchors of each shape of a cell, [N, S], over all levels.

    Among anchors of one shape the IoU falls with the distance of the centres along each axis, so the nearest cell has
    the best.

    Args:
        boxes: [N, 4] xyxy in pixels of the network input.
        grid: the anchors.
    """
    best = np.zeros((len(boxes), grid.shapes.shape[1]), np.float32)
    for start in range(0, len(boxes), OBJECTS_AT_ONCE):
        some = boxes[start : start + OBJECTS_AT_ONCE]
        centres = (some[:, :2] + some[:, 2:]).astype(np.float64) / 2
        out = best[start : start + OBJECTS_AT_ONCE]
        for level, ((rows, columns), (down, across)) in enumerate(zip(grid.sizes, grid.strides, strict=True)):
            row = np.clip(centres[:, 1] / down, 0, rows - 1).astype(np.int64)
            column = np.clip(centres[:, 0] / across, 0, columns - 1).astype(np.int64)
            number = grid.numbers(level, row, column)
            for shape in range(out.shape[1]):
                np.maximum(out[:, shape], paired_overlap(some, grid.anchors[number + shape]), out=out[:, shape])
    return best


def count_overlapping(boxes: NDArray[np.float32], grid: AnchorGrid) -> NDArray[np.int64]:
    """How many anchors of each shape of a cell have IoU 0.5 or more with each box, [N, S], over all levels.

    Args:
        boxes: [N, 4] xyxy in pixels of the network input.
        grid: the anchors.
    """
    counts = np.zeros((len(boxes), grid.shapes.shape[1]), np.int64)
    for start in range(0, len(boxes), OBJECTS_AT_ONCE):
        some = boxes[start : start + OBJECTS_AT_ONCE]
        threshold = np.full(len(some), POSITIVE_IOU, np.float32)
        for level, shape in itertools.product(range(len(grid.sizes)), range(counts.shape[1])):
            box, _, _ = _pairs_of_shape(some, threshold, grid, level, shape)
            counts[start : start + OBJECTS_AT_ONCE, shape] += np.bincount(box, minlength=len(some))
    return counts


def match(boxes: NDArray[np.float32], image: NDArray[np.int64], grid: AnchorGrid) -> Matches:
    """The anchors of the objects of a data set, by the rule of training.

    Args:
        boxes: [N, 4] xyxy in pixels of the network input.
        image: [N] the image of each, ascending.
        grid: the anchors.
    """
    best = best_overlaps(boxes, grid).max(axis=1, initial=0)
    positives = np.zeros((len(boxes), len(grid.sizes)), np.int64)
    for start, stop in _chunks(image):
        some = boxes[start:stop]
        box, anchor, overlap = _pairs(some, np.minimum(best[start:stop], POSITIVE_IOU) * (1 - ROUNDING), grid)
        np.maximum.at(best, box + start, overlap)
        overlap = _with_claims(box, anchor, overlap, len(some))
        positive = overlap >= POSITIVE_IOU
        box, anchor, overlap = box[positive], anchor[positive], overlap[positive]
        winner = _winners((image[start:stop] - image[start])[box] * len(grid.anchors) + anchor, overlap, box)
        level = np.searchsorted(grid.starts, anchor[winner], side="right") - 1
        np.add.at(positives, (box[winner] + start, level), 1)
    return Matches(best, positives)


def paired_overlap(boxes: NDArray[np.float32], anchors: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of each box [N, 4] with its anchor [N, 4], [N]; the operations of `effdet.boxes.pairwise_iou` in order."""
    left, top, right, bottom = boxes.T
    other_left, other_top, other_right, other_bottom = anchors.T
    width = np.maximum(np.minimum(right, other_right) - np.maximum(left, other_left), 0)
    height = np.maximum(np.minimum(bottom, other_bottom) - np.maximum(top, other_top), 0)
    intersection = width * height
    area = (right - left) * (bottom - top)
    union = area + (other_right - other_left) * (other_bottom - other_top) - intersection
    overlap: NDArray[np.float32] = intersection / np.maximum(union, np.finfo(np.float32).tiny)
    return overlap


def _chunks(image: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Ranges of objects of whole images."""
    ends = np.flatnonzero(np.diff(image, append=-1)) + 1
    start = 0
    while start < len(image):
        stop = int(ends[min(int(np.searchsorted(ends, start + OBJECTS_AT_ONCE)), len(ends) - 1)])
        yield start, stop
        start = stop


def _pairs(
    boxes: NDArray[np.float32], threshold: NDArray[np.float32], grid: AnchorGrid
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """All (box, anchor) pairs whose IoU is at least the threshold of the box [N]: their numbers and the IoU, [P]."""
    shapes = itertools.product(range(len(grid.sizes)), range(grid.shapes.shape[1]))
    pairs = [_pairs_of_shape(boxes, threshold, grid, level, shape) for level, shape in shapes]
    box, anchor, overlap = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return box, anchor, overlap


def _pairs_of_shape(
    boxes: NDArray[np.float32], threshold: NDArray[np.float32], grid: AnchorGrid, level: int, shape: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """The pairs of `_pairs` with the anchors of one shape of one level.

    The threshold limits how far apart two centres may be along each axis, which gives a rectangle of cells.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    centres = (boxes[:, 2:] + boxes[:, :2]).astype(np.float64) / 2
    (rows, columns), (down, across) = grid.sizes[level], grid.strides[level]
    width, height = grid.shapes[level, shape]
    least = threshold / (1 + threshold) * (sides.prod(axis=1) + width * height)  # of the intersection
    far_x = (sides[:, 0] + width) / 2 - least / np.minimum(sides[:, 1], height)
    far_y = (sides[:, 1] + height) / 2 - least / np.minimum(sides[:, 0], width)
    possible = np.flatnonzero(least <= np.minimum(sides[:, 0], width) * np.minimum(sides[:, 1], height))
    left, right = _cells(centres[possible, 0], far_x[possible], across, columns)
    top, bottom = _cells(centres[possible, 1], far_y[possible], down, rows)
    wide, high = np.maximum(right - left + 1, 0), np.maximum(bottom - top + 1, 0)
    which = np.repeat(np.arange(len(possible)), wide * high)
    place = np.arange(len(which)) - np.repeat(np.cumsum(wide * high) - wide * high, wide * high)
    row, column = np.divmod(place, wide[which])
    anchor = grid.numbers(level, top[which] + row, left[which] + column) + shape
    box = possible[which]
    overlap = paired_overlap(boxes[box], grid.anchors[anchor])
    kept = (overlap >= threshold[box]) & (overlap > 0)
    return box[kept], anchor[kept], overlap[kept]


def _cells(
    centre: NDArray[np.float64], far: NDArray[np.float64], stride: float, count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last cell of a row or column whose centre is at most `far` from each given centre."""
    slack = 1e-3  # of a cell; what it adds is compared and dropped
    first = np.ceil((centre - far) / stride - 0.5 - slack).clip(0, count)
    last = np.floor((centre + far) / stride - 0.5 + slack).clip(-1, count - 1)
    return first.astype(np.int64), last.astype(np.int64)


def _with_claims(
    box: NDArray[np.int64], anchor: NDArray[np.int64], overlap: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """The IoU of the pairs, with that of every box and its best anchor, the first among equals, raised to `CLAIM`."""
    best = np.zeros(count, np.float32)
    np.maximum.at(best, box, overlap)
    highest = overlap == best[box]
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, box[highest], anchor[highest])
    return np.where(highest & (anchor == first[box]), np.float32(CLAIM), overlap)


def _winners(slot: NDArray[np.int64], overlap: NDArray[np.float32], box: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pair that gets each anchor of each image: the highest IoU, and the first box among equals."""
    order = np.lexsort((box, -overlap, slot))
    in_order = slot[order]
    first = np.ones(len(order), np.bool_)
    first[1:] = in_order[1:] != in_order[:-1]
    return order[first]
