import numpy as np
import PIL.Image
import pytest

from effdet.data.resize import classification_view, rescale, resize

FILTERS = {"bilinear": PIL.Image.Resampling.BILINEAR, "bicubic": PIL.Image.Resampling.BICUBIC}


def photo(height, width):
    """Blocks of colour with noise: edges, flat regions and detail."""
    rng = np.random.default_rng(height * 1000 + width)
    blocks = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
    image = np.kron(blocks, np.ones((16, 16, 1), int))[:height, :width]
    return np.clip(image + rng.integers(-20, 21, image.shape), 0, 255).astype(np.uint8)


def pillow(image, size, interpolation):
    return np.asarray(PIL.Image.fromarray(image).resize(size[::-1], FILTERS[interpolation]))


def distance(first, second):
    return np.abs(first.astype(int) - second.astype(int)).max()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(224, 299), (120, 100), (240, 1), (1, 320), (31, 500), (239, 321), (400, 500)])
def test_resizing_equals_pillows(size, interpolation):
    # Middle greys: bicubic overshoots, and what is cut off at 0 and 255 depends on which axis comes first.
    image = photo(240, 320) // 2 + 64
    resized = resize(image, size, interpolation)
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.uint8
    assert resized.flags.c_contiguous
    enlarged = size[0] > 240 or size[1] > 320
    assert distance(resized, pillow(image, size, interpolation)) <= (2 if enlarged else 1)


def test_a_view_of_an_image_is_resized_like_its_copy():
    image = photo(240, 320)
    for view in (image[17:170, 40:301], image[::-1, :, ::-1]):
        assert (resize(view, (64, 96), "bicubic") == resize(view.copy(), (64, 96), "bicubic")).all()


def test_rescaling_by_exact_factors_keeps_positions_and_sizes():
    image = photo(240, 320)
    assert (rescale(image, (0.5, 0.25), (120, 80)) == resize(image, (120, 80), "bilinear")).all()
    for side in range(20, 240):  # also where the factor is no exact number
        assert rescale(image, (side / 240, side / 320), (side, side)).shape == (side, side, 3)
    ramp = np.tile(np.arange(240, dtype=np.uint8)[:, None, None], (1, 10, 3))
    middle = rescale(ramp, (0.3, 1.0), (71, 10))[10:60, 5, 0]  # 0.3 pixels of the last row belong to no result
    assert np.abs(middle - ((np.arange(10, 60) + 0.5) / 0.3 - 0.5)).max() <= 1


def test_without_antialiasing_a_fine_pattern_stays():
    lines = np.zeros((256, 256, 3), np.uint8)
    lines[:, ::2] = 255
    assert resize(lines, (64, 64), "bilinear").std() < 10
    assert resize(lines, (100, 100), "bilinear", antialias=False).std() > 60


def test_an_image_of_the_requested_size_stays_as_it_is():
    image = photo(50, 60)
    assert (resize(image, (50, 60), "bicubic") == image).all()


@pytest.mark.parametrize(
    ("shape", "resized"),
    [((480, 640), (256, 341)), ((640, 480), (341, 256)), ((500, 333), (384, 256)), ((256, 256), (256, 256))],
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_view_is_the_centre_of_the_image_whose_short_side_is_resized(shape, resized, interpolation):
    image = photo(*shape)
    wanted = pillow(image, resized, interpolation)
    top, left = round((resized[0] - 224) / 2), round((resized[1] - 224) / 2)
    view = classification_view(image, (224, 224), 0.875, interpolation)
    assert distance(view, wanted[top : top + 224, left : left + 224]) <= 1


@pytest.mark.parametrize(
    ("side", "resized"), [(240, 255), (224, 256), (380, 384), (300, 320), (288, 288), (480, 480), (232, 257)]
)
def test_the_side_before_the_crop_is_the_one_that_the_crop_says(side, resized):
    image = photo(resized, resized)
    view = classification_view(image, (side, side), side / resized, "bilinear")
    start = round((resized - side) / 2)
    assert (view == image[start : start + side, start : start + side]).all()


def test_a_fraction_of_a_side_is_dropped():
    view = classification_view(photo(331, 331), (300, 300), 0.904, "bicubic")  # 331.86
    assert (view == photo(331, 331)[16:316, 16:316]).all()


@pytest.mark.parametrize(
    ("shape", "resized"), [((100, 100), (160, 160)), ((100, 300), (80, 240)), ((300, 100), (480, 160))]
)
def test_a_wide_view_is_covered_on_both_axes(shape, resized):
    image = photo(*shape)
    wanted = pillow(image, resized, "bicubic")
    top, left = (resized[0] - 64) // 2, (resized[1] - 128) // 2
    view = classification_view(image, (64, 128), 0.8, "bicubic")
    assert distance(view, wanted[top : top + 64, left : left + 128]) <= 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (3, 5), (2, 2)])
@pytest.mark.parametrize("crop", [1.0, 0.875, 0.3])
def test_degenerate_images_have_a_view_too(shape, crop):
    image = np.full((*shape, 3), 77, np.uint8)
    view = classification_view(image, (32, 48), crop, "bicubic")
    assert view.shape == (32, 48, 3)
    assert (view == 77).all()


def test_inputs_are_never_changed():
    image = photo(60, 80)
    before = image.copy()
    image.setflags(write=False)
    classification_view(image, (32, 32), 0.875, "bilinear")
    resize(image, (60, 80), "bilinear")
    assert (image == before).all()
