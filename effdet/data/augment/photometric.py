"""Photometric distortion: random changes of brightness, contrast, saturation and hue. Boxes stay as they are.

RandAugment, which changes colours too, is in `rand_augment.py`, and for images with boxes in `rand_augment_boxes.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from effdet.data.augment.rand_augment import color, contrast
from effdet.data.images import Image

LARGEST_BRIGHTENING = 32  # of 255
FACTORS = (0.5, 1.5)  # of contrast and saturation
LARGEST_TURN = 18  # degrees on the colour circle


def photometric_distortion(image: Image, probability: float, rng: np.random.Generator) -> Image:
    """Image with brightness, contrast, saturation and hue changed in a random order, each with `probability`.

    Source: SSD, with its ranges; its probability is 0.5.
    """
    if not probability:
        return image
    for choice in rng.permutation(len(CHANGES)):
        if rng.random() < probability:
            image = CHANGES[choice](image, rng)
    return image


def brighten(image: Image, addition: float) -> Image:
    """`addition`, which may be negative, added to every value; clipped to 0..255."""
    from effdet.opencv import cv2

    return cv2.LUT(image, np.clip(np.arange(256) + addition, 0, 255).astype(np.uint8))  # type: ignore[return-value]


def turn_hue(image: Image, degrees: float) -> Image:
    """Every colour moved along the colour circle; greys stay."""
    from effdet.opencv import cv2

    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)  # the circle in 256 steps, so that uint8 wraps around it
    hsv[..., 0] += np.uint8(round(degrees * 256 / 360) % 256)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL)  # type: ignore[return-value]


CHANGES: tuple[Callable[[Image, np.random.Generator], Image], ...] = (
    lambda image, rng: brighten(image, rng.uniform(-LARGEST_BRIGHTENING, LARGEST_BRIGHTENING)),
    lambda image, rng: contrast(image, rng.uniform(*FACTORS)),
    lambda image, rng: color(image, rng.uniform(*FACTORS)),
    lambda image, rng: turn_hue(image, rng.uniform(-LARGEST_TURN, LARGEST_TURN)),
)
