"""The sample that augmentations with boxes change: an image with its objects.

The changes themselves are in the files beside this one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.images import Image

SMALLEST_VISIBLE_SIDE = 1.0  # pixels of the network input; what is smaller cannot be learned


class Sample(NamedTuple):
    """An image with its objects; never changed in place.

    Attributes:
        image: uint8 RGB [H, W, 3].
        boxes: [N, 4] float32, xyxy in pixels of `image`.
        labels: [N] int64 in 0..K-1.
    """

    image: Image
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def visible_boxes(
    boxes: NDArray[np.float32], labels: NDArray[np.int64], size: tuple[int, int]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Boxes [N, 4] clipped to an image of `size` (H, W) and their labels, without those thinner than a pixel."""
    height, width = size
    clipped = np.minimum(np.maximum(boxes, 0), np.array([width, height, width, height], np.float32))
    kept = (clipped[:, 2:] - clipped[:, :2] >= SMALLEST_VISIBLE_SIDE).all(axis=1)
    return clipped[kept], labels[kept]
