"""Sizes and orientations of image files without decoding them, and what is damaged among many files.

One image is decoded in `images.py`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

from effdet.data.image_chunks import Buffer, image_kind, stored_frame
from effdet.data.image_limits import check_claimed_pixels
from effdet.data.image_pillow import pillow_image
from effdet.data.images import REDUCTIONS, decode_image, read_file
from effdet.data.jpeg import jpeg_frame
from effdet.data.media_files import check_bytes, check_pixels, open_regular
from effdet.errors import DataError

Result = TypeVar("Result")

_MOST_THREADS = 16  # reading waits for the disk, so there may be more than CPUs


class ImageHeader(NamedTuple):
    """Size and orientation of an image.

    Attributes:
        stored_size: (H, W) of the pixels in the file.
        orientation: 1..8 as in EXIF; 1 is upright, from 5 on height and width are exchanged.
    """

    stored_size: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image as `decode_image` gives it: upright."""
        height, width = self.stored_size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_header(source: str | Path | bytes, name: str | None = None) -> ImageHeader:
    """Stored size and orientation of an image, from its header; decoded only if the format is rare.

    Args:
        source: path of an image file, or the content of one.
        name: what to call the image in messages; its path if it is None.

    Raises:
        DataError: there is no such file, it is empty, no image, or has more pixels than `max_pixels`.
    """
    if isinstance(source, bytes):
        return _header(source, name or "image in memory")
    name = name or str(source)
    descriptor = open_regular(source, "image")
    try:
        check_bytes(os.fstat(descriptor).st_size, source)
        with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data:
            return _header(data, name)
    except (OSError, ValueError):  # empty; or a file that cannot be mapped into memory
        return _header(read_file(source), name)
    finally:
        os.close(descriptor)


def image_size(source: str | Path | bytes, name: str | None = None) -> tuple[int, int]:
    """(H, W) of an image, upright, see `read_header`.

    Raises:
        DataError: there is no such file, it is empty, or no image.
    """
    return read_header(source, name).size


def image_sizes(paths: Sequence[str | Path]) -> list[tuple[int, int] | DataError]:
    """(H, W) of many image files, upright, in their order; for files without a size why they have none."""
    return _of_all(image_size, paths)


def damaged(paths: Sequence[str | Path], value_range: tuple[float, float] | None = None) -> list[DataError]:
    """Why files are no whole images, for those that are missing, empty, cut off or unreadable, in their order.

    Every file is decoded, at the reduction that costs least.

    Args:
        paths: image files.
        value_range: see `decode_image`.
    """

    def decode(path: str | Path) -> None:
        decode_image(read_file(path), str(path), REDUCTIONS[0], value_range)

    return [result for result in _of_all(decode, paths) if result is not None]


def _of_all(function: Callable[[str | Path], Result], paths: Sequence[str | Path]) -> list[Result | DataError]:
    """Results of a function for many files, computed in threads; its DataErrors are results too."""

    def result_or_error(path: str | Path) -> Result | DataError:
        try:
            return function(path)
        except DataError as error:
            return error

    with ThreadPoolExecutor(min(_MOST_THREADS, 2 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(result_or_error, paths))


def _header(data: Buffer, name: str) -> ImageHeader:
    kind = image_kind(data)
    frame = jpeg_frame(data) if kind == "JPEG" else stored_frame(kind, data)
    if frame is None and len(data) and kind != "JPEG":
        content = data[:]
        check_claimed_pixels(kind, content, name)  # HEIC is decoded for its size
        frame = _pillow_frame(content, name, kind)
    if frame is None:  # the error of what is no image, too
        image = decode_image(data[:], name)
        frame = *image.shape[:2], 1
    height, width, orientation = frame
    check_pixels(height, width, name)
    return ImageHeader((height, width), orientation if 1 <= orientation <= 8 else 1)


def _pillow_frame(data: bytes, name: str, kind: str) -> tuple[int, int, int] | None:
    """Stored height and width and the orientation of a format that Pillow opens without decoding; None for others."""
    image = pillow_image(data, name, kind)
    if image is None:
        return None
    # Of the formats that get here, OpenCV decodes those without an orientation.
    orientation = image.getexif().get(0x0112, 1) if kind in ("GIF", "AVIF", "HEIF") else 1
    return image.height, image.width, orientation
