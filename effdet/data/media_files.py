"""Opening image and video files that may be anything: regular files alone, of bounded size and number of pixels.

What is in them is known elsewhere; the headers of images are compared with the limit in `image_limits.py`.
"""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path

from effdet.errors import ConfigError, DataError
from effdet.files import open_regular as open_regular_file

MAX_PIXELS = 178_956_970  # of an image or video frame, as Pillow's limit; 537 MB as RGB of 8 bits
MAX_PIXELS_VARIABLE = "EFFDET_MAX_PIXELS"
_BYTES_PER_PIXEL = 4  # of the largest image in its file and decoded; only images of more than 8 bits have more


def max_pixels() -> int:
    """The largest number of pixels of an image or video frame: $EFFDET_MAX_PIXELS, or `MAX_PIXELS`.

    Raises:
        ConfigError: the variable is no number above 0.
    """
    text = os.environ.get(MAX_PIXELS_VARIABLE)
    if not text:
        return MAX_PIXELS
    if not text.isdecimal() or len(text) > 18 or not int(text):
        raise ConfigError(f"{MAX_PIXELS_VARIABLE} is {text[:40]!r}; expected a number of pixels such as {MAX_PIXELS}")
    return int(text)


def check_pixels(height: int, width: int, name: str | Path, pixel_bytes: int = 1) -> None:
    """Does nothing if an image may have that many pixels.

    Args:
        height: in pixels.
        width: in pixels.
        name: what to call the image in messages.
        pixel_bytes: bytes of a pixel where they may be more than the limit has for each.

    Raises:
        DataError: it has more.
    """
    limit, needed = max_pixels(), height * width * max(1, pixel_bytes / _BYTES_PER_PIXEL)
    if needed > limit:
        size = f"{width} x {height} pixels" + (f" of {pixel_bytes} bytes" if pixel_bytes > _BYTES_PER_PIXEL else "")
        raise DataError(
            f"{name}: has {size} according to its header, the limit is {limit} pixels of {_BYTES_PER_PIXEL} bytes; "
            f"make it smaller, or set {MAX_PIXELS_VARIABLE}={math.ceil(needed)} if you trust the file"
        )


def check_bytes(size: int, path: str | Path) -> None:
    """Does nothing if an image file may have that many bytes.

    Raises:
        DataError: it has more.
    """
    limit = _BYTES_PER_PIXEL * max_pixels()
    if size > limit:
        raise DataError(
            f"{path}: the file has {size} bytes, the limit for images is {limit}; remove it, or set "
            f"{MAX_PIXELS_VARIABLE}={-(-size // _BYTES_PER_PIXEL)} if it is an image that you trust"
        )


def open_regular(path: str | Path, what: str) -> int:
    """The descriptor of a regular file opened for reading, see `files.open_regular`.

    Args:
        path: the file, or a link to it.
        what: "image", "video" or another word for the file, for the message.

    Raises:
        DataError: there is no such file, it is no regular file, or it cannot be opened.
    """
    expected = f"expected {'an' if what[0] in 'aeiou' else 'a'} {what}{' file' if what in ('image', 'video') else ''}"
    try:
        return open_regular_file(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such {what}; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: is a folder; {expected}") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENXIO:
            raise DataError(f"{path}: {error.strerror}; {expected}, remove it from the folder") from None
        raise _unreadable(path, what, error) from None


def read_regular(path: str | Path, what: str, most: int | None = None) -> bytes:
    """Content of a regular file.

    Args:
        path: the file.
        what: see `open_regular`.
        most: number of bytes from the start; None for the whole file.

    Raises:
        DataError: as in `open_regular`; or the file is larger than the largest image.
    """
    descriptor = open_regular(path, what)
    try:
        size = os.fstat(descriptor).st_size
        if most is None:
            check_bytes(size, path)
        size = size if most is None else min(size, most)
        content = os.read(descriptor, size)
        while len(content) < size and (more := os.read(descriptor, size - len(content))):
            content += more
        return content
    except OSError as error:
        raise _unreadable(path, what, error) from None
    finally:
        os.close(descriptor)


def _unreadable(path: str | Path, what: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or error
    return DataError(f"{path}: the {what} cannot be read: {reason}")
