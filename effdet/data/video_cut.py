"""Whether a video file ends before its content does, by the sizes that its container states.

An intact file is never said to be cut: where a format states no sizes, or a file does not follow its format, there is
no verdict. What the time stamps say is in `video.py`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from effdet.data.media_files import open_regular
from effdet.errors import DataError

_HEAD, _TAIL = 1 << 14, 1 << 17  # bytes; the longest packets of MPEG program streams and of Ogg have 64 KiB
_MOST_ELEMENTS = 1_000_000  # a larger file gets no verdict
_MP4_BOXES = {
    *(b"ftyp", b"moov", b"mdat", b"moof", b"mfra", b"free", b"skip", b"wide"),
    *(b"uuid", b"styp", b"sidx", b"udta", b"pnot", b"meta", b"emsg", b"prft"),
}
_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_MATROSKA = {
    *(_EBML, _SEGMENT, _CLUSTER),
    *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1254C367, 0x1043A770, 0x1941A469, 0xEC, 0xBF),  # in a segment
    *(0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0x5854),  # in a cluster
}
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_FLV_SIZE = b"\0\x08filesize\0"  # the name and the type of a number, which follows
_MXF = bytes.fromhex("060e2b34020501010d01020101")
_RIFF_TOLERANCE = 16  # bytes: some writers count the header, or the padding
_TS_PACKETS = ((188, 0), (192, 4), (204, 0))  # length, and where in it the sync byte is


def is_cut_off(path: Path) -> bool:
    """Whether a video file ends before its content does; False if that is not known.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    with os.fdopen(open_regular(path, "video"), "rb") as file:
        try:
            return _is_cut_off(file, os.fstat(file.fileno()).st_size)
        except OSError as error:
            raise DataError(f"{path}: the video cannot be read: {error.strerror or error}") from None


def _is_cut_off(file: BinaryIO, size: int) -> bool:
    start = file.read(_HEAD)
    if start[4:8] in _MP4_BOXES:
        return _one_beyond(_mp4_boxes(file), size)
    if start[:4] == b"RIFF":
        return _one_beyond(_riff_chunks(file), size + _RIFF_TOLERANCE)
    if start[:3] == b"FLV":
        tags = _flv_tags(file, int.from_bytes(start[5:9], "big") + 4)
        return _flv_size(start) > size or _one_beyond(tags, size)
    if start[:4] == _EBML.to_bytes(4, "big"):
        return _one_beyond(_matroska_elements(file), size)
    if start[:16] == _ASF:
        return _asf_size(start) > size
    if start[: len(_MXF)] == _MXF:
        return _one_beyond(_mxf_elements(file, start), size)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    if start[:4] == b"OggS":
        return _ogg_page_is_cut(tail)
    return _program_stream_is_cut(tail) if start[:4] == b"\0\0\1\xba" else _transport_stream_is_cut(start, tail, size)


def _one_beyond(ends: Iterator[int], size: int) -> bool:
    """Whether one of the ends of elements is beyond the end of the file."""
    return any(end > size for end in islice(ends, _MOST_ELEMENTS))


def _mp4_boxes(file: BinaryIO) -> Iterator[int]:
    position = 0
    while True:
        file.seek(position)
        header = file.read(16)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if name not in _MP4_BOXES or length < 8:  # no more boxes, or one up to the end
            return
        position += length
        yield position


def _riff_chunks(file: BinaryIO) -> Iterator[int]:
    position = 0
    while True:
        file.seek(position)
        header = file.read(12)
        if header[:4] != b"RIFF" or header[8:] not in (b"AVI ", b"AVIX"):
            return
        length = int.from_bytes(header[4:8], "little")
        position += 8 + length + length % 2
        yield position


def _flv_tags(file: BinaryIO, position: int) -> Iterator[int]:
    while True:
        file.seek(position)
        header = file.read(11)
        if not header or header[0] & 0x1F not in (8, 9, 18):
            return
        end = position + 11 + int.from_bytes(header[1:4], "big")
        yield end
        position = end + 4  # after the length, once more


def _flv_size(start: bytes) -> float:
    """The length of the file that the metadata of an FLV state, 0 for none."""
    place = start.find(_FLV_SIZE)
    number = start[place + len(_FLV_SIZE) :][:8] if place >= 0 else b""
    return float(struct.unpack(">d", number)[0]) if len(number) == 8 else 0.0


def _matroska_elements(file: BinaryIO) -> Iterator[int]:
    """Ends of the segment; or, if its length is not stated, of what is in it."""
    position = 0
    while True:
        file.seek(position)
        header = file.read(12)
        identity, length = _variable_length(header[:4]), 0
        name = int.from_bytes(header[:identity], "big")
        if name not in _MATROSKA:
            return
        rest = header[identity:]
        length = _variable_length(rest)
        value = int.from_bytes(rest[:length], "big") & ((1 << 7 * length) - 1)
        position += identity + length
        if value < (1 << 7 * length) - 1 or name not in (_SEGMENT, _CLUSTER):  # stated
            position += value
        yield position


def _variable_length(start: bytes) -> int:
    """Bytes of a number of EBML, which begins with as many zero bits."""
    return 9 - start[0].bit_length() if start and start[0] else 8


def _asf_size(start: bytes) -> int:
    """The length of the file that an ASF header states, 0 for none; more than any file has if the header is cut."""
    properties = start.find(_ASF_PROPERTIES)
    flags = start[properties + 88 : properties + 89]
    if properties >= 0 and not flags:
        return 1 << 64
    if properties < 0 or flags[0] & 1:  # a live stream
        return 0
    return int.from_bytes(start[properties + 40 : properties + 48], "little")


def _mxf_elements(file: BinaryIO, start: bytes) -> Iterator[int]:
    """Ends of what is in the footer, if the header says where that begins."""
    position = int.from_bytes(start[_mxf_value(start) + 24 : _mxf_value(start) + 32], "big")
    if position:
        yield position + 17
    while position:
        file.seek(position)
        header = file.read(26)
        if header[:4] != _MXF[:4]:
            return
        value = _mxf_value(header)
        length = header[17:value] if value > 17 else header[16:17]
        position += value + int.from_bytes(length, "big")
        yield position


def _mxf_value(element: bytes) -> int:
    """Where the value of an element begins, after its key and length."""
    first = element[16] if len(element) > 16 else 0
    return 17 + (first & 0x7F if first & 0x80 else 0)


def _ogg_page_is_cut(tail: bytes) -> bool:
    page = tail.rfind(b"OggS")
    if page < 0:
        return False
    lengths = tail[page + 27 : page + 27 + tail[page + 26]] if page + 26 < len(tail) else b""
    return not lengths or page + 27 + len(lengths) + sum(lengths) > len(tail)


def _program_stream_is_cut(tail: bytes) -> bool:
    """Whether the last packet is longer than what is left; only one that follows another packet counts."""
    position, chained = tail.find(b"\0\0\1\xba"), False
    while 0 <= position <= len(tail) - 6:
        code = tail[position + 3]
        if tail[position : position + 3] != b"\0\0\1" or code < 0xB9:
            position, chained = tail.find(b"\0\0\1\xba", position + 1), False
            continue
        if code == 0xBA:
            is_mpeg2 = tail[position + 4] & 0xC0 == 0x40
            end = position + (14 + (tail[position + 13] & 7) if is_mpeg2 and position + 13 < len(tail) else 12)
        else:
            end = position + (4 if code == 0xB9 else 6 + int.from_bytes(tail[position + 4 : position + 6], "big"))
        if end > len(tail):
            return chained
        position, chained = end, True
    return False


def _transport_stream_is_cut(start: bytes, tail: bytes, size: int) -> bool:
    """Whether the last packet, which begins with a sync byte, is not whole."""
    for length, sync in _TS_PACKETS:
        if len(start) > 8 * length and all(start[sync + length * number] == 0x47 for number in range(8)):
            rest = tail[len(tail) - size % length :] if size % length else b""
            return len(rest) > sync and rest[sync] == 0x47
    return False
