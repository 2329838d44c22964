import numpy as np
import pytest

from effdet.data.augment.mosaic import copy_paste, mixup, mosaic, mosaic_tiles
from effdet.data.augment.sample import Sample


def drawn(height, width, *boxes, value=255, ground=0, label=0):
    """Image of one grey with boxes of another, labelled `label`, `label` + 1, ..."""
    image = np.full((height, width, 3), ground, np.uint8)
    for left, top, right, bottom in boxes:
        image[top:bottom, left:right] = value
    return Sample(image, np.array(boxes, np.float32).reshape(-1, 4), np.arange(len(boxes)) + label)


def extents(image, value):
    """The box around what has a value."""
    rows, columns = np.nonzero((image == value).all(axis=2))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def rng(seed=0):
    return np.random.default_rng(seed)


def pasting(sample, other, wanted):
    """The result of the first seed that pastes exactly the wanted boxes of `other`."""
    for seed in range(1000):
        if (rng(seed).random(len(other.boxes)) < 0.5).tolist() == wanted:
            return copy_paste(sample, other, rng(seed))
    raise AssertionError


@pytest.mark.parametrize("size", [(512, 512), (96, 64), (33, 47)])
def test_tiles_fill_the_canvas_once_and_none_is_small(size):
    centres = set()
    for seed in range(100):
        tiles = mosaic_tiles(size, rng(seed))
        covered = np.zeros(size, int)
        for tile in tiles:
            covered[tile] += 1
            assert min(covered[tile].shape) >= min(size) // 4
        assert (covered == 1).all()
        centres.add((tiles[0][0].stop, tiles[0][1].stop))
    assert len(centres) > 50


def test_a_mosaic_shows_each_image_in_its_tile_with_its_boxes():
    for seed in range(20):
        tiles = mosaic_tiles((100, 120), rng(seed))
        samples = []
        for number, (rows, columns) in enumerate(tiles):
            height, width = rows.stop - rows.start, columns.stop - columns.start
            box = (3, 4, width - 2, height - 5)
            samples.append(drawn(height, width, box, value=50 + number, ground=10 * number, label=number))
        image, boxes, labels = mosaic(samples, tiles, (100, 120))
        assert labels.tolist() == [0, 1, 2, 3]
        assert boxes.tolist() == [extents(image, 50 + number) for number in range(4)]
        for number, tile in enumerate(tiles):
            assert (image[tile] == samples[number].image).all()


def test_a_mosaic_of_images_without_objects_has_empty_boxes():
    tiles = mosaic_tiles((40, 40), rng())
    samples = [drawn(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in tiles]
    _, boxes, labels = mosaic(samples, tiles, (40, 40))
    assert (boxes.shape, boxes.dtype) == ((0, 4), np.float32)
    assert (labels.shape, labels.dtype) == ((0,), np.int64)


def test_mixup_blends_and_keeps_the_boxes_of_both():
    sample, other = drawn(30, 40, (5, 5, 20, 20), label=3), drawn(30, 40, (0, 0, 9, 9), (10, 10, 30, 29), label=7)
    shares = []
    for seed in range(200):
        image, boxes, labels = mixup(sample, other, rng(seed))
        assert boxes.tolist() == [*sample.boxes.tolist(), *other.boxes.tolist()]
        assert labels.tolist() == [3, 7, 8]
        assert (image[25, 35] == 0).all()
        assert abs(int(image[6, 12, 0]) + int(image[2, 2, 0]) - 255) <= 1  # of the one alone, and of the other
        assert (image[12, 12] == 255).all()  # of both
        shares.append(image[6, 12, 0] / 255)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.03)
    assert min(shares) > 0.05


def test_mixup_with_an_image_without_objects_keeps_ones_own():
    _, boxes, labels = mixup(drawn(20, 20, (1, 2, 9, 9), label=4), drawn(20, 20), rng())
    assert boxes.tolist() == [[1, 2, 9, 9]]
    assert labels.tolist() == [4]


def test_a_pasted_object_comes_with_its_pixels_and_its_box():
    sample = drawn(60, 80, (5, 5, 20, 20), value=100)
    other = drawn(60, 80, (40, 30, 70, 50), (2, 40, 10, 55), value=200, ground=150, label=5)
    image, boxes, labels = pasting(sample, other, [True, False])
    assert boxes.tolist() == [[5, 5, 20, 20], [40, 30, 70, 50]]
    assert labels.tolist() == [0, 5]
    assert extents(image, 200) == [40, 30, 70, 50]
    assert extents(image, 100) == [5, 5, 20, 20]
    assert not (image == 150).any()


def test_a_partly_covered_box_shrinks_to_its_visible_region():
    sample = drawn(60, 80, (10, 10, 40, 40), value=100)
    for cover in ((25, 5, 60, 45), (0, 0, 30, 60), (5, 20, 45, 60), (20, 20, 30, 30), (30, 30, 60, 60)):
        image, boxes, labels = pasting(sample, drawn(60, 80, cover, value=200, label=5), [True])
        assert boxes.tolist() == [extents(image, 100), list(cover)]
        assert labels.tolist() == [0, 5]


def test_covers_side_by_side_cut_a_box_together():
    sample = drawn(60, 80, (10, 10, 40, 40), value=100)
    other = drawn(60, 80, (5, 5, 20, 25), (5, 25, 20, 50), value=200, label=5)
    image, boxes, _ = pasting(sample, other, [True, True])
    assert boxes[0].tolist() == extents(image, 100) == [20, 10, 40, 40]


def test_a_covered_object_has_no_box():
    sample = drawn(60, 80, (10, 10, 40, 40), (50, 50, 60, 60))
    for cover in ((10, 10, 40, 40), (5, 5, 45, 45), (10, 10, 40, 33)):
        _, boxes, labels = pasting(sample, drawn(60, 80, cover, label=5), [True])
        assert boxes.tolist() == [[50, 50, 60, 60], list(cover)]
        assert labels.tolist() == [1, 5]


def test_what_a_pasted_box_brings_along_has_a_box_if_it_can_be_recognised():
    # A table with a cup on it, a chair half of which the table's box shows, and a person of whom it shows a little.
    other = drawn(100, 100, (20, 40, 80, 90), (30, 50, 40, 60), (70, 50, 90, 90), (0, 0, 25, 60), label=5)
    _, boxes, labels = pasting(drawn(100, 100), other, [True, False, False, False])
    assert boxes.tolist() == [[20, 40, 80, 90], [30, 50, 40, 60], [70, 50, 80, 90]]
    assert labels.tolist() == [5, 6, 7]
    _, boxes, labels = pasting(drawn(100, 100), other, [False, True, False, False])
    assert labels.tolist() == [6]


def test_fractions_of_a_pixel_are_kept():
    sample = drawn(50, 50)._replace(boxes=np.array([[2.25, 3.5, 20.75, 20.5]], np.float32), labels=np.array([0]))
    other = drawn(50, 50)._replace(boxes=np.array([[30.25, 30.5, 40.75, 49.5]], np.float32), labels=np.array([1]))
    _, boxes, _ = pasting(sample, other, [True])
    assert boxes.tolist() == [[2.25, 3.5, 20.75, 20.5], [30.25, 30.5, 40.75, 49.5]]


def test_an_image_without_objects_pastes_nothing():
    sample = drawn(30, 30, (5, 5, 20, 20))
    assert copy_paste(sample, drawn(30, 30), rng()) is sample


def test_scenes_are_never_changed():
    sample, other = drawn(32, 32, (5, 5, 20, 20), value=100), drawn(32, 32, (10, 10, 30, 30), value=200)
    tile = slice(0, 16)
    small = drawn(16, 16, (2, 2, 9, 9))
    arrays = [*sample, *other, *small]
    copies = [array.copy() for array in arrays]
    for array in arrays:
        array.setflags(write=False)
    rest = slice(16, 32)
    results = [
        mixup(sample, other, rng()),
        pasting(sample, other, [True]),
        mosaic([small] * 4, [(tile, tile), (tile, rest), (rest, tile), (rest, rest)], (32, 32)),
    ]
    for fresh in (array for result in results for array in result):
        fresh[...] = 0
    assert all((now == before).all() for now, before in zip(arrays, copies, strict=True))
