import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image as pil

from effdet.data.images import read_image
from effdet.errors import DataError
from effdet.inference.inputs import is_image, to_pixels


def pixels(size=(5, 7)):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "given",
    [
        pixels(),
        torch.from_numpy(pixels()),
        torch.from_numpy(pixels()).permute(2, 0, 1),
        pil.fromarray(pixels()),
        pil.fromarray(np.dstack([pixels(), np.full((5, 7), 9, np.uint8)])),
        cv2.imencode(".png", pixels()[..., ::-1])[1].tobytes(),
        torch.from_numpy(np.dstack([pixels(), np.full((5, 7), 9, np.uint8)])).permute(2, 0, 1),
        np.dstack([pixels(), np.full((5, 7), 9, np.uint8)]),
        bytearray(cv2.imencode(".png", pixels()[..., ::-1])[1].tobytes()),
    ],
    ids=[
        "array",
        "tensor of rows",
        "tensor of channels",
        "PIL",
        "PIL with alpha",
        "bytes",
        "tensor with alpha",
        "array with alpha",
        "bytearray",
    ],
)
def test_every_kind_of_image_has_the_same_pixels(given):
    assert is_image(given)
    assert (to_pixels(given) == pixels()).all()


def test_a_path_is_read(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), pixels()[..., ::-1])
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        assert is_image(path)
        assert (to_pixels(path) == pixels()).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "LA"])
def test_pil_images_of_other_modes_become_rgb(mode):
    image = pil.fromarray(pixels((8, 8))).convert(mode)
    assert (to_pixels(image) == np.asarray(image.convert("RGB"))).all()


def grey(values, channels=3):
    return np.repeat(np.asarray(values, np.uint8)[..., None], channels, axis=2)


TWELVE_BITS = np.array([[0, 2048], [4095, 1000]], np.uint16)


@pytest.mark.parametrize(
    "given",
    [
        TWELVE_BITS,
        TWELVE_BITS.astype(np.int32)[..., None],
        pil.fromarray(TWELVE_BITS),
        pil.fromarray(TWELVE_BITS.astype(np.int32)),
        torch.from_numpy(TWELVE_BITS.astype(np.int16)),
        torch.from_numpy(TWELVE_BITS.astype(np.int16))[None].expand(3, 2, 2),
        cv2.imencode(".png", TWELVE_BITS)[1].tobytes(),
        cv2.imencode(".tif", TWELVE_BITS)[1].tobytes(),
        np.dstack([TWELVE_BITS, TWELVE_BITS, TWELVE_BITS, np.full((2, 2), 65535, np.uint16)]),
    ],
)
def test_values_of_more_than_8_bits_follow_one_rule_wherever_they_come_from(given):
    assert (to_pixels(given) == grey([[0, 128], [255, 62]])).all()
    assert (to_pixels(given, (1000, 3048)) == grey([[0, 130], [255, 0]])).all()


@pytest.mark.parametrize(
    "given", [np.float32([[0, 0.5]]), torch.tensor([[0, 0.5]]), pil.fromarray(np.float32([[0, 0.5]]))]
)
def test_floats_in_0_to_1_are_shown(given):
    assert (to_pixels(given) == grey([[0, 128]])).all()


@pytest.mark.parametrize("given", [np.float32([[0, 255]]), torch.tensor([[-1.5, 0.5]]), np.int16([[-1, 5]])])
def test_values_that_need_a_range_are_refused(given):
    with pytest.raises(DataError, match=r"^image in memory: .* values from .*; set data\.value_range"):
        to_pixels(given)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_the_alpha_of_a_pil_image_is_dropped(mode):
    colors = pixels((4, 6)) if "RGB" in mode else grey(pixels((4, 6))[..., 0])
    colors = np.full_like(colors, 80) if mode == "PA" else colors
    image = pil.fromarray(np.dstack([colors, np.full((4, 6), 100, np.uint8)]), "RGBA")
    if mode != "RGBA":
        image = image.convert("LA") if mode in ("LA", "La", "PA") else image
        image = image if mode == "LA" else image.convert(mode)
    assert np.abs(to_pixels(image).astype(int) - colors).max() <= (2 if mode in ("RGBa", "La") else 0)


def test_the_exif_orientation_of_a_pil_image_is_applied(tmp_path):
    exif = pil.Exif()
    exif[0x0112] = 6
    pil.fromarray(pixels()).save(tmp_path / "a.png", exif=exif)
    upright = to_pixels(pil.open(tmp_path / "a.png"))
    assert (upright == np.rot90(pixels(), -1)).all()
    stream = io.BytesIO()
    pil.fromarray(pixels((16, 24))).save(stream, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(stream.getvalue())
    assert to_pixels(stream.getvalue()).shape == read_image(tmp_path / "a.jpg").shape == (24, 16, 3)


def test_a_tensor_of_three_rows_is_read_as_channels_first():
    image = torch.from_numpy(pixels((4, 3))).permute(2, 0, 1)
    assert (to_pixels(image) == pixels((4, 3))).all()


@pytest.mark.parametrize(
    "given",
    [
        np.zeros(5, np.uint8),
        np.zeros((5, 6, 7), np.uint8),
        np.zeros((5, 6, 3), np.complex64),
        np.zeros((0, 6, 3), np.uint8),
        torch.zeros(5, 6, 7),
        torch.zeros(3, 0, 6, dtype=torch.uint8),
    ],
)
def test_arrays_and_tensors_of_other_types_and_shapes_are_refused(given):
    assert is_image(given)
    with pytest.raises(DataError, match=r"image in memory: type .* and shape .*; expected numbers of shape \[H, W\]"):
        to_pixels(given)


@pytest.mark.parametrize("given", [b"", b"hello"])
def test_bytes_that_are_no_image_are_refused(given):
    with pytest.raises(DataError, match="image in memory"):
        to_pixels(given)


@pytest.mark.parametrize(
    "given", [[], [pixels()], (pixels(),), iter([]), np.zeros((2, 4, 4, 3)), torch.zeros(2, 3, 4, 4)]
)
def test_lists_and_batches_are_several_images(given):
    assert not is_image(given)
