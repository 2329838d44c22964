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
        bytearray(cv2.imencode(".png", pixels()[..., ::-1])[1].tobytes()),
    ],
    ids=["array", "tensor of rows", "tensor of channels", "PIL", "PIL with alpha", "bytes", "bytearray"],
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


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_pil_images_of_more_than_8_bits_are_refused(mode):
    with pytest.raises(DataError, match=rf"a PIL image has mode '{mode}'; convert it"):
        to_pixels(pil.new(mode, (4, 4)))


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
        np.zeros((5, 6), np.uint8),
        np.zeros((5, 6, 4), np.uint8),
        np.zeros((5, 6, 3), np.float32),
        np.zeros((0, 6, 3), np.uint8),
        torch.zeros(3, 5, 6),
        torch.zeros(3, 0, 6, dtype=torch.uint8),
        torch.zeros(5, 6, dtype=torch.uint8),
    ],
)
def test_arrays_and_tensors_of_other_types_and_shapes_are_refused(given):
    assert is_image(given)
    with pytest.raises(DataError, match=r"an image has type .* and shape .*; expected uint8 RGB \[H, W, 3\]"):
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
