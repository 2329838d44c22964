"""Damage that an image file shows by itself, and which decoders pass over without a word."""

import io
import random
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from effdet.data.image_header import read_header
from effdet.data.images import decode_image
from effdet.errors import DataError

OPENCV = tuple(map(int, cv2.__version__.split(".")[:2]))
DAMAGED = r"^a: the image data is damaged, what is decoded is not what was stored"


def photo(mode="RGB", size=(60, 40)):
    values = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size, Image.Resampling.BICUBIC).convert(mode)


def encoded(file_format, mode="RGB", **options):
    buffer = io.BytesIO()
    photo(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
@pytest.mark.parametrize("chunk", [b"IHDR", b"PLTE", b"IDAT", b"IEND"])
def test_a_png_with_a_wrong_checksum_is_refused(mode, chunk):
    data = encoded("PNG", mode)
    if chunk in data:
        checksum = data.index(chunk) + 4 + int.from_bytes(data[data.index(chunk) - 4 : data.index(chunk)], "big")
        with pytest.raises(DataError, match=DAMAGED):
            decode_image(flipped(data, checksum), "a")


def test_every_flipped_bit_in_the_pixels_of_a_png_is_refused():
    data, rng = encoded("PNG"), random.Random(0)
    first = data.index(b"IDAT") + 4
    for _ in range(30):
        with pytest.raises(DataError):
            decode_image(flipped(data, rng.randrange(first, len(data) - 16)), "a")


def test_a_png_with_a_wrong_checksum_of_a_comment_is_read():
    data = encoded("PNG")
    comment = b"\0\0\0\4tEXta\0bc" + zlib.crc32(b"other").to_bytes(4, "big")
    whole = data[:33] + comment + data[33:]
    assert np.array_equal(decode_image(whole, "a"), decode_image(data, "a"))


@pytest.mark.parametrize("first", [0, 20, 10**6])
def test_a_bmp_whose_pixels_begin_in_its_header_or_beyond_its_end_is_refused(first):
    data = encoded("BMP")
    decode_image(data, "a")
    with pytest.raises(DataError, match=DAMAGED):
        decode_image(data[:10] + first.to_bytes(4, "little") + data[14:], "a")


SILENT = pytest.mark.skipif(OPENCV < (5,), reason="OpenCV 4.11 does not report damage inside of a TIFF")


@pytest.mark.parametrize(
    "compression", [None, pytest.param("packbits", marks=SILENT), pytest.param("tiff_adobe_deflate", marks=SILENT)]
)
def test_a_tiff_that_is_cut_off_in_its_color_map_is_refused(compression):
    data = encoded("TIFF", "P", compression=compression)
    decode_image(data, "a")
    for kept in range(len(data) - 700, len(data), 97):
        with pytest.raises(DataError):
            decode_image(data[:kept], "a")


def test_pixels_and_header_of_a_jpeg_agree_whatever_is_damaged_in_its_exif_data():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    data, rng = encoded("JPEG", exif=exif), random.Random(0)
    start = data.index(b"Exif")
    for _ in range(150):
        damaged = data
        for _ in range(2):
            place = rng.randrange(start, start + 40)
            damaged = damaged[:place] + bytes([rng.randrange(256)]) + damaged[place + 1 :]
        image = decode_image(damaged, "a")
        assert read_header(damaged).size == image.shape[:2]
        assert decode_image(damaged, "a", 2).shape[:2] == (image.shape[0] // 2, image.shape[1] // 2)


@pytest.mark.skipif(cv2.__version__ < "5", reason="this OpenCV prints no warnings of its JPEG 2000 decoder")
@pytest.mark.parametrize("no_jp2", [False, True])
@pytest.mark.parametrize("kept", [0.5, 0.9, 0.99])
def test_a_jpeg_2000_file_that_is_cut_off_is_refused(kept, no_jp2):
    data = encoded("JPEG2000", no_jp2=no_jp2)
    decode_image(data, "a")
    with pytest.raises(DataError):
        decode_image(data[: int(kept * len(data))], "a")
