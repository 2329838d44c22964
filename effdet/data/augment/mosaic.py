"""Several training images combined into one: mosaic, copy-paste and mixup, with the boxes of all of them.

Which images are combined, and how each is changed before, is decided in `data/detection_dataset.py`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet.data.augment.sample import Sample, visible_boxes
from effdet.data.images import Image

CENTRE = (0.25, 0.75)  # range of the mosaic's centre, as a fraction of either side
MIXUP_ALPHA = 8.0  # of the beta distribution: weights near one half, because both images keep all their boxes
PASTE_PROBABILITY = 0.5  # of each object
VISIBLE_FRACTION = 0.3  # of an object that pasting covers or brings along; if less is visible, its box is dropped


def mosaic_tiles(size: tuple[int, int], rng: np.random.Generator) -> list[tuple[slice, slice]]:
    """Four tiles that fill a canvas of `size` (H, W) and meet in a random point: rows and columns of each."""
    height, width = size
    down, across = round(rng.uniform(*CENTRE) * height), round(rng.uniform(*CENTRE) * width)
    rows, columns = (slice(0, down), slice(down, height)), (slice(0, across), slice(across, width))
    return [(row, column) for row in rows for column in columns]


def mosaic(samples: list[Sample], tiles: list[tuple[slice, slice]], size: tuple[int, int]) -> Sample:
    """One sample of `size` (H, W) with each of the samples in its tile, whose size it has."""
    canvas: Image = np.empty((*size, 3), np.uint8)
    for sample, (rows, columns) in zip(samples, tiles, strict=True):
        canvas[rows, columns] = sample.image
    corners = [np.array([columns.start, rows.start] * 2, np.float32) for rows, columns in tiles]
    boxes = [sample.boxes + corner for sample, corner in zip(samples, corners, strict=True)]
    return Sample(canvas, np.concatenate(boxes), np.concatenate([sample.labels for sample in samples]))


def mixup(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """Two samples of one size blended, about half of each, with the objects of both."""
    from effdet.opencv import cv2

    weight = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    image = cv2.addWeighted(sample.image, weight, other.image, 1 - weight, 0)
    boxes, labels = np.concatenate([sample.boxes, other.boxes]), np.concatenate([sample.labels, other.labels])
    return Sample(image, boxes, labels)  # type: ignore[arg-type]


def copy_paste(sample: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """A sample with about half of another's objects pasted in, as whole boxes at their positions.

    Boxes of covered objects shrink or are dropped; other objects inside a pasted box come along with boxes of their
    own. Objects of which little is visible are dropped.

    Args:
        sample: what is pasted onto.
        other: where the objects come from; of the same size.
        rng: source of the randomness.
    """
    from effdet.opencv import cv2

    pasted = np.zeros(sample.image.shape[:2], bool)
    chosen = other.boxes[rng.random(len(other.boxes)) < PASTE_PROBABILITY]
    for left, top, right, bottom in np.column_stack([np.floor(chosen[:, :2]), np.ceil(chosen[:, 2:])]).astype(int):
        pasted[top:bottom, left:right] = True
    if not pasted.any():
        return sample
    image: Image = cv2.copyTo(other.image, pasted.view(np.uint8), sample.image.copy())  # type: ignore[assignment]
    (kept, kept_labels), (brought, brought_labels) = _shown(sample, ~pasted), _shown(other, pasted)
    return Sample(image, np.concatenate([kept, brought]), np.concatenate([kept_labels, brought_labels]))


def _shown(sample: Sample, mask: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes around what a mask [H, W] shows of each object, and their labels, without barely visible objects."""
    boxes, visible = sample.boxes.copy(), np.zeros(len(sample.boxes), bool)
    for number, (left, top, right, bottom) in enumerate(sample.boxes):
        first_row, first_column = int(top), int(left)
        window = mask[first_row : int(np.ceil(bottom)), first_column : int(np.ceil(right))]
        rows, columns = np.flatnonzero(window.any(axis=1)), np.flatnonzero(window.any(axis=0))
        visible[number] = window.mean() >= VISIBLE_FRACTION if window.size else False
        if visible[number]:
            boxes[number] = (
                max(left, first_column + columns[0]),
                max(top, first_row + rows[0]),
                min(right, first_column + columns[-1] + 1),
                min(bottom, first_row + rows[-1] + 1),
            )
    return visible_boxes(boxes[visible], sample.labels[visible], mask.shape)
