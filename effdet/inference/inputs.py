"""Images as users have them in Python (paths, arrays, PIL images, tensors, bytes) to uint8 RGB arrays.

Folders, globs and videos are opened in `sources.py`; the decoding of files is in `data/images.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch

from effdet.data.images import Image, decode_image, read_image
from effdet.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

ImageLike: TypeAlias = "str | Path | Image | torch.Tensor | PilImage | bytes"
_PIL_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")  # of 8 bits per channel


def is_image(given: object) -> bool:
    """Whether an argument is one image, and not an iterable of images such as a list or an array [B, H, W, 3]."""
    if isinstance(given, (np.ndarray, torch.Tensor)):
        return given.ndim < 4
    return isinstance(given, (str, Path, bytes, bytearray)) or not hasattr(given, "__iter__") or _is_pil(given)


def to_pixels(given: ImageLike) -> Image:
    """The pixels of an image, uint8 RGB [H, W, 3], upright.

    Args:
        given: the path of an image file, the content of one as bytes, a PIL image, an array [H, W, 3] or a tensor
            [3, H, W] or [H, W, 3] on any device; arrays and tensors are uint8 RGB.

    Raises:
        DataError: it is none of these, or the file cannot be read.
    """
    if isinstance(given, (str, Path)):
        return read_image(given)
    if isinstance(given, (bytes, bytearray)):
        return decode_image(bytes(given), "image in memory")
    if isinstance(given, torch.Tensor):
        chw = given.ndim == 3 and given.shape[0] == 3
        given = (given.permute(1, 2, 0) if chw else given).detach().cpu().numpy()
    if isinstance(given, np.ndarray):
        return _checked(given)
    if _is_pil(given):
        return _from_pil(given)
    raise DataError(
        f"an image is a {type(given).__module__}.{type(given).__qualname__}; expected a path, bytes, a PIL image, a "
        "uint8 RGB array [H, W, 3] or a uint8 tensor [3, H, W]"
    )


def _checked(array: Any) -> Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise DataError(
            f"an image has type {array.dtype} and shape {list(array.shape)}; expected uint8 RGB [H, W, 3], of tensors "
            "[3, H, W] too"
        )
    pixels: Image = array
    return pixels


def _is_pil(given: object) -> bool:
    """Whether this is a PIL image; nobody has one who has not imported PIL."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(given, module.Image)


def _from_pil(given: Any) -> Image:
    from PIL import ImageOps

    if given.mode not in _PIL_MODES:
        raise DataError(
            f"a PIL image has mode '{given.mode}'; convert it to 8 bits per channel such as mode 'RGB' first"
        )
    return np.asarray(ImageOps.exif_transpose(given).convert("RGB"), np.uint8)
