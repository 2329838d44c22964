"""Image files to pixels and back: the one decode function of training, evaluation and prediction.

Images are uint8 RGB arrays [H, W, 3]; sizes are (height, width). Fitting them to the network input is in `letterbox.py`
and `resize.py`, random changes are in `augment/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.decoder_warnings import decoding_fault, with_warnings
from effdet.data.image_chunks import (
    bmp_damage,
    image_kind,
    is_animated,
    orientation_of,
    png_chunks,
    png_damage,
    tiff_layout,
)
from effdet.data.image_depth import ALPHA_DROPPED, to_rgb
from effdet.data.image_geometry import reduced_image, upright
from effdet.data.image_limits import check_claimed_pixels, check_jpeg_pixels, has_rare_kind
from effdet.data.image_pillow import decode_pillow
from effdet.data.jpeg import jpeg_damage, jpeg_frame, jpeg_is_cut_off, jpeg_start
from effdet.data.media_files import read_regular
from effdet.errors import DataError

Image = NDArray[np.uint8]

# What folders are searched for, the most usual first. A file named in another way is read by its content.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".jfif", ".jpe", ".avif", ".heic", ".heif"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".pfm", ".jp2", ".j2k", ".dib", ".ras", ".sr", ".hdr"),
)
FIRST_FRAME = "animation: first frame used"
FIRST_PAGE = "several pages: first page used"
START_BYTES = 4096  # by which content is known
_PNG_BYTES = 33  # of its signature and header
REDUCTIONS = (8, 4, 2, 1)  # by which an image may be decoded smaller, along each side
# Shrinking left after a reduced decode: from two on, the antialiased filter gives nearly what it gives for the whole
# image. A little less, because sides are rounded to whole pixels.
REMAINING_SHRINK = 1.98


def read_image(path: str | Path, value_range: tuple[float, float] | None = None) -> Image:
    """Pixels of an image file: uint8 RGB [H, W, 3], see `decode_image`.

    Raises:
        DataError: there is no such file, it is not a complete image, or its values need a `value_range`.
    """
    return decode_image(read_file(path), str(path), value_range=value_range)


def read_file(path: str | Path) -> bytes:
    """Content of an image file.

    Raises:
        DataError: there is no such file, it is no regular file, too large, or cannot be read.
    """
    return read_regular(path, "image")


def is_image_content(start: bytes) -> bool:
    """Whether the first `START_BYTES` bytes of a file are those of an image, whatever it is called."""
    return bool(image_kind(start)) or has_rare_kind(start)


def is_image_name(name: str) -> bool:
    """Whether a file name has the suffix of an image, in upper or lower case."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def decode_image(data: bytes, name: str, reduction: int = 1, value_range: tuple[float, float] | None = None) -> Image:
    """Pixels of an encoded image: uint8 RGB [H, W, 3], upright.

    The format is that of the content, whatever the file is called; of an animation or of several pages it is the first.
    The EXIF orientation is applied. Grey, palette and CMYK images become RGB.

    Alpha: the channel is dropped in every format. Transparent pixels show the color stored in them; nothing is blended.

    Depth: images of 8 bits stay as they are. Others are mapped from `value_range` to 0..255 and clipped. Without it,
    integers are scaled by the smallest usual bit depth (8, 10, 12, 14 or 16) that holds the largest value of the
    image: 12-bit values in a 16-bit file are scaled from 0..4095, 8-bit ones stay as they are. Floats must lie in 0..1.
    `decode_with_notes` says when these rules act.

    With a reduction, an image has ceil(H / reduction) rows and ceil(W / reduction) columns, each pixel the mean of a
    square of pixels; the squares of the last row and column may extend beyond the edge. A JPEG is decoded at that size
    directly, which is faster.

    Args:
        data: content of the file.
        name: what to call the image in messages.
        reduction: side of the squares, one of `REDUCTIONS`.
        value_range: the values to show as black and as white, in images of more than 8 bits.

    Raises:
        DataError: the data is empty, cut off, damaged, or not an image; it has more pixels than `max_pixels`; or its
            values need a `value_range`.
        ConfigError: `value_range` is not (low, high) with low < high.
    """
    return decode_with_notes(data, name, reduction, value_range)[0]


def decode_with_notes(
    data: bytes, name: str, reduction: int = 1, value_range: tuple[float, float] | None = None
) -> tuple[Image, list[str]]:
    """As `decode_image`, and a note for each rule that acted, such as "alpha channel dropped".

    The notes are the same text for the same cause, so that those of many images can be counted.
    """
    if not data:
        raise DataError(f"{name}: the file is empty; expected an image, copy it again or remove it")
    kind = image_kind(data)
    if kind == "JPEG":
        return _decode_jpeg(data, name, reduction), []
    if _is_cut_off(kind, data):
        raise _cut_off(name)
    check_claimed_pixels(kind, data, name)
    damage = png_damage(data) if kind == "PNG" else bmp_damage(data) if kind == "BMP" else None
    if damage is not None:
        raise _damaged(name, damage)
    pixels, notes = _stored_pixels(kind, data, name)
    image, more = to_rgb(pixels, name, value_range)
    return reduced_image(image, reduction), list(dict.fromkeys(notes + more))


def decoding_notes(data: bytes, name: str, value_range: tuple[float, float] | None = None) -> list[str]:
    """The notes of `decode_with_notes`; most JPEG, PNG and BMP files are not decoded for it.

    Raises:
        DataError: as in `decode_image`, if the image has to be decoded.
        ConfigError: as in `decode_image`.
    """
    kind = image_kind(data)
    if kind in ("JPEG", "BMP"):
        return []
    if kind == "PNG" and _is_plain(kind, data):
        return _header_notes(kind, data)
    return decode_with_notes(data, name, 1, value_range)[1]


def usable_reduction(shrink: float) -> int:
    """The largest reduction of an image that is shown `shrink` times smaller, with antialiasing."""
    return next(number for number in REDUCTIONS if number == 1 or number * REMAINING_SHRINK <= shrink)


def small_image(
    data: bytes, name: str, size: tuple[int, int], side: int, value_range: tuple[float, float] | None = None
) -> Image:
    """An encoded image made smaller, with the same aspect ratio, if its longer side has more than `side` pixels.

    Args:
        data: content of the file.
        name: what to call the image in messages.
        size: (H, W) of the image.
        side: most pixels along the longer side.
        value_range: see `decode_image`.

    Raises:
        DataError, ConfigError: see `decode_image`.
    """
    from effdet.opencv import cv2

    shrink = max(size) / side
    image = decode_image(data, name, usable_reduction(shrink), value_range)
    if shrink <= 1:
        return image
    small = max(1, round(size[1] / shrink)), max(1, round(size[0] / shrink))
    return np.asarray(cv2.resize(image, small, interpolation=cv2.INTER_AREA), np.uint8)


def _is_cut_off(kind: str, data: bytes) -> bool:
    """Whether the end is missing, in formats whose decoders fill it with grey without an error."""
    if kind == "PNG":
        return len(data) < _PNG_BYTES or b"IEND" not in data
    if kind == "WEBP":
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


def _cut_off(name: str) -> DataError:
    return DataError(f"{name}: the image is cut off before its end; copy or download the file again, or remove it")


def _decode_jpeg(data: bytes, name: str, reduction: int) -> Image:
    from effdet.opencv import cv2

    height, width, start = jpeg_start(data)
    if jpeg_is_cut_off(data, start):
        raise _cut_off(name)
    check_jpeg_pixels(height, width, len(data) - start, name)
    frame = jpeg_frame(data)
    reduced = frame is not None and _decodes_reduced(frame, reduction)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION  # OpenCV reads damaged EXIF data differently
    if reduced:  # the flags with GRAYSCALE in their names only add the size
        flags |= {
            2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
            4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
            8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
        }[reduction]
    image = _opencv("JPEG", data, name, flags)
    if image is None:
        raise _no_image(name)
    image = upright(image, frame[2] if frame else 1)
    return image if reduced else reduced_image(image, reduction)


def _stored_pixels(kind: str, data: bytes, name: str) -> tuple[NDArray[Any], list[str]]:
    """Pixels of an image that is no JPEG, upright: [H, W] or RGB [H, W, C] of any type, with notes from its header."""
    from effdet.opencv import cv2

    notes = _header_notes(kind, data)
    if not _is_for_pillow(kind, data):
        plain = _is_plain(kind, data)
        # OpenCV rotates some formats in some versions only, and a TIFF always, whatever the flags.
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if plain else cv2.IMREAD_UNCHANGED
        pixels = _opencv(kind, data, name, flags)
        if pixels is not None:
            if not plain and pixels.ndim == 3 and pixels.shape[2] >= 3:
                pixels = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]  # from BGR or BGRA
            return upright(pixels, orientation_of(kind, data)), notes
    decoded = decode_pillow(data, name, kind)
    if decoded is None:
        raise _no_image(name)
    pixels, several = decoded
    return pixels, notes or [FIRST_FRAME] if several else notes


def _opencv(kind: str, data: bytes, name: str, flags: int) -> NDArray[Any] | None:
    """What OpenCV decodes; None if it cannot."""
    from effdet.opencv import cv2

    try:
        pixels, warnings = with_warnings(lambda: cv2.imdecode(np.frombuffer(data, np.uint8), flags))
    except cv2.error as error:
        raise DataError(f"{name}: the image cannot be decoded ({error.err}); convert it or remove it") from None
    # Of a TIFF that OpenCV cannot decode it prints errors too; Pillow decodes what is left of a damaged JPEG 2000 file.
    if warnings and (pixels is not None or kind == ""):
        damage = jpeg_damage(warnings, data) if kind == "JPEG" else decoding_fault(warnings)
        if damage is not None:
            raise _damaged(name, damage)
    return pixels


def _damaged(name: str, damage: str) -> DataError:
    return DataError(
        f"{name}: the image data is damaged, what is decoded is not what was stored ({damage}); copy or download the "
        "file again, or remove it"
    )


def _no_image(name: str) -> DataError:
    return DataError(f"{name}: not a whole image of a known format; convert it to JPEG or PNG, or remove it")


def _is_plain(kind: str, data: bytes) -> bool:
    """Whether OpenCV itself gives the image as RGB of 8 bits without changing its values."""
    if kind == "PNG":
        return len(data) >= _PNG_BYTES and data[24] <= 8
    layout = tiff_layout(data) if kind == "TIFF" else None
    return kind == "BMP" or (layout is not None and layout.bits <= 8 and layout.sample_format == 1)


def _is_for_pillow(kind: str, data: bytes) -> bool:
    """Whether OpenCV lacks the format in some versions, or mixes up its channels."""
    if kind == "TIFF":  # OpenCV blends alpha of 8 bits with black, and reads inks of 16 bits as RGBA
        layout = tiff_layout(data)
        return layout is not None and (layout.cmyk if layout.bits > 8 else layout.alpha)
    return kind in ("GIF", "AVIF", "HEIF")


def _header_notes(kind: str, data: bytes) -> list[str]:
    """The notes that follow from the header, of formats where it says so."""
    notes = [FIRST_FRAME] if is_animated(kind, data) else []
    if kind == "PNG" and (data[25] in (4, 6) or any(name == b"tRNS" for name, _, _ in png_chunks(data))):
        notes.append(ALPHA_DROPPED)
    layout = tiff_layout(data) if kind == "TIFF" else None
    if layout and layout.pages:
        notes.append(FIRST_PAGE)
    if layout and layout.alpha:
        notes.append(ALPHA_DROPPED)
    return notes


def _decodes_reduced(frame: tuple[int, int, int], reduction: int) -> bool:
    """Whether the decoder itself can average the squares of `decode_image`: for a JPEG that is stored upright.

    In one that EXIF rotates, squares that extend beyond the edge would be on the wrong side; so it must have none.
    """
    height, width, orientation = frame
    return reduction > 1 and (orientation == 1 or not (height % reduction or width % reduction))
