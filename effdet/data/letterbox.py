"""The letterbox: an image fitted into the network input with its aspect kept, and boxes mapped back to the image.

Random placements of training images are in `augment/placement.py`; what a classifier sees is in `resize.py`.
"""

from __future__ import annotations

from torch import Tensor

from effdet.boxes import clip_boxes
from effdet.data.images import Image
from effdet.data.resize import resize


def letterbox(
    image: Image, size: tuple[int, int], fill: tuple[int, ...], antialias: bool
) -> tuple[Image, tuple[float, float]]:
    """Image resized to fit into `size` (H, W) with its aspect kept, at the top left; the rest is `fill` (RGB).

    Args:
        image: uint8 RGB [H, W, 3].
        size: (H, W) of the result.
        fill: RGB colour of the padding.
        antialias: see `resize`.

    Returns:
        The image [H, W, 3], and network-input pixels per original pixel (vertical, horizontal): the exact ratio of each
        axis, so that `undo_letterbox` carries no rounding.
    """
    height, width = image.shape[:2]
    scale = fitting_scale((height, width), size)
    resized = fitted_side(height * scale, size[0]), fitted_side(width * scale, size[1])
    return pad(resize(image, resized, "bilinear", antialias), size, fill), (resized[0] / height, resized[1] / width)


def undo_letterbox(boxes: Tensor, scale: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Boxes [M, 4] from pixels of the network input to pixels of the original image, clipped to its `size` (H, W).

    Args:
        boxes: [M, 4] xyxy in pixels of the network input.
        scale: what `letterbox` returned.
        size: (H, W) of the original image.
    """
    vertical, horizontal = scale
    return clip_boxes(boxes / boxes.new_tensor([horizontal, vertical, horizontal, vertical]), size)


def fitting_scale(original: tuple[int, int], size: tuple[int, int]) -> float:
    """The scale at which an image of the size `original` just fits into `size`, both (H, W)."""
    return min(size[0] / original[0], size[1] / original[1])


def fitted_side(side: float, limit: int) -> int:
    """Whole pixels of a resized side: rounded, at least 1, at most `limit`."""
    return min(max(round(side), 1), limit)


def pad(image: Image, size: tuple[int, int], fill: tuple[int, ...]) -> Image:
    """Image at the top left of a canvas of `size` (H, W) filled with `fill`; the image itself if it has that size."""
    from effdet.opencv import cv2

    bottom, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not bottom and not right:
        return image
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=fill)  # type: ignore[return-value]
