"""RandAugment for images with boxes: random operations on colours and on geometry, which the boxes follow.

Pixels are changed by the functions of `rand_augment.py`; the list of operations and their strengths differ from it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from effdet.data.augment import rand_augment as pixels
from effdet.data.augment.sample import Sample, visible_boxes
from effdet.data.images import Image

LARGEST_SHIFT = 250 / 640  # of the side; the reference's 250 pixels in a COCO image
LARGEST_HOLE = (
    200 / 640
)  # side of the cutout, of the image's longer side; the reference's 100 pixels on each side of its centre


def rand_augment_boxes(sample: Sample, layers: int, magnitude: float, rng: np.random.Generator) -> Sample:
    """Image and boxes after `layers` operations, each drawn from all with the same probability.

    Boxes are clipped to the image, and those thinner than a pixel are dropped.

    Args:
        sample: the image with its objects.
        layers: number of operations.
        magnitude: their strength, 0..10, or more as far as an operation allows.
        rng: source of the randomness.

    Source: EfficientDet reference, its operations for detection (arXiv:1906.11172).
    """
    strength = magnitude / pixels.FULL_MAGNITUDE
    for choice in rng.integers(len(OPERATIONS), size=layers):
        sample = OPERATIONS[choice](sample, strength, rng)
    return sample


def rotate(sample: Sample, angle: float) -> Sample:
    """Image rotated about its centre by `angle` degrees, counter-clockwise; boxes around their rotated corners."""
    height, width = sample.image.shape[:2]
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    rotation = np.array([[cosine, sine], [-sine, cosine]])  # counter-clockwise because y points down
    centre = np.array([width / 2, height / 2])
    return _moved(sample, pixels.rotate(sample.image, angle), np.column_stack([rotation, centre - rotation @ centre]))


def shear(sample: Sample, horizontal: float, vertical: float) -> Sample:
    """Image sheared about its top left corner, see `rand_augment.shear`; boxes around their sheared corners."""
    shearing = np.linalg.inv([[1, horizontal], [vertical, 1]])
    corner = np.full(2, 0.5)  # the centre of the first pixel stays
    image = pixels.shear(sample.image, horizontal, vertical)
    return _moved(sample, image, np.column_stack([shearing, corner - shearing @ corner]))


def translate(sample: Sample, horizontal: float, vertical: float) -> Sample:
    """Image and boxes moved right and down by fractions of its width and height, in whole pixels."""
    height, width = sample.image.shape[:2]
    right, down = round(horizontal * width), round(vertical * height)
    image = pixels.translate(sample.image, right / width, down / height)
    return _moved(sample, image, np.array([[1.0, 0, right], [0, 1, down]]))


def cutout(image: Image, top: int, left: int, side: int) -> Image:
    """Image with a grey square, clipped to the image."""
    result = np.copy(image)
    result[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = pixels.GREY
    return result


def map_boxes(boxes: NDArray[np.float32], matrix: NDArray[np.float64]) -> NDArray[np.float32]:
    """The upright boxes [N, 4] around the corners of boxes [N, 4] under an affine map [2, 3] of continuous pixels."""
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] @ matrix[:, :2].T + matrix[:, 2]  # [N, 4, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def _moved(sample: Sample, image: Image, matrix: NDArray[np.float64]) -> Sample:
    boxes, labels = visible_boxes(map_boxes(sample.boxes, matrix), sample.labels, image.shape[:2])
    return Sample(image, boxes, labels)


def _random_cutout(sample: Sample, strength: float, rng: np.random.Generator) -> Sample:
    height, width = sample.image.shape[:2]
    side = round(LARGEST_HOLE * strength * max(height, width))
    top, left = int(rng.integers(height)) - side // 2, int(rng.integers(width)) - side // 2
    return sample._replace(image=cutout(sample.image, top, left, side))


def _either_way(amount: float, rng: np.random.Generator) -> float:
    return amount if rng.random() < 0.5 else -amount


# Each takes a sample, the strength (1 at the full magnitude) and a source of random signs.
OPERATIONS: tuple[Callable[[Sample, float, np.random.Generator], Sample], ...] = (
    lambda sample, strength, rng: sample._replace(image=pixels.equalize(sample.image)),
    lambda sample, strength, rng: sample._replace(image=pixels.solarize(sample.image, 256 * strength)),
    lambda sample, strength, rng: sample._replace(image=pixels.solarize_add(sample.image, 110 * strength)),
    lambda sample, strength, rng: sample._replace(image=pixels.color(sample.image, 0.1 + 1.8 * strength)),
    _random_cutout,
    lambda sample, strength, rng: rotate(sample, _either_way(pixels.LARGEST_ANGLE * strength, rng)),
    lambda sample, strength, rng: shear(sample, _either_way(pixels.LARGEST_SHEAR * strength, rng), 0),
    lambda sample, strength, rng: shear(sample, 0, _either_way(pixels.LARGEST_SHEAR * strength, rng)),
    lambda sample, strength, rng: translate(sample, _either_way(LARGEST_SHIFT * strength, rng), 0),
    lambda sample, strength, rng: translate(sample, 0, _either_way(LARGEST_SHIFT * strength, rng)),
)
