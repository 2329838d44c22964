"""Decoded images turned upright and reduced by whole numbers.

Files are decoded in `images.py`; images are fitted to the network input in `letterbox.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Stored pixels [H, W] or [H, W, C] turned and mirrored as an EXIF orientation says."""
    from effdet.opencv import cv2

    if orientation >= 5:
        pixels = cv2.transpose(pixels)
    if orientation not in (1, 5):  # around the horizontal axis: 0, the vertical one: 1, both: -1
        pixels = cv2.flip(pixels, {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}[orientation])
    return pixels


def reduced_image(image: NDArray[np.uint8], reduction: int) -> NDArray[np.uint8]:
    """The mean of every square of `reduction` pixels; edge pixels are repeated where squares extend beyond the edge."""
    from effdet.opencv import cv2

    if reduction == 1:
        return image
    height, width = image.shape[:2]
    whole = cv2.copyMakeBorder(image, 0, -height % reduction, 0, -width % reduction, cv2.BORDER_REPLICATE)
    size = whole.shape[1] // reduction, whole.shape[0] // reduction
    return cv2.resize(whole, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
