"""What the header of a JPEG says before it is decoded: size, orientation, where the pixels begin; and what is damaged.

Decoding itself is in `images.py`; the headers of other formats are in `image_chunks.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from effdet.data.image_chunks import Buffer, exif_orientation

_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_USUAL_PADDING = 8  # bytes after the pixels


def jpeg_size(data: Buffer) -> tuple[int, int] | None:
    """(H, W) of a JPEG, upright, from its header; None for other formats and where the header has no size."""
    frame = jpeg_frame(data)
    if frame is None:
        return None
    height, width, orientation = frame
    return (width, height) if 5 <= orientation <= 8 else (height, width)


def jpeg_frame(data: Buffer) -> tuple[int, int, int] | None:
    """Height and width of a JPEG as it is stored, and its EXIF orientation; None as in `jpeg_size`."""
    if not is_jpeg(data):
        return None
    orientation = 1
    for marker, start in _segments(data):
        if marker == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0":
            orientation = exif_orientation(
                data[start + 10 : start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")]
            )
        elif marker in _START_OF_FRAME:
            height, width = _frame_size(data, start)
            return (height, width, orientation) if height and width else None
    return None


def is_jpeg(data: Buffer) -> bool:
    """Whether the data begins as a JPEG."""
    return data[:3] == b"\xff\xd8\xff"


def jpeg_start(data: Buffer) -> tuple[int, int, int]:
    """Height and width of a JPEG as it is stored, 0 if the header does not say, and where the pixels begin."""
    height = width = 0
    for marker, start in _segments(data):
        if marker in _START_OF_FRAME and not height:
            height, width = _frame_size(data, start)
        elif marker == 0xDA:
            return height, width, start
    return height, width, len(data)


def jpeg_is_cut_off(data: bytes, start: int) -> bool:
    """Whether a JPEG, whose pixels begin at `start`, has no end-of-image marker."""
    # Compressed pixels never hold that marker; what comes before them, such as a thumbnail, may.
    return data.rfind(b"\xff\xd9", start) < 0  # searched from the end, where it usually is


def jpeg_damage(warning: str, data: bytes) -> str | None:
    """What is damaged in a JPEG, by the first warning of libjpeg; None if its pixels are those that were stored.

    Some cameras write a few bytes more than the pixels need, and some programs leave bytes between segments.
    """
    cause = re.search(r"^(?:Corrupt JPEG data: |(?=Premature end of JPEG))(.*)", warning, re.MULTILINE)
    if cause is None:
        return None
    extra = re.match(r"(\d+) extraneous bytes before marker 0x(\w+)", cause[1])
    if extra is None:
        return cause[1]
    if extra[2] != "d9":
        return None if _has_gaps(data) else cause[1]
    end, count = data.find(b"\xff\xd9", jpeg_start(data)[2]), int(extra[1])
    padding = count <= _USUAL_PADDING or not set(data[max(0, end - count) : end]) - {0x00, 0xFF}
    return None if padding else cause[1]


def _has_gaps(data: Buffer) -> bool:
    """Whether there are bytes between the segments of the header."""
    end = 2
    for marker, start in _segments(data):
        if data[end:start].strip(b"\xff"):
            return True
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == 0xDA:
            break
    return False


def _frame_size(data: Buffer, start: int) -> tuple[int, int]:
    """Height and width in a start of frame."""
    return int.from_bytes(data[start + 5 : start + 7], "big"), int.from_bytes(data[start + 7 : start + 9], "big")


def _segments(data: Buffer) -> Iterator[tuple[int, int]]:
    """Marker and first byte of each segment of the header; the pixels begin at the last one (0xDA)."""
    position = 2
    while 0 <= position <= len(data) - 4:
        marker = data[position + 1]
        if data[position] != 0xFF:  # decoders skip what is between two segments
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
