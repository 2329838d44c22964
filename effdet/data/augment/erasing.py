"""Random erasing: a rectangle of noise in an image. Boxes stay as they are."""

from __future__ import annotations

import numpy as np

from effdet.data.augment.crop import random_window
from effdet.data.images import Image

AREA = (0.02, 1 / 3)  # fraction of the image
ASPECT = (0.3, 3.3)  # width to height


def random_erasing(image: Image, probability: float, rng: np.random.Generator) -> Image:
    """Image with a random rectangle filled with noise, with `probability`. Source: arXiv:1708.04896."""
    if rng.random() >= probability:
        return image
    window = random_window(image.shape[:2], AREA, ASPECT, rng)
    if window is None:
        return image
    erased = np.copy(image)
    erased[window] = rng.integers(0, 256, erased[window].shape, np.uint8)
    return erased
