"""Random changes of training samples: each a pure function of a sample and a random generator.

A sample is an image, uint8 RGB [H, W, 3], with boxes, float32 xyxy pixels [N, 4], and labels [N]; inputs are never
changed in place. The order and the seeds are set in `data/dataset.py`; changes of colour are in `data/photometric.py`,
RandAugment is in `data/rand_augment_boxes.py`, and several images are joined in `data/mosaic.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.images import Image, fitted_side, resize_and_pad

Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]

SMALLEST_VISIBLE_SIDE = 1.0  # pixels of the network input; what is smaller cannot be learned


class Scene(NamedTuple):
    """An image with its objects.

    Attributes:
        image: uint8 RGB [H, W, 3].
        boxes: [N, 4] float32, xyxy in pixels of `image`.
        labels: [N] int64 in 0..K-1.
    """

    image: Image
    boxes: Boxes
    labels: Labels


def horizontal_flip(image: Image, boxes: Boxes, probability: float, rng: np.random.Generator) -> tuple[Image, Boxes]:
    """Image and boxes [N, 4], mirrored left to right with `probability`."""
    import cv2

    if rng.random() >= probability:
        return image, boxes
    width = image.shape[1]
    mirrored = boxes.copy()
    mirrored[:, [0, 2]] = width - boxes[:, [2, 0]]
    return cv2.flip(image, 1), mirrored  # type: ignore[return-value]


def scale_jitter(
    image: Image,
    boxes: Boxes,
    labels: Labels,
    size: tuple[int, int],
    scale_range: tuple[float, float],
    fill: tuple[int, ...],
    rng: np.random.Generator,
) -> tuple[Image, Boxes, Labels, tuple[float, float]]:
    """Image at a random scale in a canvas of `size`: cropped at random where larger, padded where smaller.

    A scale of 1 fits the image into `size` as the letterbox does. The part of the original that will be seen is cut out
    in whole pixels before resizing: a fraction of the work, and the boxes follow it exactly.

    Args:
        image: uint8 [H, W, 3].
        boxes: [N, 4] xyxy in pixels of `image`.
        labels: [N].
        size: (height, width) of the result.
        scale_range: smallest and largest scale, drawn uniformly.
        fill: RGB colour of the padding.
        rng: source of the randomness.

    Returns:
        The image of `size`; the boxes still visible, cut to what is seen; their labels; result pixels per original
        pixel (vertical, horizontal).
    """
    height, width = image.shape[:2]
    scale = rng.uniform(*scale_range) * min(size[0] / height, size[1] / width)
    top, rows, resized_height = _window(height, size[0], scale, rng)
    left, columns, resized_width = _window(width, size[1], scale, rng)
    ratio = resized_height / rows, resized_width / columns
    view = image[top : top + rows, left : left + columns]
    shifted = boxes - np.array([left, top, left, top], np.float32)
    scaled = shifted * np.array([ratio[1], ratio[0], ratio[1], ratio[0]], np.float32)
    boxes, labels = visible_boxes(scaled, labels, (resized_height, resized_width))
    return resize_and_pad(view, (resized_height, resized_width), size, fill), boxes, labels, ratio


def visible_boxes(boxes: Boxes, labels: Labels, size: tuple[int, int]) -> tuple[Boxes, Labels]:
    """Boxes [N, 4] cut to an image of `size` (H, W) and their labels, without those thinner than a pixel."""
    height, width = size
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], np.float32))
    kept = (clipped[:, 2:] - clipped[:, :2] >= SMALLEST_VISIBLE_SIDE).all(axis=1)
    return clipped[kept], labels[kept]


def _window(side: int, limit: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int]:
    """One axis: first pixel and length of the part of the original that is seen, and its length once resized."""
    if side * scale <= limit:
        return 0, side, fitted_side(side * scale, limit)
    length = min(int(np.ceil(limit / scale)), side)
    return int(rng.integers(side - length + 1)), length, limit
