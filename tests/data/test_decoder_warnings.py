import io
import os
import random
import sys
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from effdet.data.decoder_warnings import with_warnings
from effdet.data.images import decode_image
from effdet.errors import DataError

OPENCV = tuple(map(int, cv2.__version__.split(".")[:2]))


def photo(seed=0, size=(240, 320), file_format="JPEG", **options):
    values = np.random.default_rng(seed).integers(0, 256, (size[0] // 4, size[1] // 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(values).resize(size[::-1], Image.Resampling.BICUBIC).save(buffer, file_format, **options)
    return buffer.getvalue()


def with_zeros(data, fraction=0.5, count=2000):
    """The data with zeros inside of its compressed pixels."""
    start = data.rindex(b"\xff\xda") + 14 if data[:2] == b"\xff\xd8" else 1000
    first = start + int(fraction * (len(data) - 2 - start - count))
    return data[:first] + bytes(count) + data[first + count :]


@pytest.mark.parametrize("reduction", [1, 2, 8])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 2}, {"subsampling": 0}])
def test_a_jpeg_with_zeros_inside_is_refused(options, reduction):
    data = photo(**options)
    decode_image(data, "x", reduction)
    with pytest.raises(DataError, match=r"^a\.jpg: the image data is damaged, .* was stored \(.+\); copy or download"):
        decode_image(with_zeros(data), "a.jpg", reduction)


def test_a_jpeg_whose_end_is_missing_before_its_end_marker_is_refused():
    data = photo()
    with pytest.raises(DataError, match="premature end of data segment"):
        decode_image(data[: len(data) // 2] + data[-2:], "x")


@pytest.mark.skipif(OPENCV < (5,), reason="OpenCV 4.11 does not report damage inside of a TIFF")
@pytest.mark.parametrize("compression", ["tiff_lzw", "jpeg"])
def test_a_tiff_with_zeros_inside_is_refused(compression):
    data = photo(file_format="TIFF", compression=compression)
    decode_image(data, "x")
    with pytest.raises(DataError, match="x: the image data is damaged"):
        decode_image(with_zeros(data), "x")


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000"])
def test_whole_images_have_no_warnings_that_count(file_format, capfd):
    for seed in range(5):
        decode_image(photo(seed, file_format=file_format), "x")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + os.urandom(300),
        lambda data: data[:-2] + bytes(100) + data[-2:],
        lambda data: data[:-2] + b"\xff" * 100 + data[-2:],
        lambda data: data[:-2] + b"\x12\x34\x56\x78" + data[-2:],
        lambda data: data[:20] + b"\x00\x12" + data[20:],
    ],
    ids=["after the end", "zeros before the end", "fill bytes", "four bytes before the end", "between segments"],
)
def test_extra_bytes_that_cameras_write_are_no_damage(change):
    data = photo()
    assert np.array_equal(decode_image(change(data), "x"), decode_image(data, "x"))


def test_what_decoders_print_does_not_reach_the_user_and_all_else_does(capfd):
    def decode():
        os.write(2, b"first\nCorrupt JPEG data: bad Huffman code\nsecond\n")

    _, warnings = with_warnings(decode)
    assert warnings == "Corrupt JPEG data: bad Huffman code\n"
    assert capfd.readouterr().err == "first\nsecond\n" * 2  # an image with warnings is decoded twice
    print("third", file=sys.stderr, flush=True)
    assert capfd.readouterr().err == "third\n"


def test_of_images_in_many_threads_the_damaged_ones_are_refused():
    images = [photo(seed, (120, 160)) for seed in range(100)]
    damaged = set(random.Random(0).sample(range(len(images)), 20))
    images = [data[:2000] + data[-2:] if number in damaged else data for number, data in enumerate(images)]

    def is_refused(data):
        try:
            decode_image(data, "x")
        except DataError:
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        refused = list(pool.map(is_refused, images))
    assert {number for number, one in enumerate(refused) if one} == damaged


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked on this system")
def test_a_process_that_is_forked_meanwhile_has_its_standard_error(capfd):
    def decode():
        child = os.fork()
        if not child:
            os.write(2, b"from the child\n")
            os._exit(0)
        os.waitpid(child, 0)

    with_warnings(decode)
    assert capfd.readouterr().err == "from the child\n"


def test_a_closed_standard_error_is_no_hindrance(capfd):
    copy = os.dup(2)
    os.close(2)
    try:
        with pytest.raises(DataError, match="is damaged"):
            decode_image(with_zeros(photo()), "x")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(2)
    finally:
        os.dup2(copy, 2)
        os.close(copy)
