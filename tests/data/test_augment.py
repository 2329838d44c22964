import numpy as np
import pytest

from effdet.data.augment import horizontal_flip, scale_jitter, visible_boxes

FILL = (10, 20, 30)


def drawn(height, width, box):
    """Black image with one white box, and the box."""
    image = np.zeros((height, width, 3), np.uint8)
    left, top, right, bottom = box
    image[top:bottom, left:right] = 255
    return image, np.array([box], np.float32), np.array([7], np.int64)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_a_flip_mirrors_pixels_and_boxes_alike():
    image, boxes, _ = drawn(40, 60, (5, 10, 20, 30))
    flipped, mirrored = horizontal_flip(image, boxes, 1.0, rng())
    assert mirrored.tolist() == [[40, 10, 55, 30]]
    assert (flipped == drawn(40, 60, (40, 10, 55, 30))[0]).all()
    twice = horizontal_flip(flipped, mirrored, 1.0, rng())
    assert (twice[0] == image).all()
    assert (twice[1] == boxes).all()


def test_the_flip_has_its_probability():
    image, boxes, _ = drawn(4, 6, (0, 0, 2, 2))
    source = rng()
    flips = sum(horizontal_flip(image, boxes, 0.3, source)[1][0, 0] > 0 for _ in range(2000))
    assert 0.26 < flips / 2000 < 0.34
    assert horizontal_flip(image, boxes, 0.0, rng())[0] is image


def test_jittered_boxes_stay_on_their_pixels():
    source = rng()
    seen = 0
    for _ in range(300):
        height, width = source.integers(60, 500, 2)
        left, top = int(source.integers(0, width - 40)), int(source.integers(0, height - 40))
        box = (left, top, int(source.integers(left + 30, width)), int(source.integers(top + 30, height)))
        size = tuple(source.integers(100, 400, 2).tolist())
        image, boxes, labels, scale = scale_jitter(*drawn(height, width, box), size, (0.5, 2.0), (0, 0, 0), source)
        assert image.shape == (*size, 3)
        if not len(boxes):
            continue
        seen += 1
        assert labels.tolist() == [7]
        rows, columns = np.flatnonzero((image[..., 0] > 127).any(1)), np.flatnonzero((image[..., 0] > 127).any(0))
        if not len(rows):
            assert (boxes[0, 2:] - boxes[0, :2]).min() < 2 * max(scale)
            continue
        found = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        # Half a pixel of rounding, and half an original pixel where the crop starts inside the box.
        assert np.abs(found - boxes[0]).max() <= 0.51 + max(scale) / 2
    assert seen > 200


def test_the_scale_is_within_its_range_and_keeps_the_aspect():
    source = rng()
    ratios = []
    for _ in range(300):
        image, boxes, labels = drawn(200, 300, (0, 0, 300, 200))
        *_, (vertical, horizontal) = scale_jitter(image, boxes, labels, (256, 256), (0.1, 2.0), FILL, source)
        assert vertical == pytest.approx(horizontal, rel=0.03)
        ratios.append(horizontal / (256 / 300))
    assert 0.09 < min(ratios) < 0.15
    assert 1.95 < max(ratios) < 2.05
    assert np.mean(ratios) == pytest.approx(1.05, abs=0.1)


def test_a_smaller_image_is_padded_below_and_right():
    image, boxes, labels = drawn(100, 100, (0, 0, 100, 100))
    result, boxes, _, scale = scale_jitter(image, boxes, labels, (200, 200), (0.5, 0.5), FILL, rng())
    assert scale == (1.0, 1.0)
    assert boxes.tolist() == [[0, 0, 100, 100]]
    assert (result[:100, :100] == 255).all()
    assert (result[100:] == FILL).all()
    assert (result[:, 100:] == FILL).all()


def test_a_larger_image_is_cropped_anywhere():
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(100)[:, None], np.arange(100)
    corners = set()
    for seed in range(400):
        result, *_ = scale_jitter(
            image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), (50, 50), (2, 2), FILL, rng(seed)
        )
        corners.add((int(result[0, 0, 0]), int(result[0, 0, 1])))
    rows, columns = {row for row, _ in corners}, {column for _, column in corners}
    assert min(rows) == min(columns) == 0
    assert max(rows) == max(columns) == 50
    assert len(corners) > 300


def test_boxes_outside_the_crop_go_and_take_their_labels():
    boxes = np.array([[0, 0, 10, 10], [20, 20, 60, 60], [49.5, 0, 80, 40], [5, 5, 5.5, 30]], np.float32)
    visible, labels = visible_boxes(boxes, np.arange(4), (50, 50))
    assert visible.tolist() == [[0, 0, 10, 10], [20, 20, 50, 50]]
    assert labels.tolist() == [0, 1]


def test_an_image_without_objects_has_empty_boxes():
    image, boxes, labels = np.zeros((30, 40, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    _, boxes = horizontal_flip(image, boxes, 1.0, rng())
    _, boxes, labels, _ = scale_jitter(image, boxes, labels, (64, 64), (0.1, 2.0), FILL, rng())
    assert boxes.shape == (0, 4)
    assert boxes.dtype == np.float32
    assert labels.shape == (0,)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2000), (2000, 1), (3, 5)])
def test_degenerate_images_are_jittered_too(shape):
    image, boxes, labels = drawn(*shape, (0, 0, shape[1], shape[0]))
    for seed in range(30):
        result, boxes_seen, _, _ = scale_jitter(image, boxes, labels, (64, 96), (0.1, 2.0), FILL, rng(seed))
        assert result.shape == (64, 96, 3)
        assert (boxes_seen >= 0).all()
        assert (boxes_seen <= [96, 64, 96, 64]).all()


def test_inputs_are_never_changed():
    image, boxes, labels = drawn(100, 100, (10, 10, 90, 90))
    copies = image.copy(), boxes.copy(), labels.copy()
    for array in (image, boxes, labels):
        array.setflags(write=False)
    for scale in (0.5, 1.0, 2.0):
        flipped, mirrored = horizontal_flip(image, boxes, 1.0, rng())
        result, cut, _, _ = scale_jitter(image, boxes, labels, (100, 100), (scale, scale), FILL, rng())
        for fresh in (flipped, mirrored, result, cut):
            fresh[...] = 0
    assert all((now == before).all() for now, before in zip((image, boxes, labels), copies, strict=True))
