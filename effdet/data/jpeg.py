"""What the header of a JPEG says before it is decoded: size, EXIF orientation, where the pixels begin.

Decoding itself is in `images.py`; the headers of other formats are in `image_chunks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

from effdet.data.image_chunks import Buffer, exif_orientation


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
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            height, width = (int.from_bytes(data[first : first + 2], "big") for first in (start + 5, start + 7))
            return (height, width, orientation) if height and width else None
    return None


def is_jpeg(data: Buffer) -> bool:
    """Whether the data begins as a JPEG."""
    return data[:3] == b"\xff\xd8\xff"


def jpeg_is_cut_off(data: bytes) -> bool:
    """Whether a JPEG has no end-of-image marker."""
    # Compressed pixels never hold that marker; what comes before them, such as a thumbnail, may.
    start = next((start for marker, start in _segments(data) if marker == 0xDA), len(data))
    return data.rfind(b"\xff\xd9", start) < 0  # searched from the end, where it usually is


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
