"""Annotation files as bytes and texts: of regular files alone, since a pipe would never end and a device never stops.

What is in them is read by the readers of the formats; images and videos have `data/media_files.py`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from effdet.data.media_files import open_regular
from effdet.errors import DataError
from effdet.text import reason_of


def open_file(path: str | Path, what: str = "annotation file") -> BinaryIO:
    """An annotation file opened for reading.

    Args:
        path: the file, or a link to it.
        what: what it is, for messages.

    Raises:
        DataError: there is no such file, it is no regular file, or it cannot be opened.
    """
    return os.fdopen(open_regular(path, what), "rb")


def read_file(path: str | Path, what: str = "annotation file") -> bytes:
    """Content of an annotation file.

    Raises:
        DataError: as in `open_file`, or it cannot be read.
    """
    try:
        with open_file(path, what) as file:
            return file.read()
    except OSError as error:
        raise DataError(f"{path}: the {what} cannot be read: {reason_of(error)}") from None
    except MemoryError:
        raise DataError(f"{path}: the {what} is larger than the memory; expected a text file") from None


def read_text(path: str | Path, what: str = "annotation file") -> str:
    """Text of an annotation file in UTF-8, without a byte order mark.

    Raises:
        DataError: as in `read_file`, or it is no such text.
    """
    try:
        return read_file(path, what).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start}; save the {what} as UTF-8") from None


def first_bytes(path: str | Path, count: int) -> bytes:
    """The first bytes of a file; none if it cannot be read."""
    try:
        with open_file(path) as file:
            return file.read(count)
    except (DataError, OSError):
        return b""


def first_line(path: str | Path) -> str:
    """The first line of a text file that is not empty; an empty text if there is none in its first bytes."""
    text = first_bytes(path, 1 << 16).decode("utf-8-sig", "replace")
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
