import cv2
import numpy as np
import PIL.Image
import pytest
import torch

from effdet.data.letterbox import letterbox, undo_letterbox
from effdet.data.resize import resize

FILL = (10, 20, 30)


def random_sizes(count):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield tuple(int(side) for side in np.exp(rng.uniform(0, 7, 2))), tuple(rng.integers(1, 1000, 2).tolist())


@pytest.mark.parametrize("mode", ["pad", "stretch"])
def test_the_letterbox_and_its_undo_are_inverse_at_any_size(mode):
    for original, size in random_sizes(200):
        height, width = original
        _, scale = letterbox(np.zeros((height, width, 3), np.uint8), size, FILL, True, mode)
        boxes = torch.rand(20, 4) * torch.tensor([width, height, width, height])
        there = boxes * torch.tensor([scale[1], scale[0], scale[1], scale[0]])
        assert (there[:, 0::2] <= size[1] + 1e-3).all()
        assert (there[:, 1::2] <= size[0] + 1e-3).all()
        assert (undo_letterbox(there, scale, original) - boxes).abs().max() < 1e-3


@pytest.mark.parametrize("mode", ["pad", "stretch"])
@pytest.mark.parametrize("antialias", [False, True])
def test_a_drawn_box_is_where_the_letterbox_says(antialias, mode):
    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(100, 700, 2)
        size = tuple(rng.integers(300, 900, 2).tolist())
        left, top = int(rng.integers(0, width - 60)), int(rng.integers(0, height - 60))
        right, bottom = int(rng.integers(left + 40, width)), int(rng.integers(top + 40, height))
        image = np.zeros((height, width, 3), np.uint8)
        image[top:bottom, left:right] = 255
        boxed, scale = letterbox(image, size, (0, 0, 0), antialias, mode)
        soft = boxed[..., 0].astype(float) / 255  # the sums find edges to a fraction of a pixel
        rows, columns = soft.max(axis=1), soft.max(axis=0)
        centre = np.array([(p * (np.arange(len(p)) + 0.5)).sum() / p.sum() for p in (columns, rows)])
        side = np.array([columns.sum(), rows.sum()])
        measured = torch.from_numpy(np.concatenate([centre - side / 2, centre + side / 2])[None]).float()
        back = undo_letterbox(measured, scale, (int(height), int(width)))
        assert (back - torch.tensor([[left, top, right, bottom]])).abs().max() < 0.5


def test_the_letterbox_keeps_the_aspect_and_fills_below_and_right():
    image = np.full((100, 200, 3), 255, np.uint8)
    boxed, scale = letterbox(image, (300, 300), FILL, True, "pad")
    assert boxed.shape == (300, 300, 3)
    assert scale == (1.5, 1.5)
    assert (boxed[:150] == 255).all()
    assert (boxed[150:] == FILL).all()
    assert (letterbox(image, (50, 300), FILL, True, "pad")[0][:, 100:] == FILL).all()


def test_a_stretched_image_fills_the_input():
    image = noise(100, 200)
    boxed, scale = letterbox(image, (300, 300), FILL, True, "stretch")
    assert scale == (3.0, 1.5)
    assert (boxed == resize(image, (300, 300), "bilinear", True)).all()


def test_both_modes_are_equal_for_images_of_the_aspect_of_the_input():
    image = noise(96, 128)
    padded, stretched = (letterbox(image, (48, 64), FILL, True, mode) for mode in ("pad", "stretch"))
    assert (padded[0] == stretched[0]).all()
    assert padded[1] == stretched[1] == (0.5, 0.5)


def test_an_image_of_the_right_size_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    boxed, scale = letterbox(image, (60, 80), FILL, True, "pad")
    assert (boxed == image).all()
    assert scale == (1.0, 1.0)


def test_a_thin_image_keeps_at_least_one_pixel():
    boxed, scale = letterbox(np.zeros((1, 1000, 3), np.uint8), (64, 64), FILL, True, "pad")
    assert boxed.shape == (64, 64, 3)
    assert scale == (1.0, 0.064)


def test_undone_boxes_are_clipped_to_the_image():
    boxes = undo_letterbox(torch.tensor([[-5.0, -5.0, 500.0, 500.0]]), (2.0, 2.0), (100, 50))
    assert boxes.tolist() == [[0, 0, 50, 100]]
    assert undo_letterbox(torch.zeros(0, 4), (2.0, 2.0), (100, 50)).shape == (0, 4)


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(100, 150), (240, 320), (25, 40), (300, 500)])
def test_with_antialiasing_the_letterbox_resizes_as_pillow(size):
    image = noise(200, 300)
    boxed, scale = letterbox(image, size, FILL, True, "pad")
    height, width = round(200 * scale[0]), round(300 * scale[1])
    expected = np.asarray(PIL.Image.fromarray(image).resize((width, height), PIL.Image.Resampling.BILINEAR))
    assert np.abs(boxed[:height, :width].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("size", [(100, 150), (240, 320), (25, 40), (300, 500)])
def test_without_antialiasing_the_letterbox_resizes_as_opencv(size):
    image = noise(200, 300)
    boxed, scale = letterbox(image, size, FILL, False, "pad")
    height, width = round(200 * scale[0]), round(300 * scale[1])
    assert (boxed[:height, :width] == cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)).all()
