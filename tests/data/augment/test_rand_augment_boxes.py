import numpy as np
import pytest

from effdet.data.augment.rand_augment_boxes import (
    OPERATIONS,
    cutout,
    map_boxes,
    rand_augment_boxes,
    rotate,
    shear,
    translate,
)
from effdet.data.augment.sample import Sample


def drawn(height, width, *boxes):
    """Black image with white boxes, labelled 0, 1, ..."""
    image = np.zeros((height, width, 3), np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = 255
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)))


def extent(image):
    """The box around what is white."""
    white = (image == 255).all(axis=2)
    rows, columns = np.flatnonzero(white.any(axis=1)), np.flatnonzero(white.any(axis=0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("angle", [-90, -45, -30, -7, 0, 12, 30, 45, 90])
def test_a_rotated_box_is_around_its_rotated_pixels(angle):
    sample = drawn(300, 320, (120, 110, 190, 170))
    turned = rotate(sample, angle)
    assert np.abs(turned.boxes[0] - extent(turned.image)).max() <= 1.01  # the tip of a corner covers no pixel
    assert turned.labels.tolist() == [0]


@pytest.mark.parametrize(("horizontal", "vertical"), [(0.3, 0), (-0.45, 0), (0, 0.3), (0, -0.45), (0.0, 0)])
def test_a_sheared_box_is_around_its_sheared_pixels(horizontal, vertical):
    sample = drawn(400, 400, (180, 170, 230, 240))
    slanted = shear(sample, horizontal, vertical)
    assert np.abs(slanted.boxes[0] - extent(slanted.image)).max() <= 1.01


@pytest.mark.parametrize(("horizontal", "vertical"), [(0.21, 0), (-0.33, 0), (0, 0.123), (0, -0.2)])
def test_a_translated_box_is_exactly_around_its_pixels(horizontal, vertical):
    sample = drawn(200, 310, (120, 90, 160, 121))
    moved = translate(sample, horizontal, vertical)
    assert moved.boxes.tolist() == [extent(moved.image).tolist()]


def test_boxes_are_clipped_to_the_image_and_those_outside_are_dropped_with_their_labels():
    sample = drawn(100, 100, (0, 10, 30, 40), (40, 10, 60, 40), (90, 50, 100, 60))
    moved = translate(sample, 0.2, 0)
    assert moved.boxes.tolist() == [[20, 10, 50, 40], [60, 10, 80, 40]]
    assert moved.labels.tolist() == [0, 1]
    moved = translate(sample, -0.5, 0)
    assert moved.boxes.tolist() == [[0, 10, 10, 40], [40, 50, 50, 60]]
    assert moved.labels.tolist() == [1, 2]


def test_mapped_boxes_are_around_points_on_their_edges():
    source = rng()
    corners = source.uniform(0, 100, (20, 2))
    boxes = np.concatenate([corners, corners + source.uniform(1, 50, (20, 2))], axis=1).astype(np.float32)
    for _ in range(20):
        matrix = source.normal(size=(2, 3))
        for box, mapped in zip(boxes, map_boxes(boxes, matrix), strict=True):
            x, y = np.meshgrid(np.linspace(box[0], box[2], 9), np.linspace(box[1], box[3], 9))
            points = matrix @ np.stack([x.ravel(), y.ravel(), np.ones(81)])
            assert np.allclose(mapped, [*points.min(axis=1), *points.max(axis=1)], atol=1e-3)


def test_a_cutout_is_grey_and_leaves_the_rest():
    image = drawn(20, 30, (0, 0, 30, 20)).image
    cut = cutout(image, 15, -4, 10)
    assert (cut[15:, :6] == 128).all()
    assert (cut == 128).all(axis=2).sum() == 5 * 6
    assert (cutout(image, -20, 5, 10) == image).all()


def test_every_operation_is_drawn():
    sample = drawn(40, 60, (10, 10, 40, 30))
    sample = sample._replace(image=rng().integers(20, 200, sample.image.shape, np.uint8))
    results = {rand_augment_boxes(sample, 1, 9, rng(seed)).image.tobytes() for seed in range(300)}
    assert len(results) >= len(OPERATIONS)


def test_without_layers_nothing_is_changed_or_drawn():
    sample, source = drawn(20, 30, (5, 5, 10, 10)), rng()
    assert rand_augment_boxes(sample, 0, 15, source) is sample
    assert source.random() == rng().random()


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 5), (60, 80)])
@pytest.mark.parametrize("boxes", [False, True])
def test_any_image_is_changed_at_any_strength(shape, boxes):
    height, width = shape
    sample = drawn(height, width, *([(0, 0, width, height)] if boxes else []))
    copies = [array.copy() for array in sample]
    for array in sample:
        array.setflags(write=False)
    for seed in range(60):
        magnitude = (0, 10, 15, 30)[seed % 4]
        first, second = (rand_augment_boxes(sample, 2, magnitude, rng(seed)) for _ in range(2))
        assert all((one == other).all() for one, other in zip(first, second, strict=True))
        assert first.image.shape == (*shape, 3)
        assert first.boxes.shape == (len(first.labels), 4)
        assert (first.boxes.dtype, first.labels.dtype) == (np.float32, np.int64)
        assert (first.boxes >= 0).all()
        assert (first.boxes <= [width, height, width, height]).all()
    assert all((now == before).all() for now, before in zip(sample, copies, strict=True))
