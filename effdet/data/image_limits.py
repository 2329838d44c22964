"""How many pixels an image file claims to have, compared with the limit before they are decoded.

The limit and what it is for are in `media_files.py`; sizes for other purposes are in `image_header.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from effdet.data.image_chunks import Buffer, stored_frame, tiff_pixel_bytes, tiff_tiles
from effdet.data.media_files import check_pixels
from effdet.errors import DataError

_HEAD = 1 << 16  # bytes in which headers are searched for sizes
# Sizes that no file of so few bytes can hold: even one bit per block of 8 x 8 pixels, half the densest JPEG; and more
# than deflate can shrink anything.
_JPEG_PIXELS_PER_BYTE = 1024
_PNG_BYTES_PER_BYTE = 1100
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_RAS_MAGIC, _CODESTREAM = b"\x59\xa6\x6a\x95", b"\xff\x4f\xff\x51"
# Netpbm: P1..P6 and PFM with the size after the magic, comments between; PAM names it.
_NETPBM = re.compile(rb"P[1-6Ff]\s+(?:#[^\n]*\n\s*)*(\d{1,18})\s+(?:#[^\n]*\n\s*)*(\d{1,18})")
_PAM_SIDES = re.compile(rb"^HEIGHT\s+(\d{1,18})", re.MULTILINE), re.compile(rb"^WIDTH\s+(\d{1,18})", re.MULTILINE)
_HEIF_SIZE = re.compile(rb"\0\0\0\x14ispe\0{4}")
_RADIANCE = re.compile(rb"#\?(?:RADIANCE|RGBE)[\s\S]*?\n[+-][XY]\s+(\d{1,18})\s+[+-][XY]\s+(\d{1,18})")


def check_claimed_pixels(kind: str, data: bytes, name: str) -> None:
    """Does nothing if an image may be decoded by what its header says.

    Args:
        kind: its format, from `image_kind`; of a JPEG see `check_jpeg_pixels`.
        data: content of the file.
        name: what to call the image in messages.

    Raises:
        DataError: it claims more pixels than the limit, or more than a file of that length can hold.
    """
    pixel_bytes = _png_bits(data) // 8 if kind == "PNG" else tiff_pixel_bytes(data) if kind == "TIFF" else 1
    for height, width in _claimed_sizes(kind, data):
        check_pixels(height, width, name, pixel_bytes)
        if kind == "PNG" and height * width * _png_bits(data) > 8 * _PNG_BYTES_PER_BYTE * len(data):
            raise _too_short(height, width, name)


def check_jpeg_pixels(height: int, width: int, length: int, name: str) -> None:
    """As `check_claimed_pixels`, for a JPEG whose compressed pixels have `length` bytes.

    Raises:
        DataError: as there.
    """
    check_pixels(height, width, name)
    if height * width > _JPEG_PIXELS_PER_BYTE * length:
        raise _too_short(height, width, name)


def has_rare_kind(start: bytes) -> bool:
    """Whether data begins as an image of a format that `image_kind` does not know: Netpbm, JPEG 2000, HDR or RAS."""
    return any(True for _ in _claimed_sizes("", start))


def _claimed_sizes(kind: str, data: bytes) -> Iterator[tuple[int, int]]:
    """(H, W) of what a decoder would allocate, as far as the header says, of formats other than JPEG."""

    def number(start: int, length: int, order: str = "little") -> int:
        return int.from_bytes(data[start : start + length], order)  # type: ignore[arg-type]

    if kind in ("PNG", "WEBP", "TIFF"):
        frame = stored_frame(kind, data)
        if frame is not None:
            yield frame[:2]
        if kind == "TIFF":
            yield tiff_tiles(data)
    elif kind == "GIF":
        yield number(8, 2), number(6, 2)
    elif kind == "BMP" and number(14, 4) == 12:  # the header of OS/2
        yield number(20, 2), number(18, 2)
    elif kind == "BMP":
        height = number(22, 4)
        yield min(height, 2**32 - height), number(18, 4)  # negative from top to bottom
    elif kind in ("AVIF", "HEIF"):
        for box in _HEIF_SIZE.finditer(data):
            yield number(box.end() + 4, 4, "big"), number(box.end(), 4, "big")
    else:
        yield from _rare_sizes(data)


def _rare_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """(H, W) of the formats that `image_kind` does not know; zeros where the size is missing."""

    def number(start: int) -> int:
        return int.from_bytes(data[start : start + 4], "big")

    if data[:4] == _RAS_MAGIC:
        yield number(8), number(4)
    elif data[4:8] == b"jP  " or data[:4] == _CODESTREAM:
        start = _codestream(data) + 8  # after its name, length and capabilities
        right, bottom, left, top = (number(start + 4 * index) for index in range(4))
        yield max(bottom - top, 0), max(right - left, 0)
    elif data[:3] == b"P7\n":
        height, width = (side.search(data, 0, _HEAD) for side in _PAM_SIDES)
        yield int(height[1]) if height else 0, int(width[1]) if width else 0
    else:
        for pattern in (_NETPBM, _RADIANCE):
            size = pattern.match(data, 0, _HEAD)
            if size:
                yield int(size[2]), int(size[1])  # of HDR either may come first


def _codestream(data: bytes) -> int:
    """Where the pixels of a JPEG 2000 file begin; its length if there are none."""
    position = 0
    while data[position : position + 4] != _CODESTREAM and position < len(data):
        length, header = int.from_bytes(data[position : position + 4], "big"), 8
        if length == 1:
            length, header = int.from_bytes(data[position + 8 : position + 16], "big"), 16
        if data[position + 4 : position + 8] == b"jp2c":
            return position + header
        position += length if length >= 8 else len(data)
    return position


def _png_bits(data: Buffer) -> int:
    """Bits of a pixel, 1 if the header is cut off."""
    return 1 if len(data) < 26 else data[24] * _PNG_CHANNELS.get(data[25], 1)


def _too_short(height: int, width: int, name: str) -> DataError:
    return DataError(
        f"{name}: the file is too short for the {width} x {height} pixels of its header; copy or download the file "
        "again, or remove it"
    )
