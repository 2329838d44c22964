"""The one function that resizes images, with or without antialiasing, and the view that a classifier is evaluated on.

Antialiased resizing is equal to Pillow's up to rounding. The view of a detector is in `letterbox.py`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn.functional import interpolate

from effdet.data.images import Image


def resize(image: Image, size: tuple[int, int], interpolation: str, antialias: bool = True) -> Image:
    """Image [H, W, 3] resized to `size` (H, W), its aspect not kept.

    Args:
        image: uint8 RGB.
        size: (height, width) of the result.
        interpolation: 'bilinear' or 'bicubic'.
        antialias: whether the filter becomes wider when the image shrinks, as in Pillow; without it every pixel comes
            from its nearest neighbours alone, as in TensorFlow and OpenCV. Only 'bilinear' works without.
    """
    from effdet.opencv import cv2

    if image.shape[:2] == size:
        return image
    if not antialias:
        assert interpolation == "bilinear"
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[return-value]
    return _interpolate(image, interpolation, size=size)


def rescale(image: Image, factors: tuple[float, float], size: tuple[int, int]) -> Image:
    """Image [H, W, 3] resized by exact factors with antialiased 'bilinear', then cut to `size` (H, W).

    Args:
        image: uint8 RGB; it may be larger than `size` needs, by a fraction of a pixel of the result or more.
        factors: pixels of the result per pixel of the image, (vertical, horizontal).
        size: (height, width) of the result.
    """
    # Result sides are rounded down: the addend keeps those that are whole numbers.
    scaled = _interpolate(image, "bilinear", scale_factor=tuple(factor * (1 + 1e-9) for factor in factors))
    return scaled[: size[0], : size[1]]


def _interpolate(image: Image, interpolation: str, **size: tuple[float, ...]) -> Image:
    whole = np.require(image, requirements=("C", "W"))  # torch accepts neither reversed nor read-only arrays
    # Viewed as one channels_last image, which torch resizes without a copy.
    pixels = torch.from_numpy(whole).reshape(1, *image.shape).permute(0, 3, 1, 2)
    resized = interpolate(pixels, mode=interpolation, antialias=True, **size)  # type: ignore[arg-type]
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
