"""What must hold for every image file that is accepted, whatever was in it.

The files are made in `borders_images.py`.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from effdet.data.image_header import read_header
from effdet.data.images import Image, decode_image, decode_with_notes, decoding_notes, read_file
from effdet.data.media_files import MAX_PIXELS_VARIABLE

from .image_files import TRUTH

CUT, WHOLE = "cut", "whole"  # files beside an image: a mark that only its end is missing, and its undamaged content
_MOST_PIXELS = 4_000_000  # so that cases are quick


def check_image_file(path: Path) -> None:
    """Asserts that all functions agree about an image file, and that what it shows is what was stored."""
    os.environ[MAX_PIXELS_VARIABLE] = str(_MOST_PIXELS)
    data, name = read_file(path), str(path)
    image, notes = decode_with_notes(data, name)
    _check_image(image)
    assert decoding_notes(data, name) == notes, f"other notes without decoding than {notes}"
    assert read_header(path).size == image.shape[:2], f"the header says {read_header(path).size}, not {image.shape}"
    assert np.array_equal(decode_image(data, name), image), "the second decoding gives other pixels"
    height, width = image.shape[:2]
    for reduction in (2, 4, 8):
        small = decode_image(data, name, reduction)
        assert small.shape == (-(-height // reduction), -(-width // reduction), 3), f"{small.shape} for 1 / {reduction}"
    _check_truth(image, path.parent)
    whole = path.parent / WHOLE
    if whole.exists() and ((path.parent / CUT).exists() or (data[:4] == b"\x89PNG" and _has_wrong_checksum(data))):
        stored = decode_image(whole.read_bytes(), name)
        assert np.array_equal(image, stored), "damage that the file shows, but another picture than was stored"


def _check_image(image: Image) -> None:
    assert image.dtype == np.uint8, f"pixels of {image.dtype}"
    assert image.ndim == 3, f"shape {image.shape}"
    assert image.shape[2] == 3, f"shape {image.shape}"
    assert image.size, f"shape {image.shape}"
    assert image.shape[0] * image.shape[1] <= _MOST_PIXELS, f"more pixels than the limit: {image.shape}"


def _check_truth(image: Image, folder: Path) -> None:
    """Asserts that an undamaged image shows what was drawn."""
    if not (folder / TRUTH).exists():
        return
    with np.load(folder / TRUTH) as truth:
        pixels, tolerance = truth["pixels"], int(truth["tolerance"])
    assert image.shape == pixels.shape, f"{image.shape} in place of {pixels.shape}"
    difference = int(np.abs(image.astype(int) - pixels).max())
    assert difference <= tolerance, f"values {difference} off"


def _has_wrong_checksum(data: bytes) -> bool:
    """Whether the checksum of a chunk of pixels of a PNG, which comes before any damage to the chain, is wrong."""
    position = 8
    while position + 12 <= len(data):
        length, name = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        end = position + 8 + length
        if name in (b"IHDR", b"PLTE", b"IDAT") and (
            end + 4 > len(data) or zlib.crc32(data[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big")
        ):
            return True
        if name == b"IEND":
            return False
        position = end + 4
    return True
