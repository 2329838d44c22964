import io
import os
import socket
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from effdet.config import DetectionData
from effdet.data import media_files
from effdet.data.formats import read_table
from effdet.data.image_header import damaged, image_sizes, read_header
from effdet.data.images import decode_image, read_file, read_image
from effdet.data.media_files import MAX_PIXELS, MAX_PIXELS_VARIABLE, max_pixels
from effdet.errors import ConfigError, DataError


def encoded(file_format, size=(44, 60), **options):
    buffer = io.BytesIO()
    Image.new("RGB", size[::-1], (90, 5, 9)).save(buffer, file_format, **options)
    return buffer.getvalue()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(height, width, bits=1, color=0, data=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(height, width, **options):
    data = encoded("JPEG", **options)
    start = next(data.find(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    return data[: start + 5] + struct.pack(">HH", height, width) + data[start + 9 :]


def tiff(entries):
    content = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + content + bytes(4)


def replaced(data, old, new):
    assert old in data
    return data.replace(old, new, 1)


LARGE = {
    "png": png(32000, 32000),
    "jpg": jpeg(16000, 65500),
    "progressive.jpg": jpeg(65500, 65500, progressive=True),
    "tif": tiff([(256, 70000), (257, 70000), (258, 8), (262, 1), (273, 8), (279, 10)]),
    "tiles.tif": tiff([(256, 10), (257, 10), (258, 8), (262, 1), (322, 1 << 15), (323, 1 << 15)]),
    "bmp": encoded("BMP")[:18] + struct.pack("<ii", 60000, -60000) + encoded("BMP")[26:],
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + encoded("GIF")[10:],
    "webp": b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + b"\0" * 4 + b"\xff\xff\x00" * 2,
    "avif": replaced(encoded("AVIF"), struct.pack(">II", 60, 44), struct.pack(">II", 60000, 60000)),
    "jp2": replaced(encoded("JPEG2000"), struct.pack(">HII", 0, 60, 44), struct.pack(">HII", 0, 60000, 60000)),
    "ppm": b"P6 # a comment\n60000\n# another\n60000 255\n",
    "pbm": b"P4\n60000 60000\n",
    "pfm": b"PF\n60000 60000\n-1.0\n",
    "pam": b"P7\nWIDTH 60000\nHEIGHT 60000\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n",
    "hdr": b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 60000 +X 60000\n",
    "ras": struct.pack(">8I", 0x59A66A95, 60000, 60000, 24, 0, 1, 0, 0),
}


@pytest.mark.parametrize("name", LARGE)
def test_images_of_too_many_pixels_are_refused_by_their_headers(name, monkeypatch):
    monkeypatch.setattr("cv2.imdecode", lambda *_: pytest.fail("it is decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("it is decoded"))
    with pytest.raises(
        DataError,
        match=r"^a: has \d+ x \d+ pixels according to its header, the limit is "
        rf"{MAX_PIXELS} pixels of 4 bytes; make it smaller, or set EFFDET_MAX_PIXELS=\d+ if you trust the file$",
    ):
        decode_image(LARGE[name], "a")


@pytest.mark.parametrize(
    ("data", "pixel_bytes"),
    [
        (png(12000, 12000, 16, 6), 8),
        (tiff([(256, 9000), (257, 9000), (258, 64), (262, 2), (273, 8), (277, 3), (279, 10), (339, 3)]), 24),
    ],
)
def test_pixels_of_many_bytes_count_more(data, pixel_bytes):
    with pytest.raises(
        DataError, match=rf"a: has \d+ x \d+ pixels of {pixel_bytes} bytes according to its header, the lim"
    ):
        decode_image(data, "a")


def test_a_long_header_without_a_size_is_read_once():
    for start in (b"P7\n", b"P6 ", b"#?RADIANCE\n"):
        with pytest.raises(DataError, match="not a whole image of a known format"):
            decode_image(start + b"#\nWIDTH 5\n" * 20_000, "a")


def test_a_frame_that_is_larger_than_its_animation_is_refused():
    data = encoded("GIF")
    frame = data.index(b",", 13)
    data = data[: frame + 5] + struct.pack("<HH", 60000, 60000) + data[frame + 9 :]
    with pytest.raises(DataError, match="has 60000 x 60000 pixels"):
        decode_image(data, "a")


def test_the_limit_is_a_setting(monkeypatch):
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "2639")
    for file_format in ("JPEG", "PNG", "GIF", "TIFF"):
        with pytest.raises(
            DataError, match=r"has 60 x 44 pixels .* the limit is 2639 pixels of 4 bytes; .* EFFDET_MAX_PIXELS=2640 "
        ):
            decode_image(encoded(file_format), "a")
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "2640")
    for file_format in ("JPEG", "PNG", "GIF", "TIFF"):
        assert decode_image(encoded(file_format), "a").shape == (44, 60, 3)
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, "")
    assert max_pixels() == MAX_PIXELS


@pytest.mark.parametrize("text", ["many", "0", "-1", "1e9", "9" * 5000])
def test_a_limit_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv(MAX_PIXELS_VARIABLE, text)
    with pytest.raises(ConfigError, match=r"^EFFDET_MAX_PIXELS is '.{1,40}'; expected a number of pixels such as"):
        decode_image(encoded("JPEG"), "a")


@pytest.mark.parametrize(
    "data", [jpeg(12000, 12000), jpeg(12000, 12000, progressive=True), png(13000, 13000, 8, 2, zlib.compress(b"\0"))]
)
def test_files_that_are_too_short_for_their_pixels_are_refused(data):
    with pytest.raises(
        DataError, match=r"^a: the file is too short for the 1\d000 x 1\d000 pixels of its header; copy"
    ):
        decode_image(data, "a")


def test_the_densest_images_are_whole():
    """One color, which takes the fewest bytes."""
    for file_format, options in (
        ("JPEG", {"optimize": True}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"quality": 1, "progressive": True}),
        ("PNG", {"compress_level": 9}),
    ):
        assert decode_image(encoded(file_format, (3000, 4000), **options), "a").shape == (3000, 4000, 3)
    grey = io.BytesIO()
    Image.new("L", (4000, 3000)).save(grey, "JPEG", progressive=True, optimize=True, quality=1)
    assert decode_image(grey.getvalue(), "a").shape == (3000, 4000, 3)
    bits = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bits, "PNG", compress_level=9)
    assert decode_image(bits.getvalue(), "a").shape == (9000, 9000, 3)


def test_pillows_own_limit_stays_as_it_is():
    before = Image.MAX_IMAGE_PIXELS
    decode_image(encoded("GIF"), "a")
    assert before == Image.MAX_IMAGE_PIXELS


# Files


def test_a_file_of_too_many_bytes_is_not_read(tmp_path):
    path = tmp_path / "a.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file
    message = r"a\.jpg: the file has 1099511627776 bytes, the limit for images is 715827880; remove it, or set"
    for read in (read_file, read_header):
        with pytest.raises(DataError, match=message):
            read(path)


@pytest.fixture
def special(tmp_path, monkeypatch):
    """Files that are no regular files, and what is said of each."""
    folder = tmp_path / "special"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "link.jpg").symlink_to("pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "folder.jpg").mkdir()
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "environ.jpg").symlink_to("/proc/self/environ")
    monkeypatch.chdir(folder)  # the path of a socket is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
    return {
        folder / "pipe.jpg": "is a pipe; expected an image file, remove it from the folder",
        folder / "link.jpg": "is a pipe; expected an image file, remove it from the folder",
        folder / "zero.jpg": "is a device; expected an image file, remove it from the folder",
        folder / "folder.jpg": "is a folder; expected an image file",
        folder / "circle.jpg": "the image cannot be read: Too many levels of symbolic links",
        folder / "environ.jpg": "the file is empty",
        folder / "socket.jpg": "is a socket; expected an image file, remove it from the folder",
    }


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other special files and messages")
def test_what_is_no_regular_file_is_refused_and_never_waited_for(special):
    for path, message in special.items():
        for read in (read_image, read_header):
            with pytest.raises(DataError) as caught:
                read(path)
            assert str(caught.value).startswith(f"{path}: {message}")
    assert [str(error).partition(";")[0] for error in damaged(list(special))] == [
        f"{path}: {message}".partition(";")[0] for path, message in special.items()
    ]
    assert all(isinstance(size, DataError) for size in image_sizes(list(special)))


def test_a_file_is_read_whole_although_the_system_gives_it_bit_by_bit(tmp_path, monkeypatch):
    content = np.random.default_rng(0).bytes(10_000)
    (tmp_path / "a.jpg").write_bytes(content)
    read = os.read
    monkeypatch.setattr(media_files.os, "read", lambda descriptor, size: read(descriptor, min(size, 999)))
    assert read_file(tmp_path / "a.jpg") == content


def test_a_path_with_nul_is_refused():
    with pytest.raises(DataError, match="the image cannot be read: embedded null"):
        read_file("a\0.jpg")


def test_a_png_without_a_header_is_cut_off():
    with pytest.raises(DataError, match="is cut off before its end"):
        decode_image(b"\x89PNG\r\n\x1a\nIEND", "a")


@pytest.mark.parametrize("side", [2**31, 2**32 - 1])
def test_a_header_with_billions_of_pixels_is_refused_and_leaves_the_size_unknown(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png(side, side))
    with pytest.raises(DataError, match="pixels according to its header, the limit is"):
        read_header(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.2 0.2")
    (tmp_path / "classes.txt").write_text("cat")
    table = read_table(DetectionData(root=tmp_path, val=None), "train")
    assert table.sizes.tolist() == [[0, 0]]
    assert table.repairs["boxes of images whose size cannot be read dropped"] == 1
