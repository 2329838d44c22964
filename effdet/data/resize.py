"""Antialiased resizing, equal to Pillow's up to rounding, and the view of an image that a classifier is evaluated on.

Published classifiers were trained and evaluated this way; detectors use the letterbox of `letterbox.py`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import interpolate

from effdet.data.images import Image


def resize(image: Image, size: tuple[int, int], interpolation: str) -> Image:
    """Image [H, W, 3] resized to `size` (H, W), its aspect not kept.

    Args:
        image: uint8 RGB.
        size: (height, width) of the result.
        interpolation: 'bilinear' or 'bicubic', with a wider filter when the image shrinks.
    """
    if image.shape[:2] == size:
        return image
    whole = np.require(image, requirements=("C", "W"))  # torch accepts neither reversed nor read-only arrays
    # Viewed as one channels_last image, which torch resizes without a copy.
    pixels = torch.from_numpy(whole).reshape(1, *image.shape).permute(0, 3, 1, 2)
    resized = interpolate(pixels, size=size, mode=interpolation, antialias=True)
    return resized[0].permute(1, 2, 0).contiguous().numpy()


def classification_view(image: Image, size: tuple[int, int], crop: float, interpolation: str) -> Image:
    """The centre of an image, uint8 RGB of `size`: what a classifier is evaluated on.

    The image is resized, its aspect kept, so that it just covers `size` / `crop`; then the centre is cropped.

    Args:
        image: uint8 RGB [H, W, 3].
        size: (height, width) of the result.
        crop: fraction of the covered side of the resized image that is kept, in 0..1.
        interpolation: 'bilinear' or 'bicubic'.
    """
    height, width = image.shape[:2]
    # The small addend keeps quotients such as 240 / (240 / 255) from falling below their whole number.
    rows, columns = (math.floor(side / crop + 1e-6) for side in size)
    if rows * width >= columns * height:  # the height decides
        columns = rows * width // height
    else:
        rows = columns * height // width
    resized = resize(image, (rows, columns), interpolation)
    top, left = round((rows - size[0]) / 2), round((columns - size[1]) / 2)
    return resized[top : top + size[0], left : left + size[1]]
