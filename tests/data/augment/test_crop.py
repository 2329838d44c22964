import numpy as np
import pytest

from effdet.data.augment.crop import random_crop, random_window


def rng(seed=0):
    return np.random.default_rng(seed)


def test_random_windows_keep_their_ranges():
    source = rng()
    areas, aspects, corners = [], [], []
    for _ in range(2000):
        rows, columns = random_window((400, 400), (0.08, 1.0), (0.75, 4 / 3), source)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert 0 <= rows.start < rows.stop <= 400
        assert 0 <= columns.start < columns.stop <= 400
        areas.append(height * width / 400**2)
        aspects.append(width / height)
        corners.append((rows.start, columns.start))
    assert 0.078 < min(areas) < 0.1
    assert 0.95 < max(areas) <= 1
    assert 0.74 < min(aspects) < 0.77
    assert 1.31 < max(aspects) < 1.35
    assert np.median(aspects) == pytest.approx(1, abs=0.03)
    assert len(set(corners)) > 1500


def test_a_window_that_never_fits_is_none():
    assert random_window((1, 300), (0.08, 1.0), (0.75, 1.33), rng()) is None
    assert random_window((10, 10), (1.0, 1.0), (1.0, 1.0), rng()) == (slice(0, 10), slice(0, 10))


def test_without_an_area_there_is_no_crop_and_nothing_is_drawn():
    source = rng()
    assert random_crop((40, 60), (32, 32), None, (0.75, 1.33), source) is None
    assert source.random() == rng().random()


def test_aspects_are_relative_to_the_input():
    for seed in range(100):
        rows, columns = random_crop((400, 400), (32, 64), (0.2, 0.3), (0.8, 1.25), rng(seed))
        assert 1.5 < (columns.stop - columns.start) / (rows.stop - rows.start) < 2.6
