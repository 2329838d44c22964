"""Images as users have them in Python (paths, arrays, PIL images, tensors, bytes) to uint8 RGB arrays.

Folders, globs and videos are opened in `sources.py`; the decoding of files is in `data/images.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch

from effdet.data.image_depth import to_rgb
from effdet.data.image_pillow import pil_pixels
from effdet.data.images import Image, decode_image, read_image
from effdet.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

ImageLike: TypeAlias = "str | Path | Image | torch.Tensor | PilImage | bytes"
_CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, RGB, RGB and alpha
_NAME = "image in memory"


def is_image(given: object) -> bool:
    """Whether an argument is one image, and not an iterable of images such as a list or an array [B, H, W, 3]."""
    if isinstance(given, (np.ndarray, torch.Tensor)):
        return given.ndim < 4
    return isinstance(given, (str, Path, bytes, bytearray)) or not hasattr(given, "__iter__") or _is_pil(given)


def to_pixels(given: ImageLike, value_range: tuple[float, float] | None = None) -> Image:
    """The pixels of an image, uint8 RGB [H, W, 3], upright.

    Grey, alpha and values of more than 8 bits follow the rule of `decode_image`, wherever the image comes from.

    Args:
        given: the path of an image file, the content of one as bytes, a PIL image, an array [H, W] or [H, W, C], or a
            tensor [H, W], [C, H, W] or [H, W, C] on any device; C is 1 (grey), 2 (grey and alpha), 3 (RGB) or
            4 (RGB and alpha).
        value_range: the values to show as black and as white, in images of more than 8 bits.

    Raises:
        DataError: it is none of these, the file cannot be read, or the values need a `value_range`.
    """
    if isinstance(given, (str, Path)):
        return read_image(given, value_range)
    if isinstance(given, (bytes, bytearray)):
        return decode_image(bytes(given), _NAME, value_range=value_range)
    if isinstance(given, torch.Tensor):
        return _from_tensor(given, value_range)
    if isinstance(given, np.ndarray):
        return to_rgb(given, _NAME, value_range)[0]
    if _is_pil(given):
        return to_rgb(pil_pixels(given), _NAME, value_range)[0]
    raise DataError(
        f"an image is a {type(given).__module__}.{type(given).__qualname__}; expected a path, bytes, a PIL image, an "
        "RGB array [H, W, 3] or a tensor [3, H, W]"
    )


def _from_tensor(tensor: torch.Tensor, value_range: tuple[float, float] | None) -> Image:
    # Three rows of pixels are rarer than three channels, so the first side is looked at first.
    if tensor.ndim == 3 and (tensor.shape[0] == 3 or (tensor.shape[0] in _CHANNELS and tensor.shape[2] != 3)):
        tensor = tensor.permute(1, 2, 0)
    values = tensor.detach().cpu()
    return to_rgb((values.float() if values.is_floating_point() else values).numpy(), _NAME, value_range)[0]


def _is_pil(given: object) -> bool:
    """Whether this is a PIL image; nobody has one who has not imported PIL."""
    module = sys.modules.get("PIL.Image")
    return module is not None and isinstance(given, module.Image)
