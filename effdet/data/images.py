"""Image files to pixels and back: the one decode function of training, evaluation and prediction.

Images are uint8 RGB arrays [H, W, 3]; sizes are (height, width). Fitting them to the network input is in `letterbox.py`
and `resize.py`, random changes are in `augment/`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.jpeg import is_jpeg, jpeg_frame, jpeg_is_cut_off
from effdet.errors import DataError

Image = NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
REDUCTIONS = (8, 4, 2, 1)  # by which an image may be decoded smaller, along each side
# Shrinking left after a reduced decode: from two on, the antialiased filter gives nearly what it gives for the whole
# image. A little less, because sides are rounded to whole pixels.
REMAINING_SHRINK = 1.98


def read_image(path: str | Path) -> Image:
    """Pixels of an image file: uint8 RGB [H, W, 3], see `decode_image`.

    Raises:
        DataError: there is no such file, or it is not a complete image.
    """
    return decode_image(read_file(path), str(path))


def read_file(path: str | Path) -> bytes:
    """Content of an image file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such image; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; expected an image file") from None
    except OSError as error:
        raise DataError(f"{path}: the image cannot be read: {error.strerror or error}") from None


def decode_image(data: bytes, name: str, reduction: int = 1) -> Image:
    """Pixels of an encoded image: uint8 RGB [H, W, 3], upright.

    The EXIF orientation is applied, grey and palette images become RGB, an alpha channel is dropped, and 16-bit images
    are scaled to 8 bit. With a reduction, an image has ceil(H / reduction) rows and ceil(W / reduction) columns, each
    pixel the mean of a square of pixels; the squares of the last row and column may extend beyond the edge. A JPEG is
    decoded at that size directly, which is faster.

    Args:
        data: content of the file.
        name: what to call the image in messages.
        reduction: side of the squares, one of `REDUCTIONS`.

    Raises:
        DataError: the data is empty, cut off, or not an image.
    """
    import cv2

    if not data:
        raise DataError(f"{name}: the file is empty; expected an image, copy it again or remove it")
    if _is_cut_off(data):
        raise DataError(f"{name}: the image is cut off before its end; copy or download the file again, or remove it")
    flags, reduced = cv2.IMREAD_COLOR_RGB, _decodes_reduced(data, reduction)
    if reduced:  # the flags with GRAYSCALE in their names only add the size
        flags |= {
            2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
            4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
        }[reduction]
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise DataError(f"{name}: the image cannot be decoded ({error.err}); convert it or remove it") from None
    if image is None:
        raise DataError(f"{name}: not a whole image of a known format; convert it to JPEG or PNG, or remove it")
    return image if reduced else _reduce(image, reduction)  # type: ignore[arg-type, return-value]


def usable_reduction(shrink: float) -> int:
    """The largest reduction of an image that is shown `shrink` times smaller, with antialiasing."""
    return next(number for number in REDUCTIONS if number == 1 or number * REMAINING_SHRINK <= shrink)


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which decoders fill with grey without an error."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data
    return is_jpeg(data) and jpeg_is_cut_off(data)


def _decodes_reduced(data: bytes, reduction: int) -> bool:
    """Whether the decoder itself can average the squares of `decode_image`: for a JPEG that is stored upright.

    In one that EXIF rotates, squares that extend beyond the edge would be on the wrong side; so it must have none.
    """
    frame = None if reduction == 1 else jpeg_frame(data)
    if frame is None:
        return False
    height, width, orientation = frame
    return orientation == 1 or not (height % reduction or width % reduction)


def _reduce(image: Image, reduction: int) -> Image:
    """The mean of every square of `reduction` pixels; edge pixels are repeated where squares extend beyond the edge."""
    import cv2

    if reduction == 1:
        return image
    height, width = image.shape[:2]
    whole = cv2.copyMakeBorder(image, 0, -height % reduction, 0, -width % reduction, cv2.BORDER_REPLICATE)
    size = whole.shape[1] // reduction, whole.shape[0] // reduction
    return cv2.resize(whole, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
