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
from effdet.files import replacing

Image = NDArray[np.uint8]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


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


def decode_image(data: bytes, name: str) -> Image:
    """Pixels of an encoded image: uint8 RGB [H, W, 3], upright.

    The EXIF orientation is applied, grey and palette images become RGB, an alpha channel is dropped, and 16-bit images
    are scaled to 8 bit.

    Args:
        data: content of the file.
        name: what to call the image in messages.

    Raises:
        DataError: the data is empty, cut off, or not an image.
    """
    import cv2

    if not data:
        raise DataError(f"{name}: the file is empty; expected an image, copy it again or remove it")
    if _is_cut_off(data):
        raise DataError(f"{name}: the image is cut off before its end; copy or download the file again, or remove it")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise DataError(f"{name}: the image cannot be decoded ({error.err}); convert it or remove it") from None
    if image is None:
        raise DataError(f"{name}: not a whole image of a known format; convert it to JPEG or PNG, or remove it")
    return image  # type: ignore[return-value]


def write_image(path: Path, image: Image) -> None:
    """Saves a picture, uint8 RGB [H, W, 3], in one step, in the format of the path's suffix.

    Raises:
        DataError: the picture cannot be encoded.
    """
    import cv2

    whole, data = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not whole:
        raise DataError(f"{path}: the picture cannot be encoded")
    with replacing(path) as partial:
        np.asarray(data).tofile(partial)


def letterbox(image: Image, size: tuple[int, int], fill: tuple[int, ...]) -> tuple[Image, tuple[float, float]]:
    """Image resized to fit into `size` (H, W) with its aspect kept, at the top left; the rest is `fill` (RGB).

    Returns:
        The image [H, W, 3], and network-input pixels per original pixel (vertical, horizontal): the exact ratio of each
        axis, so that `undo_letterbox` carries no rounding.
    """
    height, width = image.shape[:2]
    scale = min(size[0] / height, size[1] / width)
    resized = fitted_side(height * scale, size[0]), fitted_side(width * scale, size[1])
    return resize_and_pad(image, resized, size, fill), (resized[0] / height, resized[1] / width)


def undo_letterbox(boxes: Tensor, scale: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Boxes [M, 4] from pixels of the network input to pixels of the original image, cut to its `size` (H, W).

    Args:
        boxes: [M, 4] xyxy in pixels of the network input.
        scale: what `letterbox` returned.
        size: (H, W) of the original image.
    """
    vertical, horizontal = scale
    return clip_boxes(boxes / boxes.new_tensor([horizontal, vertical, horizontal, vertical]), size)


def fitted_side(side: float, limit: int) -> int:
    """Whole pixels of a resized side: rounded, at least 1, at most `limit`."""
    return min(max(round(side), 1), limit)


def resize_and_pad(image: Image, resized: tuple[int, int], size: tuple[int, int], fill: tuple[int, ...]) -> Image:
    """Image resized to `resized` (bilinear) at the top left of a canvas of `size`, both (H, W), filled with `fill`."""
    import cv2

    if image.shape[:2] != resized:
        image = cv2.resize(image, resized[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    bottom, right = size[0] - resized[0], size[1] - resized[1]
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
        if path.is_file():
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
        return data.find(b"\xff\xd9", _start_of_scan(data)) < 0
    return False


def _start_of_scan(data: bytes) -> int:
    """Where the compressed pixels of a JPEG begin; the end of the data where they never do."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:
            return position
        if marker == 0xFF:  # fill byte
            position += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD7:  # markers without a segment
            position += 2
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return len(data)
