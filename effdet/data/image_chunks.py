"""What the bytes of an image file say before it is decoded: its format, size and orientation; PNG, WebP and TIFF.

The header of a JPEG is in `jpeg.py`. Functions for paths and for other formats are in `image_header.py`.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from typing import NamedTuple

Buffer = bytes | mmap.mmap

ORIENTATION = 0x0112  # the tag of EXIF and TIFF
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
_CHECKED_CHUNKS = {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"eXIf"}  # on which pixels and their rotation depend
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_COLOR_CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}  # by the photometric tag of TIFF
# By the type of a tag: byte, short, long and the same signed, long of 64 bits without and with sign.
_VALUE_BYTES = {1: 1, 3: 2, 4: 4, 6: 1, 8: 2, 9: 4, 16: 8, 17: 8}


class TiffLayout(NamedTuple):
    """What a TIFF stores, of its first page.

    Attributes:
        bits: per channel.
        sample_format: 1 unsigned, 2 signed, 3 float.
        cmyk: whether its colors are inks.
        alpha: whether there are more channels than colors.
        pages: whether there is another page.
    """

    height: int
    width: int
    orientation: int
    bits: int
    sample_format: int
    cmyk: bool
    alpha: bool
    pages: bool


def image_kind(data: Buffer) -> str:
    """The format by content: JPEG, PNG, BMP, GIF, WEBP, TIFF, AVIF or HEIF; "" for others."""
    start = data[:12]
    if start[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if start[:4] in _TIFF_MAGIC:
        return "TIFF"
    if start[:4] == b"RIFF" and start[8:] == b"WEBP":
        return "WEBP"
    if start[:4] == b"GIF8":
        return "GIF"
    if start[4:8] == b"ftyp":
        box = data[8 : min(int.from_bytes(start[:4], "big"), 256)]
        brands = {box[first : first + 4] for first in range(0, len(box), 4)}
        return "AVIF" if brands & {b"avif", b"avis"} else "HEIF" if brands & _HEIF_BRANDS else ""
    return "BMP" if start[:2] == b"BM" else ""


def stored_frame(kind: str, data: Buffer) -> tuple[int, int, int] | None:
    """Height and width of a PNG, WebP or TIFF as it is stored, and its orientation; None for others and if damaged."""
    if kind == "TIFF":
        layout = tiff_layout(data)
        return layout and layout[:3]
    size = _webp_size(data) if kind == "WEBP" else _png_size(data) if kind == "PNG" else None
    return (*size, orientation_of(kind, data)) if size and all(size) else None


def orientation_of(kind: str, data: Buffer) -> int:
    """The EXIF orientation of a PNG or WebP, 1..8, upright is 1; 1 for other formats."""
    if kind == "PNG":
        return next((exif_orientation(data[start:end]) for name, start, end in png_chunks(data) if name == b"eXIf"), 1)
    if kind == "WEBP" and data[12:16] == b"VP8X" and data[20] & 0x08:
        for name, start, end in _webp_chunks(data):
            if name == b"EXIF":  # some writers repeat the prefix that EXIF has in a JPEG
                return exif_orientation(data[start:end].removeprefix(b"Exif\0\0"))
    return 1


def is_animated(kind: str, data: Buffer) -> bool:
    """Whether a file of a format that can hold several frames says that it does."""
    if kind == "PNG":
        return any(name == b"acTL" for name, _, _ in png_chunks(data))
    if kind == "WEBP":
        return data[12:16] == b"VP8X" and bool(data[20] & 0x02)
    if kind == "AVIF":
        return data[8:12] == b"avis"
    return False


def exif_orientation(content: bytes) -> int:
    """The orientation tag of EXIF data, which has the layout of a TIFF file: 1..8, upright is 1."""
    orientation = _tiff_tags(content)[0].get(ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def png_chunks(data: Buffer) -> Iterator[tuple[bytes, int, int]]:
    """Name, first byte and end of the content of every chunk of a PNG."""
    position = 8
    while position + 8 <= len(data):
        start = position + 8
        end = start + int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : start], start, end
        position = end + 4  # after the checksum


def png_damage(data: Buffer) -> str | None:
    """What is damaged in a PNG by the checksums of what pixels depend on, which OpenCV ignores; None for nothing."""
    for name, start, end in png_chunks(data):
        stored = int.from_bytes(data[end : end + 4], "big")
        if name in _CHECKED_CHUNKS and (end + 4 > len(data) or zlib.crc32(data[start - 4 : end]) != stored):
            return f"the checksum of its chunk {name.decode()} is wrong"
        if name == b"IEND":
            return None
    return "its chunks do not end with IEND"


def bmp_damage(data: Buffer) -> str | None:
    """What is damaged in a BMP: where its pixels begin, which OpenCV does not check; None for nothing."""
    header, first = int.from_bytes(data[14:18], "little"), int.from_bytes(data[10:14], "little")
    if 14 + header <= first < len(data):
        return None
    return f"its pixels begin at byte {first} by its header, which has {14 + header} bytes"


def tiff_layout(data: Buffer) -> TiffLayout | None:
    """What a TIFF stores; None if its header is damaged."""
    tags, following = _tiff_tags(data)
    if not tags.get(256) or not tags.get(257):
        return None
    orientation, photometric, channels = tags.get(ORIENTATION, 1), tags.get(262, 1), tags.get(277, 1)
    return TiffLayout(
        height=tags[257],
        width=tags[256],
        orientation=orientation if 1 <= orientation <= 8 else 1,
        bits=tags.get(258, 1),
        sample_format=tags.get(339, 1),
        cmyk=photometric == 5,
        alpha=channels > _COLOR_CHANNELS.get(photometric, channels),
        pages=following != 0,
    )


def tiff_tiles(data: Buffer) -> tuple[int, int]:
    """Height and width of the tiles of a TIFF, which may be larger than the image; zeros without tiles."""
    tags, _ = _tiff_tags(data)
    return tags.get(323, 0), tags.get(322, 0)


def tiff_pixel_bytes(data: Buffer) -> int:
    """Bytes of a pixel of a TIFF, at least 1."""
    tags, _ = _tiff_tags(data)
    return max(1, tags.get(258, 1) * tags.get(277, 1) // 8)


def _tiff_tags(data: Buffer) -> tuple[dict[int, int], int]:
    """The first value of every tag of the first directory that holds whole numbers, and where the next one begins."""
    order = "little" if data[:2] == b"II" else "big"

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], order)  # type: ignore[arg-type]

    big = number(2, 2) == 43
    word, counter, entry_bytes = (8, 8, 20) if big else (4, 2, 12)
    first = number(word, word)
    start = first + counter
    end = start + entry_bytes * number(first, counter)
    tags: dict[int, int] = {}
    for entry in range(start, min(end, len(data) - entry_bytes + 1), entry_bytes):
        value_bytes = _VALUE_BYTES.get(number(entry + 2, 2))
        if value_bytes:
            inline = entry + 4 + word
            fits = value_bytes * number(entry + 4, word) <= word
            tags.setdefault(number(entry, 2), number(inline if fits else number(inline, word), value_bytes))
    return tags, number(end, word)


def _png_size(data: Buffer) -> tuple[int, int]:
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _webp_chunks(data: Buffer) -> Iterator[tuple[bytes, int, int]]:
    position = 12
    while position + 8 <= len(data):
        start = position + 8
        length = int.from_bytes(data[position + 4 : start], "little")
        yield data[position : position + 4], start, start + length
        position = start + length + length % 2


def _webp_size(data: Buffer) -> tuple[int, int] | None:
    """(H, W) of a WebP, by the kind of its first chunk."""

    def number(start: int, length: int) -> int:
        return int.from_bytes(data[start : start + length], "little")

    name = data[12:16]
    if len(data) < 30:
        return None
    if name == b"VP8X":
        return number(27, 3) + 1, number(24, 3) + 1
    if name == b"VP8L":
        bits = number(21, 4)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    return (number(28, 2) & 0x3FFF, number(26, 2) & 0x3FFF) if name == b"VP8 " else None
