import numpy as np
import PIL.Image
import pytest
from PIL import ImageEnhance, ImageOps

from effdet.data.augment import rand_augment as ra


def photo(height=48, width=64, low=30, high=220, seed=0):
    """Smooth colours with noise; each channel of another range."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = [rows, columns, rows * columns]
    image = np.stack([low + 10 * i + (high - low - 30 * i) * channel for i, channel in enumerate(channels)], axis=2)
    return np.clip(image + rng.integers(-15, 16, image.shape), 0, 255).astype(np.uint8)


def coordinates(height=50, width=80):
    """The value of each pixel is its row and its column."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(height)[:, None], np.arange(width)
    return image


def distance(image, other):
    return np.abs(image.astype(int) - np.asarray(other).astype(int)).max()


def pillow(image):
    return PIL.Image.fromarray(image)


@pytest.mark.parametrize("seed", range(3))
def test_changes_of_the_grey_levels_equal_pillows(seed):
    image = photo(seed=seed)
    assert distance(ra.autocontrast(image), ImageOps.autocontrast(pillow(image))) <= 1
    assert distance(ra.equalize(image), ImageOps.equalize(pillow(image))) == 0
    for bits in (1, 4, 8):
        assert distance(ra.posterize(image, bits), ImageOps.posterize(pillow(image), bits)) == 0
    for threshold in (0, 100, 128, 255, 256):
        assert distance(ra.solarize(image, threshold), ImageOps.solarize(pillow(image), threshold)) == 0


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 1.9, 5.5])
def test_enhancements_equal_pillows(factor):
    image = photo()
    rounding = 1 + max(factor, 1)  # of the blend, and of the plain image in it, which the factor enlarges
    assert distance(ra.color(image, factor), ImageEnhance.Color(pillow(image)).enhance(factor)) <= rounding
    assert distance(ra.contrast(image, factor), ImageEnhance.Contrast(pillow(image)).enhance(factor)) <= rounding
    assert distance(ra.brightness(image, factor), ImageEnhance.Brightness(pillow(image)).enhance(factor)) <= 1
    assert distance(ra.sharpness(image, factor), ImageEnhance.Sharpness(pillow(image)).enhance(factor)) <= rounding


def test_a_factor_of_one_changes_nothing():
    image = photo()
    for change in (ra.color, ra.contrast, ra.brightness, ra.sharpness):
        assert (change(image, 1.0) == image).all()


def test_solarize_add_raises_the_darker_half_alone():
    image = np.array([[[0, 100, 127], [128, 200, 255]]], np.uint8)
    assert ra.solarize_add(image, 110).tolist() == [[[110, 210, 237], [128, 200, 255]]]
    assert ra.solarize_add(image, 330).tolist() == [[[255, 255, 255], [128, 200, 255]]]


def test_a_rotation_turns_counter_clockwise_about_the_centre():
    image = photo(51, 51)
    assert (ra.rotate(image, 90) == np.rot90(image)).all()
    turned = np.asarray(pillow(image).rotate(20, fillcolor=(128, 128, 128)))
    assert (ra.rotate(image, 20) == turned).all(axis=2).mean() > 0.99


def test_a_shear_takes_pixels_from_further_along():
    image = coordinates()
    slanted = ra.shear(image, 0.3, 0)
    assert (slanted[:, :40, 0] == image[:, :40, 0]).all()
    assert (slanted[20, :70, 1] == np.arange(6, 76)).all()
    assert (slanted[20, 75:] == 128).all()
    slanted = ra.shear(image, 0, -0.5)
    assert (slanted[20:, 30, 0] == np.arange(5, 35)).all()
    assert (slanted[:14, 30] == 128).all()


def test_a_translation_moves_by_fractions_of_the_sides_and_leaves_grey():
    image = coordinates()
    moved = ra.translate(image, 0.25, 0)
    assert (moved[:, 20:] == image[:, :60]).all()
    assert (moved[:, :20] == 128).all()
    moved = ra.translate(image, 0, -0.2)
    assert (moved[:40] == image[10:]).all()
    assert (moved[40:] == 128).all()


@pytest.mark.parametrize("magnitude", [0, 0.5, 6.67, 10, 17, 30])
@pytest.mark.parametrize("shape", [(48, 64), (1, 1), (1, 9), (2, 3)])
def test_every_operation_is_valid_at_every_magnitude(magnitude, shape):
    for image in (photo(*shape), np.full((*shape, 3), 200, np.uint8), np.zeros((*shape, 3), np.uint8)):
        before = image.copy()
        image.setflags(write=False)
        for operation in ra.OPERATIONS:
            result = operation(image, magnitude / ra.FULL_MAGNITUDE, np.random.default_rng(0))
            assert result.shape == image.shape
            assert result.dtype == np.uint8
        assert (image == before).all()


def test_something_of_the_image_is_left_at_the_greatest_magnitude():
    for number, operation in enumerate(ra.OPERATIONS):
        for seed in range(4):
            result = operation(photo(low=60, high=200), 3.0, np.random.default_rng(seed))
            assert (result.max(axis=(0, 1)) > result.min(axis=(0, 1))).any(), number


def test_geometry_goes_both_ways():
    image = photo()
    for operation in ra.OPERATIONS[-5:]:
        results = {operation(image, 1.0, np.random.default_rng(seed)).tobytes() for seed in range(20)}
        assert len(results) == 2


def test_layers_are_drawn_from_all_operations(monkeypatch):
    drawn = []
    operations = tuple(
        lambda image, strength, rng, number=number: drawn.append((number, strength)) or image
        for number in range(len(ra.OPERATIONS))
    )
    monkeypatch.setattr(ra, "OPERATIONS", operations)
    rng = np.random.default_rng(0)
    for _ in range(1000):
        ra.rand_augment(photo(), 3, 15.0, rng)
    counts = np.bincount([number for number, _ in drawn])
    assert len(drawn) == 3000
    assert {strength for _, strength in drawn} == {1.5}
    assert len(counts) == 15
    assert counts.min() > 150
    assert counts.max() < 250


def test_no_layers_leave_the_image_and_the_draws_decide_the_rest():
    image = photo()
    assert ra.rand_augment(image, 0, 10, np.random.default_rng(0)) is image
    first, again, other = (ra.rand_augment(image, 2, 9, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
