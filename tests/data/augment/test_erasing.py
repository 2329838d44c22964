import numpy as np

from effdet.data.augment.erasing import random_erasing


def rng(seed=0):
    return np.random.default_rng(seed)


def test_erasing_fills_a_rectangle_with_noise():
    image = np.full((100, 120, 3), 7, np.uint8)
    areas = []
    for seed in range(200):
        erased = random_erasing(image, 1.0, rng(seed))
        changed = (erased != 7).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
        noise = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert noise.std() > 60
        areas.append(noise[..., 0].size / changed.size)
        assert 0.27 < noise.shape[1] / noise.shape[0] < 3.6
    assert 0.018 < min(areas) < 0.04
    assert 0.3 < max(areas) < 0.35
    assert (image == 7).all()


def test_erasing_has_its_probability_and_spares_what_is_too_small():
    image = np.full((50, 50, 3), 7, np.uint8)
    source = rng()
    assert 0.2 < np.mean([random_erasing(image, 0.25, source) is not image for _ in range(1000)]) < 0.3
    assert random_erasing(image, 0.0, source) is image
    assert random_erasing(np.zeros((1, 1, 3), np.uint8), 1.0, source).shape == (1, 1, 3)
