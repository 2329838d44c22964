"""Images through Pillow: formats that OpenCV cannot read or reads wrong, HEIC, and PIL images of Python.

What OpenCV reads is in `images.py`; values become uint8 RGB in `image_depth.py`.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.decoder_warnings import decoding_fault, with_warnings
from effdet.data.media_files import check_pixels
from effdet.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage

# Not all that Pillow knows: some are vector graphics, or recognised by too little.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_ERRORS = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, KeyError, IndexError, struct.error)
_OPENING = threading.Lock()


def pillow_image(data: Any, name: str, kind: str) -> PilImage | None:
    """An image file opened by Pillow, whose pixels are read later; None if Pillow cannot read it.

    Args:
        data: content of the file.
        name: what to call the image in messages.
        kind: its format, from `image_kind`.

    Raises:
        DataError: it has more pixels than `max_pixels`; or HEIC, and the package for it is not installed.
    """
    from PIL import Image as pil

    try:
        if kind == "HEIF":
            return _heif(data, name)
        with _without_limit():
            image = pil.open(io.BytesIO(data), formats=_FORMATS)
    except _ERRORS:
        return None
    check_pixels(image.height, image.width, name)
    return image


def decode_pillow(data: bytes, name: str, kind: str) -> tuple[NDArray[Any], bool] | None:
    """Pixels of an image file as `pil_pixels` gives them, and whether it has more frames; None if it is not whole.

    Raises:
        DataError: as in `pillow_image`.
    """
    image = pillow_image(data, name, kind)
    if image is None:
        return None
    try:
        _, warnings = with_warnings(image.load)
        if decoding_fault(warnings) is not None:
            return None
        return pil_pixels(image), bool(getattr(image, "is_animated", False))
    except _ERRORS:
        return None


def pil_pixels(image: PilImage) -> NDArray[Any]:
    """Pixels of a PIL image, upright: uint8 RGB [H, W, 3], with alpha [H, W, 4], or grey of more than 8 bits [H, W]."""
    from PIL import ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return np.asarray(image).astype({"I": np.int32, "F": np.float32}.get(image.mode, np.uint16), copy=False)
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        return np.asarray((image.convert("LA") if image.mode == "La" else image).convert("RGBA"))
    return np.asarray(image.convert("RGB"))


@contextlib.contextmanager
def _without_limit() -> Iterator[None]:
    """Pillow without its own limit of pixels, which is one for the whole process."""
    from PIL import Image as pil

    with _OPENING:
        limit, pil.MAX_IMAGE_PIXELS = pil.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            pil.MAX_IMAGE_PIXELS = limit


def _heif(data: bytes, name: str) -> PilImage:
    try:
        import pillow_heif
    except ImportError:
        raise DataError(f"{name}: reading HEIC needs a package; pip install 'efficientdet-torch[heic]'") from None
    image: PilImage = pillow_heif.read_heif(data).to_pillow()  # libheif has rotated it
    return image
