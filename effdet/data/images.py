"""Image files to pixels and pixels to the network input: the one decode function, the one letterbox and its undo.

Random changes of images are in `data/augment.py`. Images are uint8 RGB arrays [H, W, 3]; sizes are (height, width).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effdet.boxes import clip_boxes
from effdet.errors import DataError
from effdet.files import atomic_write

Image = NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
REDUCTIONS = (8, 4, 2, 1)  # pixels of an image, along a side, that may be decoded as one


def read_image(path: str | Path) -> Image:
    """Pixels of an image file: uint8 RGB [H, W, 3], see `decode_image`.

    Raises:
        DataError: there is no such file, or it is not a whole image.
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
    are scaled to 8 bit. Reduced, an image has ceil(H / reduction) rows and ceil(W / reduction) columns, each pixel the
    mean of a square; the squares of the last row and column may reach over the edge. A JPEG is decoded in that size.

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
    flags, shrunk = cv2.IMREAD_COLOR_RGB, _decodes_reduced(data, reduction)
    if shrunk:  # the flags with GRAYSCALE in their names say the size alone
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
    return image if shrunk else _shrink(image, reduction)  # type: ignore[arg-type, return-value]


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """(H, W) of a JPEG, upright, by its header; None where it does not tell, and for other formats."""
    frame = _frame(data)
    if frame is None:
        return None
    height, width, orientation = frame
    return (width, height) if 5 <= orientation <= 8 else (height, width)


def write_image(path: Path, image: Image) -> None:
    """Saves a picture, uint8 RGB [H, W, 3], in one step, in the format of the path's suffix.

    Raises:
        DataError: the picture cannot be encoded.
    """
    import cv2

    whole, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not whole:
        raise DataError(f"{path}: the picture cannot be encoded")
    with atomic_write(path) as partial:
        np.asarray(data).tofile(partial)


def letterbox(image: Image, size: tuple[int, int], fill: tuple[int, ...]) -> tuple[Image, tuple[float, float]]:
    """Image resized to fit into `size` (H, W) with its aspect kept, at the top left; the rest is `fill` (RGB).

    Returns:
        The image [H, W, 3], and network-input pixels per original pixel (vertical, horizontal): the exact ratio of each
        axis, so that `undo_letterbox` carries no rounding.
    """
    import cv2

    height, width = image.shape[:2]
    scale = fitting_scale((height, width), size)
    resized = fitted_side(height * scale, size[0]), fitted_side(width * scale, size[1])
    if (height, width) != resized:
        image = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return pad(image, size, fill), (resized[0] / height, resized[1] / width)


def undo_letterbox(boxes: Tensor, scale: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Boxes [M, 4] from pixels of the network input to pixels of the original image, cut to its `size` (H, W).

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
    """Image at the top left of a canvas of `size` (H, W), filled with `fill`; itself where it has that size."""
    import cv2

    bottom, right = size[0] - image.shape[0], size[1] - image.shape[1]
    if not bottom and not right:
        return image
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, value=fill)  # type: ignore[return-value]


def find_image(folder: Path, file_name: str) -> Path | None:
    """Path of the image that an annotation calls `file_name`, or None.

    Besides the name as written: backslashes, %20 and its like, a path from another machine, the name of `folder` in
    front, an extension in the wrong case or none at all.
    """
    plain = os.path.join(folder, file_name)
    if os.path.isfile(plain):
        return Path(plain)
    for spelling in dict.fromkeys(_spellings(folder, file_name)):
        path = folder / spelling
        if os.path.isfile(path):  # a name too long for the system is none either
            return path
    return None


def _spellings(folder: Path, file_name: str) -> Iterator[str]:
    for name in dict.fromkeys([file_name.replace("\\", "/"), unquote(file_name).replace("\\", "/")]):
        names = [name]
        parts = PurePosixPath(name).parts
        if name.startswith("/") or name[1:3] == ":/":  # a path of another machine
            names.append(parts[-1])
        elif len(parts) > 1 and parts[0] == folder.name:
            names.append("/".join(parts[1:]))
        for candidate in names:
            stem, suffix = os.path.splitext(candidate)
            yield candidate
            if suffix.lower() in IMAGE_SUFFIXES:
                yield from (stem + suffix.lower(), stem + suffix.upper())
            else:
                yield from (candidate + ending for ending in IMAGE_SUFFIXES)
                yield from (candidate + ending.upper() for ending in IMAGE_SUFFIXES)


def _is_cut_off(data: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end, which decoders tend to fill with grey and no word."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data
    if data.startswith(b"\xff\xd8\xff"):
        # Compressed pixels never hold an end-of-image marker; what comes before them, such as a thumbnail, may.
        start = next((start for marker, start in _segments(data) if marker == 0xDA), len(data))
        return data.rfind(b"\xff\xd9", start) < 0  # from the end, where it mostly is
    return False


def _decodes_reduced(data: bytes, reduction: int) -> bool:
    """Whether the decoder itself can give an image with the squares of `decode_image`: a JPEG, upright as it is stored.

    In one that EXIF turns, the squares that reach over the edge would lie on the wrong side; so it may have none.
    """
    frame = None if reduction == 1 else _frame(data)
    if frame is None:
        return False
    height, width, orientation = frame
    return orientation == 1 or not (height % reduction or width % reduction)


def _frame(data: bytes) -> tuple[int, int, int] | None:
    """Height and width of a JPEG as it is stored, and its EXIF orientation, by the header; None where it has none."""
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    orientation = 1
    for marker, start in _segments(data):
        if marker == 0xE1 and data.startswith(b"Exif\0\0", start + 4):
            orientation = _exif_orientation(
                data[start + 10 : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
            )
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = (int.from_bytes(data[first : first + 2], "big") for first in (start + 5, start + 7))
            return (height, width, orientation) if height and width else None
    return None


def _exif_orientation(content: bytes) -> int:
    """The orientation tag of EXIF data, which has the layout of a TIFF file: 1..8, upright is 1."""

    def number(start: int, length: int) -> int:
        return int.from_bytes(content[start : start + length], "little" if content.startswith(b"II") else "big")

    first = number(4, 4)
    end = min(first + 2 + 12 * number(first, 2), len(content))
    return next((number(entry + 8, 2) for entry in range(first + 2, end, 12) if number(entry, 2) == 0x0112), 1)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Marker and first byte of each part of a JPEG's header; where the last one (0xDA) is, the pixels begin."""
    position = 2
    while 0 <= position <= len(data) - 4:
        marker = data[position + 1]
        if data[position] != 0xFF:  # decoders pass over what lies between two segments
            position = data.find(b"\xff", position)
        elif marker == 0xFF:  # fill byte
            position += 1
        elif marker <= 0x01 or 0xD0 <= marker <= 0xD7:  # no marker, or one without a segment
            position += 2
        else:
            yield marker, position
            if marker == 0xDA:
                return
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")


def _shrink(image: Image, reduction: int) -> Image:
    """The mean of every square of `reduction` pixels; the edge pixels go on where squares reach over the edge."""
    import cv2

    if reduction == 1:
        return image
    height, width = image.shape[:2]
    whole = cv2.copyMakeBorder(image, 0, -height % reduction, 0, -width % reduction, cv2.BORDER_REPLICATE)
    size = whole.shape[1] // reduction, whole.shape[0] // reduction
    return cv2.resize(whole, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]
