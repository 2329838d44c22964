import io
import struct
import sys

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from effdet.data.images import (
    IMAGE_SUFFIXES,
    decode_image,
    decode_with_notes,
    decoding_notes,
    is_image_name,
    read_image,
)
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


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF"])
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


# Formats


def written(path, pixels):
    assert cv2.imwrite(str(path), pixels)
    return path.read_bytes()


@pytest.mark.parametrize("suffix", [".ppm", ".pgm", ".pbm", ".pnm", ".pam", ".jp2", ".dib", ".ras", ".sr", ".jpe"])
def test_what_opencv_writes_is_read(tmp_path, suffix):
    pixels = np.asarray(picture())
    if suffix in (".pgm", ".pbm"):
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
        pixels = (pixels > 100) * np.uint8(255) if suffix == ".pbm" else pixels
    data = written(tmp_path / f"a{suffix}", pixels[..., 0] if suffix in (".pgm", ".pbm") else pixels[..., ::-1])
    assert largest_difference(decode_image(data, "a"), np.ascontiguousarray(pixels)) <= (30 if suffix == ".jpe" else 3)
    assert decode_with_notes(data, "a")[1] == []


@pytest.mark.parametrize("suffix", [".pfm", ".hdr"])
def test_float_formats_are_read(tmp_path, suffix):
    values = np.asarray(picture()) / np.float32(255)
    data = written(tmp_path / f"a{suffix}", np.ascontiguousarray(values[..., ::-1]))
    assert largest_difference(decode_image(data, "a"), np.asarray(picture())) <= 2
    data = written(tmp_path / f"a{suffix}", np.ascontiguousarray(values[..., ::-1]) * 100)
    with pytest.raises(DataError, match=r"^a: float32 values .*; set data\.value_range"):
        decode_image(data, "a")
    assert largest_difference(decode_image(data, "a", value_range=(0, 100)), np.asarray(picture())) <= 2


def test_the_suffix_of_an_image_is_known_in_any_case():
    assert all(is_image_name(f"a b{suffix}") and is_image_name(f"A{suffix.upper()}") for suffix in IMAGE_SUFFIXES)
    assert len(set(IMAGE_SUFFIXES)) == len(IMAGE_SUFFIXES)
    assert not any(map(is_image_name, ("a.txt", "a.jpg.txt", "jpg", "a.xml", "")))


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_frame_is_read_and_noted(file_format):
    frames = [picture(), Image.new("RGB", (80, 60), "red"), Image.new("RGB", (80, 60), "blue")]
    data = encoded(frames[0], file_format, save_all=True, append_images=frames[1:])
    image, notes = decode_with_notes(data, "x")
    assert np.abs(image.astype(int) - np.asarray(picture())).mean() < 20  # red: 100
    assert notes == decoding_notes(data, "x") == ["animation: first frame used"]
    assert decoding_notes(encoded(frames[0], file_format), "x") == []


def test_of_several_pages_the_first_is_read_and_noted():
    data = encoded(picture(), "TIFF", save_all=True, append_images=[picture(30, 40)])
    image, notes = decode_with_notes(data, "x")
    assert largest_difference(image, np.asarray(picture())) == 0
    assert notes == ["several pages: first page used"]


def test_heic_needs_an_extra(monkeypatch):
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(DataError, match=r"^a\.heic: reading HEIC needs .*; pip install 'efficientdet-torch\[heic\]'$"):
        decode_image(data, "a.heic")


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_heic_is_read_upright(orientation):
    pillow_heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    pillow_heif.from_pillow(picture()).save(buffer, quality=90, exif=exif.tobytes())
    image = decode_image(buffer.getvalue(), "x")
    wanted = np.rot90(np.asarray(picture()), {1: 0, 3: 2, 6: -1, 8: 1}[orientation])
    assert image.shape == wanted.shape
    assert np.abs(image.astype(int) - wanted).mean() < 12
    with pytest.raises(DataError, match="not a whole image"):
        decode_image(buffer.getvalue()[:200], "x")


# Orientation, in every version of OpenCV


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("file_format", "mode", "options"),
    [
        ("PNG", "RGB", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "I;16", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}),
        ("TIFF", "RGB", {}),
        ("TIFF", "RGBA", {}),
        ("TIFF", "L", {}),
        ("TIFF", "I;16", {}),
        ("TIFF", "F", {}),
        ("AVIF", "RGB", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_every_format_is_read_upright(file_format, mode, options, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    grey_or_rgb = np.asarray(picture() if "RGB" in mode else picture().convert("L"))
    if mode == "I;16":
        image = Image.fromarray(grey_or_rgb.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(grey_or_rgb / np.float32(255))
    else:
        image = Image.fromarray(grey_or_rgb).convert(mode)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(encoded(Image.fromarray(grey_or_rgb), "PNG", exif=exif))))
    decoded = decode_image(encoded(image, file_format, exif=exif, **options), "x")
    assert largest_difference(decoded, np.asarray(upright.convert("RGB"))) <= (12 if file_format == "AVIF" else 0)


def test_the_orientation_of_a_png_may_follow_its_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(picture(), "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    iend = data.index(b"IEND") - 4
    moved = data[:start] + data[end:iend] + data[start:end] + data[iend:]
    assert largest_difference(decode_image(moved, "x"), decode_image(data, "x")) == 0


# Alpha and depth


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "JPEG2000", "AVIF", "BMP"])
def test_transparent_pixels_keep_their_color_in_every_format(file_format):
    pixels = np.dstack([np.asarray(picture()), np.repeat(np.uint8([0, 99, 255]), 20)[:, None].repeat(80, 1)])
    options = {"WEBP": {"lossless": True, "exact": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}
    data = encoded(Image.fromarray(pixels), file_format, **options.get(file_format, {}))
    image, notes = decode_with_notes(data, "x")
    assert largest_difference(image, np.asarray(picture())) <= (12 if file_format == "AVIF" else 0)
    assert notes == decoding_notes(data, "x") == ([] if file_format == "BMP" else ["alpha channel dropped"])


def test_16_bit_images_with_alpha_are_not_blended():
    pixels = np.random.default_rng(0).integers(0, 4096, (60, 80, 4)).astype(np.uint16)
    pixels[0, 0, :3] = 4095
    pixels[..., 3] = 65535
    pixels[:30, :, 3] = 0
    for suffix in (".png", ".tif"):
        data = cv2.imencode(suffix, pixels)[1].tobytes()
        image, notes = decode_with_notes(data, "x")
        assert largest_difference(image, np.rint(pixels[..., 2::-1] / 4095 * 255).astype(np.uint8)) <= 1
        assert notes == ["alpha channel dropped", "16-bit values scaled from 0..4095 to 0..255"]


@pytest.mark.parametrize("options", [{"transparency": (1, 2, 3)}, {"transparency": 100}])
def test_a_transparent_color_of_a_png_is_alpha(options):
    image = picture() if isinstance(options["transparency"], tuple) else picture().convert("L")
    data = encoded(image, "PNG", **options)
    assert largest_difference(decode_image(data, "x"), np.asarray(image.convert("RGB"))) == 0
    assert decoding_notes(data, "x") == ["alpha channel dropped"]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_values_in_16_bit_files_are_scaled_by_their_depth(suffix, bits):
    pixels = np.random.default_rng(0).integers(0, 2**bits, (60, 80)).astype(np.uint16)
    pixels[0, 0] = 2**bits - 1
    data = cv2.imencode(suffix, pixels)[1].tobytes()
    wanted = np.rint(pixels / (2**bits - 1) * 255).astype(np.uint8)[..., None].repeat(3, 2)
    assert largest_difference(decode_image(data, "x"), wanted) <= 1
    assert decoding_notes(data, "x") == [f"16-bit values scaled from 0..{2**bits - 1} to 0..255"]
    half = decode_image(data, "x", value_range=(0, 2 ** (bits + 1) - 1))
    assert np.abs(half.astype(int) * 2 - wanted).max() <= 2
    assert decode_image(data, "x", 4).shape == (15, 20, 3)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.float32, np.float64])
def test_tiffs_of_any_type_are_read_with_a_value_range(dtype):
    pixels = np.linspace(-1000, 3000, 4800).reshape(60, 80).astype(dtype)
    data = encoded(Image.fromarray(pixels), "TIFF") if dtype == np.int32 else cv2.imencode(".tif", pixels)[1].tobytes()
    wanted = np.rint((np.clip(pixels, 0, 2000.0)) / 2000 * 255).astype(np.uint8)[..., None].repeat(3, 2)
    image, notes = decode_with_notes(data, "x", value_range=(0, 2000))
    assert largest_difference(image, wanted) <= 1
    assert notes == ["values mapped from 0..2000 to 0..255", "values outside data.value_range clipped"]
    with pytest.raises(DataError, match=rf"^x: {np.dtype(dtype)} values from -1000 to 3000; set data\.value_range"):
        decode_image(data, "x")


def test_a_value_range_leaves_8_bit_images_as_they_are():
    for file_format in ("JPEG", "PNG"):
        data = encoded(picture(), file_format)
        assert largest_difference(decode_image(data, "x", value_range=(0, 4095)), decode_image(data, "x")) == 0


@pytest.mark.parametrize("file_format", ["WEBP", "TIFF", "GIF", "BMP", "PPM", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_cut_off_file_of_any_format_is_refused(file_format, kept):
    data = encoded(picture(), file_format)
    decode_image(data, "whole")
    with pytest.raises(DataError, match=r"^x: "):
        decode_image(data[: int(len(data) * kept)], "x")
