"""Random crops: a rectangle of random area and aspect in an image.

Resizing the crop to the network input is in `data/classification_dataset.py`, which decodes only what the crop needs.
"""

from __future__ import annotations

import math

import numpy as np

ATTEMPTS = 10  # at a random rectangle that fits into the image


def random_crop(
    original: tuple[int, int],
    size: tuple[int, int],
    area: tuple[float, float] | None,
    aspect: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[slice, slice] | None:
    """Rows and columns of the random crop of an image; None for the view of the evaluation.

    Args:
        original: (H, W) of the image.
        size: (H, W) that the crop is resized to. The range of aspects is relative to it, so that the range limits how
            much objects are distorted.
        area: range of the crop's fraction of the image; None for no random crop.
        aspect: range of its width to height.
        rng: source of the randomness.
    """
    if area is None:
        return None
    narrowest, widest = (limit * size[1] / size[0] for limit in aspect)
    return random_window(original, area, (narrowest, widest), rng)


def random_window(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> tuple[slice, slice] | None:
    """Rows and columns of a random rectangle in an image of `size` (H, W); None if none of ten attempts fits.

    Args:
        size: (H, W).
        area: range of its fraction of the image, drawn uniformly.
        aspect: range of its width to height, drawn log-uniformly.
        rng: source of the randomness.
    """
    height, width = size
    for _ in range(ATTEMPTS):
        pixels = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        rows, columns = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            return slice(top, top + rows), slice(left, left + columns)
    return None
