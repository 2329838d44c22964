import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from effdet.data.images import decode_image, read_image
from effdet.data.jpeg import jpeg_size
from effdet.errors import DataError


def picture(height=60, width=80):
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def pillow(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def largest_difference(first, second):
    assert first.shape == second.shape
    assert first.dtype == second.dtype == np.uint8
    return int(np.abs(first.astype(int) - second.astype(int)).max())


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_is_read_as_pillow_reads_it(file_format, mode):
    data = encoded(picture().convert(mode), file_format)
    assert largest_difference(decode_image(data, "x"), pillow(data)) <= 1


@pytest.mark.parametrize("mode", ["P", "1", "LA"])
def test_palette_bitmap_and_grey_with_alpha_become_rgb(mode):
    data = encoded(picture().convert(mode), "PNG")
    assert largest_difference(decode_image(data, "x"), pillow(data)) == 0


def test_cmyk_jpegs_become_rgb():
    data = encoded(picture().convert("CMYK"), "JPEG", quality=95)
    assert largest_difference(decode_image(data, "x"), pillow(data)) <= 2


def test_alpha_is_dropped_and_not_blended():
    pixels = np.asarray(picture().convert("RGBA")).copy()
    pixels[:30, :, 3] = 0
    data = encoded(Image.fromarray(pixels), "PNG")
    assert largest_difference(decode_image(data, "x"), np.ascontiguousarray(pixels[..., :3])) == 0


@pytest.mark.parametrize("shape", [(60, 80), (60, 80, 3)])
def test_16_bit_pngs_are_scaled_to_8_bit(shape):
    pixels = np.random.default_rng(0).integers(0, 65536, shape).astype(np.uint16)
    data = cv2.imencode(".png", pixels[..., ::-1] if len(shape) == 3 else pixels)[1].tobytes()
    wanted = np.broadcast_to((pixels / 257).round().astype(np.uint8).reshape(60, 80, -1), (60, 80, 3))
    assert largest_difference(decode_image(data, "x"), wanted) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture(), "JPEG", exif=exif)
    assert decode_image(data, "x").shape == ((60, 80, 3) if orientation < 5 else (80, 60, 3))
    assert largest_difference(decode_image(data, "x"), pillow(data)) == 0


def mean_of_squares(image, reduction):
    """An image whose edge pixels go on to whole squares, and the mean of each."""
    height, width = image.shape[:2]
    whole = np.pad(image, [(0, -height % reduction), (0, -width % reduction), (0, 0)], mode="edge")
    squares = whole.reshape(whole.shape[0] // reduction, reduction, whole.shape[1] // reduction, reduction, 3)
    return squares.mean(axis=(1, 3))


@pytest.mark.parametrize("reduction", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(160, 240), (61, 83), (70, 200), (1, 1)])
@pytest.mark.parametrize("file_format", ["JPEG", "progressive", "grey", "PNG"])
def test_a_reduced_image_is_the_mean_of_squares(file_format, size, reduction):
    image = picture(*size).convert("L" if file_format == "grey" else "RGB")
    options = {} if file_format == "PNG" else {"quality": 95, "progressive": file_format == "progressive"}
    data = encoded(image, "PNG" if file_format == "PNG" else "JPEG", **options)
    reduced, wanted = decode_image(data, "x", reduction), mean_of_squares(decode_image(data, "x"), reduction)
    assert reduced.shape == wanted.shape
    difference = np.abs(reduced - wanted)
    assert difference.mean() < 2
    assert difference.max() < 25


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_squares_of_a_rotated_photo_are_those_of_an_upright_one(orientation, reduction):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for size in ((61, 83), (64, 80)):
        data = encoded(picture(*size), "JPEG", exif=exif, quality=95)
        wanted = mean_of_squares(decode_image(data, "x"), reduction)
        assert np.abs(decode_image(data, "x", reduction) - wanted).mean() < 2


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("order", ["II", "MM"])
def test_the_size_of_a_jpeg_is_upright(orientation, order):
    sign = "<" if order == "II" else ">"
    entries = struct.pack(sign + "HHIHH", 0x0100, 3, 1, 7, 0) + struct.pack(
        sign + "HHIHH", 0x0112, 3, 1, orientation, 0
    )
    content = order.encode() + struct.pack(sign + "HIH", 42, 8, 2) + entries + bytes(4)
    for options in ({}, {"progressive": True}, {"subsampling": 0}):
        data = encoded(picture(), "JPEG", exif=b"Exif\0\0" + content, **options)
        assert jpeg_size(data) == decode_image(data, "x").shape[:2]


def test_other_data_has_no_jpeg_size():
    data = encoded(picture(), "JPEG")
    assert jpeg_size(with_thumbnail(data)) == (60, 80)
    assert jpeg_size(encoded(picture(), "PNG")) is None
    for end in range(100):
        assert jpeg_size(data[:end]) is None


def test_paths_may_hold_any_letters(tmp_path):
    path = tmp_path / "Zürich 東京 #1.png"
    picture().save(path)
    assert largest_difference(read_image(path), np.asarray(picture())) == 0


def with_thumbnail(data):
    """A JPEG with a whole second JPEG in its header, as cameras write."""
    thumbnail = encoded(picture(12, 16), "JPEG")
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(thumbnail) + 2) + thumbnail + data[2:]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "progressive", "thumbnail"])
def test_a_cut_off_file_is_refused(kind, kept):
    data = encoded(
        picture(), "PNG" if kind == "PNG" else "JPEG", **({"progressive": True} if kind == "progressive" else {})
    )
    data = with_thumbnail(data) if kind == "thumbnail" else data
    decode_image(data, "whole")
    with pytest.raises(DataError, match=r"^a\.jpg: the image is cut off before its end; copy or download"):
        decode_image(data[: int(len(data) * kept)], "a.jpg")
    with pytest.raises(DataError, match="is cut off before its end"):
        decode_image(data[: int(len(data) * kept)], "a.jpg", 8)


def test_what_follows_the_end_of_a_jpeg_does_not_matter():
    data = encoded(picture(), "JPEG")
    for trailer in (b"\x00" * 100, b"\xff\xda and more", encoded(picture(), "JPEG")[:200]):
        assert largest_difference(decode_image(data + trailer, "x"), pillow(data)) == 0
        assert decode_image(data + trailer, "x", 4).shape == (15, 20, 3)


@pytest.mark.parametrize("between", [b"\x00\x12", b"\x01\xff\x00\xff", bytes(300)])
def test_bytes_between_the_segments_of_a_jpeg_are_passed_over(between):
    data = encoded(picture(), "JPEG")
    odd = data[:20] + between + data[20:]  # after the first segment
    assert jpeg_size(odd) == (60, 80)
    assert largest_difference(decode_image(odd, "x"), pillow(data)) == 0
    with pytest.raises(DataError, match="is cut off before its end"):
        decode_image(odd[:-100], "x")


def test_a_photo_of_several_pictures_is_its_first(tmp_path):
    data = encoded(picture(), "MPO", save_all=True, append_images=[picture(30, 40)])
    assert decode_image(data, "x").shape == (60, 80, 3)


def test_an_image_too_large_to_decode_is_refused():
    data = bytearray(encoded(picture(), "PNG"))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(DataError, match=r"^x\.png: the image cannot be decoded \("):
        decode_image(bytes(data), "x.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "not a whole image of a known format; convert it to JPEG or PNG"),
        (None, "no such image"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path, content, message):
    path = tmp_path / "a.jpg"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        read_image(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_folder_is_no_image(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)
