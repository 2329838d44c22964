import contextlib
import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from effdet.data.image_header import damaged, image_size, image_sizes, read_header
from effdet.data.images import decode_image
from effdet.errors import DataError

FORMATS = ["JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF"]


def encoded(file_format, size=(60, 80), mode="RGB", **options):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("file_format", FORMATS)
def test_the_size_is_that_of_the_decoded_image(tmp_path, file_format, mode):
    if mode == "RGBA" and file_format in ("JPEG", "PPM"):
        pytest.skip("no alpha in this format")
    data = encoded(file_format, mode=mode)
    (tmp_path / "a.jpg").write_bytes(data)  # the suffix does not matter
    assert image_size(data, "a") == image_size(tmp_path / "a.jpg") == decode_image(data, "a").shape[:2] == (60, 80)


@pytest.mark.parametrize("options", [{"lossless": True}, {"quality": 80}, {"lossless": True, "save_all": True}])
@pytest.mark.parametrize("size", [(1, 1), (300, 17), (2, 5000)])
def test_the_size_of_every_kind_of_webp(size, options):
    assert image_size(encoded("WEBP", size, **options)) == size


@pytest.mark.parametrize("name", ["a.hdr", "a.pfm", "a.ras"])
def test_formats_that_have_to_be_decoded(tmp_path, name):
    cv2.imwrite(str(tmp_path / name), np.zeros((4, 6, 3), np.uint8 if name == "a.ras" else np.float32))
    assert image_size(tmp_path / name) == (4, 6)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_stored_size_and_the_orientation_are_kept_apart(file_format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(file_format, exif=exif)
    header = read_header(data)
    assert header.stored_size == (60, 80)
    assert header.orientation == orientation
    assert header.size == decode_image(data, "a").shape[:2] == ((80, 60) if orientation > 4 else (60, 80))


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_more_than_4_gigabytes_has_a_header_of_its_own(order):
    entries = [(256, 3, 80), (257, 4, 60), (0x0112, 3, 6)]
    content = (b"II" if order == "<" else b"MM") + struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(entries))
    for tag, kind, value in entries:
        content += struct.pack(order + ("HHQHHI" if kind == 3 else "HHQII"), tag, kind, 1, value, *([0] * (5 - kind)))
    assert read_header(content + bytes(8)) == ((60, 80), 6)


def test_sizes_of_many_files_stand_in_their_order(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        path.write_bytes(encoded("PNG", (number + 1, 7)))
    paths[3].write_bytes(b"")
    paths[5].write_text("no image")
    paths.append(tmp_path / "missing.jpg")
    sizes = image_sizes(paths)
    assert sizes[:3] == [(1, 7), (2, 7), (3, 7)]
    assert sizes[39] == (40, 7)
    messages = [str(sizes[number]) for number in (3, 5, 40)]
    assert all(isinstance(sizes[number], DataError) for number in (3, 5, 40))
    assert messages[0].startswith(f"{paths[3]}: the file is empty")
    assert messages[1].startswith(f"{paths[5]}: not a whole image")
    assert messages[2].startswith(f"{paths[40]}: no such image")
    assert image_sizes([]) == []


def test_a_folder_has_no_size(tmp_path):
    with pytest.raises(DataError, match="is a folder"):
        image_size(tmp_path)


def test_all_damaged_files_are_listed_in_their_order(tmp_path):
    paths = []
    for file_format in FORMATS:
        data = encoded(file_format)
        for name, content in (("whole", data), ("half", data[: len(data) // 2])):
            paths.append(tmp_path / f"{name}.{file_format}")
            paths[-1].write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "page").write_text("<html>404</html>")
    paths += [tmp_path / "empty", tmp_path / "page", tmp_path / "missing"]
    wrong = [path for path in paths if not path.name.startswith("whole")]
    assert [str(error).partition(": ")[0] for error in damaged(paths)] == [str(path) for path in wrong]
    assert damaged([]) == []


def test_values_without_a_range_are_listed_as_well(tmp_path):
    cv2.imwrite(str(tmp_path / "a.tif"), np.full((4, 6), 500, np.float32))
    assert "data.value_range" in str(damaged([tmp_path / "a.tif"])[0])
    assert damaged([tmp_path / "a.tif"], (0, 1000)) == []


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("file_format", FORMATS)
def test_no_damage_to_a_header_is_more_than_a_data_error(file_format):
    data = bytearray(encoded(file_format, (6, 8)))
    rng = np.random.default_rng(0)
    for length in range(0, 64, 3):
        for _ in range(3):
            changed = bytearray(data)
            for position in rng.integers(0, min(len(data), 64), 4):
                changed[position] = rng.integers(256)
            for content in (bytes(changed), bytes(data[:length])):
                with contextlib.suppress(DataError):
                    assert min(image_size(content)) > 0
