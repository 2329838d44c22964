import colorsys

import numpy as np
import pytest

from effdet.data.augment.photometric import brighten, photometric_distortion, turn_hue


def photo(height=24, width=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_brightening_adds_and_cuts():
    image = photo()
    for addition in (-40, 0, 25):
        assert (brighten(image, addition) == np.clip(image.astype(int) + addition, 0, 255)).all()


@pytest.mark.parametrize("degrees", [-18, -5, 0, 7, 18])
def test_a_turned_hue_equals_the_standard_librarys(degrees):
    image = photo()
    hsv = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3) / 255])
    hsv[:, 0] = (hsv[:, 0] + degrees / 360) % 1
    wanted = 255 * np.array([colorsys.hsv_to_rgb(*pixel) for pixel in hsv]).reshape(image.shape)
    # Hue and saturation pass through 256 steps each, of which a colour circle has six ramps.
    assert np.abs(turn_hue(image, degrees) - wanted).max() <= 10


def test_greys_have_no_hue_to_turn():
    image = np.repeat(photo()[..., :1], 3, axis=2)
    assert (turn_hue(image, 90) == image).all()


def test_each_change_has_the_probability():
    image = photo(4, 4)
    source = rng()
    same = sum((photometric_distortion(image, 0.2, source) == image).all() for _ in range(2000))
    assert 0.37 < same / 2000 < 0.48  # 0.8 ** 4 = 0.41, and changes too small to be seen


def test_without_a_probability_nothing_is_changed_or_drawn():
    image, source = photo(), rng()
    assert photometric_distortion(image, 0.0, source) is image
    assert source.random() == rng().random()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1)])
def test_the_input_is_never_changed_and_the_same_seed_gives_the_same_image(shape):
    image = photo(*shape)
    copy = image.copy()
    image.setflags(write=False)
    for seed in range(10):
        first, second = (photometric_distortion(image, 1.0, rng(seed)) for _ in range(2))
        assert first.shape == image.shape
        assert first.dtype == np.uint8
        assert (first == second).all()
    assert (image == copy).all()
