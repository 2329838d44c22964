"""The letterbox: an image fitted into the network input, padded or stretched, and boxes mapped back to the image.

Random placements of training images are in `augment/placement.py`; what a classifier sees is in `resize.py`.
"""

from __future__ import annotations

from torch import Tensor

from effdet.boxes import clip_boxes
from effdet.data.images import Image
from effdet.data.resize import resize
from effdet.types import Letterbox


def letterbox(
    image: Image, size: tuple[int, int], fill: tuple[int, ...], antialias: bool, mode: Letterbox
) -> tuple[Image, tuple[float, float]]:
    """Image resized to fit into `size` (H, W).

    "pad" keeps its aspect and puts it at the top left; the rest is `fill`. "stretch" resizes both axes to `size`.

    Args:
        image: uint8 RGB [H, W, 3].
        size: (H, W) of the result.
        fill: RGB colour of the padding.
        antialias: see `resize`.
        mode: how the image fits.

    Returns:
        The image [H, W, 3], and network-input pixels per original pixel (vertical, horizontal): the exact ratio of each
        axis, so that `undo_letterbox` carries no rounding.
    """
    height, width = image.shape[:2]
    vertical, horizontal = fitting_scale((height, width), size, mode)
    resized = fitted_side(height * vertical, size[0]), fitted_side(width * horizontal, size[1])
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


def fitting_scale(original: tuple[int, int], size: tuple[int, int], mode: Letterbox) -> tuple[float, float]:
    """The scales (vertical, horizontal) at which an image of the size `original` just fits into `size`, both (H, W)."""
    vertical, horizontal = size[0] / original[0], size[1] / original[1]
    smaller = min(vertical, horizontal)
    return (vertical, horizontal) if mode == "stretch" else (smaller, smaller)


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
