"""Where a training image is placed on the canvas: random scale, crop and flip, and the boxes that follow.

A placement is drawn from the size of an image before it is decoded, so that no more is decoded than will be visible.
The order of all changes is in `data/detection_dataset.py`; the letterbox of evaluation is in `data/letterbox.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from effdet.data.augment.sample import Sample, visible_boxes
from effdet.data.images import Image, usable_reduction
from effdet.data.letterbox import fitted_side, pad
from effdet.data.resize import rescale, resize


class Placement(NamedTuple):
    """Which window of an image is visible, at which size, and whether mirrored.

    Attributes:
        original: (H, W) of the image in pixels.
        corner: (top, left) of the window, in whole pixels of the original.
        window: (H, W) of the window in pixels of the original.
        resized: (H, W) of the window in pixels of the result.
        flipped: whether the window is mirrored left to right.
        reduction: at which the image is decoded, see `decode_image`; divides `corner`.
    """

    original: tuple[int, int]
    corner: tuple[int, int]
    window: tuple[int, int]
    resized: tuple[int, int]
    flipped: bool
    reduction: int

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the result per pixel of the original, (vertical, horizontal)."""
        return self.resized[0] / self.window[0], self.resized[1] / self.window[1]


def draw_placement(
    original: tuple[int, int],
    size: tuple[int, int],
    scale: tuple[float, float],
    flip: float,
    reducible: bool,
    rng: np.random.Generator,
) -> Placement:
    """A random placement of an image at a scale: a window of it if it is larger than the canvas, mirrored or not.

    Args:
        original: (H, W) of the image.
        size: (H, W) of the canvas.
        scale: (vertical, horizontal) pixels of the canvas per pixel of the image, up to rounding to whole pixels.
        flip: probability of mirroring.
        reducible: whether the image may be decoded smaller: not without antialiasing, nor if every pixel is needed.
        rng: source of the randomness.
    """
    flipped = bool(rng.random() < flip)
    top, rows, resized_rows = _window(original[0], size[0], scale[0], rng)
    left, columns, resized_columns = _window(original[1], size[1], scale[1], rng)
    reduction = usable_reduction(min(rows / resized_rows, columns / resized_columns)) if reducible else 1
    corner = top - top % reduction, left - left % reduction
    return Placement(original, corner, (rows, columns), (resized_rows, resized_columns), flipped, reduction)


def apply_placement(
    sample: Sample, placement: Placement, size: tuple[int, int], fill: tuple[int, ...], antialias: bool
) -> Sample:
    """A sample placed at the top left of a canvas of `size` (H, W).

    Args:
        sample: the image, decoded at the placement's reduction, and its boxes in pixels of the original.
        placement: its window, size and flip.
        size: (H, W) of the result.
        fill: RGB colour of the padding.
        antialias: see `resize`; needed for a reduced image.

    Returns:
        The image of `size`; the boxes still visible, clipped to the window; their labels.
    """
    image = pad(_placed_pixels(sample.image, placement, antialias), size, fill)
    (top, left), (vertical, horizontal), width = placement.corner, placement.scale, placement.resized[1]
    boxes = sample.boxes - np.array([left, top, left, top], np.float32)
    boxes *= np.array([horizontal, vertical, horizontal, vertical], np.float32)
    boxes, labels = visible_boxes(boxes, sample.labels, placement.resized)
    if placement.flipped:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return Sample(image, boxes, labels)


def _placed_pixels(image: Image, placement: Placement, antialias: bool) -> Image:
    """The window of a decoded image, resized and mirrored."""
    from effdet.opencv import cv2

    step = placement.reduction
    rows, columns = (
        slice(first // step, -(-(first + length) // step))
        for first, length in zip(placement.corner, placement.window, strict=True)
    )
    pixels = image[rows, columns]
    if step == 1:
        pixels = resize(pixels, placement.resized, "bilinear", antialias)
    else:  # by the exact ratios, because the last square of a reduced image may extend beyond the window
        vertical, horizontal = placement.scale
        pixels = rescale(pixels, (step * vertical, step * horizontal), placement.resized)
    return cv2.flip(pixels, 1) if placement.flipped else pixels  # type: ignore[return-value]


def _window(side: int, limit: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int]:
    """One axis: first pixel and length of the window in the original, and its length once resized."""
    if side * scale <= limit:
        return 0, side, fitted_side(side * scale, limit)
    length = min(int(np.ceil(limit / scale)), side)
    return int(rng.integers(side - length + 1)), length, limit
