import numpy as np
import pytest
import torch

from effdet.boxes import pairwise_iou
from effdet.diagnosis.anchors import grid as anchor_grid
from effdet.diagnosis.anchors.grid import best_overlaps, count_overlapping, make_grid, match
from effdet.losses.matching import match_anchors
from effdet.models.anchors import ASPECTS

# Input size, anchor scale, aspects: with levels that divide the input and that do not, and with one aspect alone
GRIDS = [
    ((192, 256), 3.0, ASPECTS),
    ((250, 130), 4.0, (*ASPECTS, (3.0, 0.3))),
    ((64, 64), 1.5, ((1.0, 1.0),)),
]


def draw(size, images=40, seed=0):
    """Boxes [N, 4] of all sizes and shapes, many cut by the border, some twice or on whole pixels; their images [N]."""
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), rng.integers(0, 30, images))
    centre = rng.uniform(-0.05, 1.05, (len(image), 2)) * [size[1], size[0]]
    side = np.exp(rng.uniform(np.log(0.5), np.log(1.3 * max(size)), (len(image), 1)))
    sides = side * np.exp(rng.normal(0, 0.7, (len(image), 2)))
    corners = np.concatenate([centre - sides / 2, centre + sides / 2], 1)
    corners[::7] = np.round(corners[::7])
    boxes = corners.clip(0, [size[1], size[0], size[1], size[0]]).astype(np.float32)
    boxes[5:40:5] = boxes[4:39:5]
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return boxes[kept], image[kept]


def slow_positives(boxes, image, grid):
    """Positive anchors of each box by level, [N, L], by the matcher of training over all anchors."""
    anchors = torch.from_numpy(grid.anchors)
    positive, box = match_anchors(anchors, torch.from_numpy(boxes), torch.from_numpy(image))
    level = np.searchsorted(grid.starts, positive.numpy() % len(anchors), side="right") - 1
    counts = np.zeros((len(boxes), len(grid.starts)), np.int64)
    np.add.at(counts, (box.numpy(), level), 1)
    return counts


@pytest.mark.parametrize(("size", "scale", "aspects"), GRIDS)
def test_matches_are_those_of_the_comparison_with_all_anchors(size, scale, aspects):
    grid = make_grid(size, 7, scale, aspects)
    boxes, image = draw(size)
    matches = match(boxes, image, grid)
    full = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(grid.anchors)).numpy()
    np.testing.assert_array_equal(matches.best_iou, full.max(1))
    np.testing.assert_array_equal(matches.positives, slow_positives(boxes, image, grid))
    assert 0.1 < matches.covered.mean() < 0.9
    assert matches.claimed_only.any()
    assert matches.without.any()


@pytest.mark.parametrize(("size", "scale", "aspects"), GRIDS)
def test_the_best_iou_of_each_shape_is_that_of_all_its_anchors(size, scale, aspects):
    grid = make_grid(size, 7, scale, aspects)
    boxes, _ = draw(size, seed=1)
    full = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(grid.anchors)).numpy()
    per_shape = full.reshape(len(boxes), -1, 3 * len(aspects)).max(1)
    np.testing.assert_allclose(best_overlaps(boxes, grid), per_shape, atol=1e-6)


@pytest.mark.parametrize(("size", "scale", "aspects"), GRIDS)
def test_overlapping_anchors_of_each_shape_are_counted(size, scale, aspects):
    grid = make_grid(size, 7, scale, aspects)
    boxes, _ = draw(size, seed=3)
    full = pairwise_iou(torch.from_numpy(boxes), torch.from_numpy(grid.anchors)).numpy()
    expected = (full >= 0.5).reshape(len(boxes), -1, 3 * len(aspects)).sum(1)
    np.testing.assert_array_equal(count_overlapping(boxes, grid), expected)


def test_many_chunks_give_the_same_matches(monkeypatch):
    grid = make_grid((192, 256), 7, 3.0, ASPECTS)
    boxes, image = draw((192, 256), seed=2)
    whole = match(boxes, image, grid)
    monkeypatch.setattr(anchor_grid, "OBJECTS_AT_ONCE", 7)
    chunked = match(boxes, image, grid)
    np.testing.assert_array_equal(whole.best_iou, chunked.best_iou)
    np.testing.assert_array_equal(whole.positives, chunked.positives)


@pytest.mark.parametrize("box", [(0, 0, 256, 0.5), (100, 0, 100.5, 192), (0, 0, 256, 192), (255, 191, 256, 192)])
def test_one_box_of_extreme_shape_claims_one_anchor_or_more(box):
    grid = make_grid((192, 256), 7, 3.0, ASPECTS)
    boxes, image = np.array([box], np.float32), np.zeros(1, np.int64)
    matches = match(boxes, image, grid)
    np.testing.assert_array_equal(matches.positives, slow_positives(boxes, image, grid))
    assert matches.positives.sum() >= 1
    assert not matches.without[0]


def test_of_two_equal_boxes_the_second_has_no_anchor():
    grid = make_grid((192, 256), 7, 3.0, ASPECTS)
    boxes = np.array([[10, 10, 50, 50]] * 2, np.float32)
    matches = match(boxes, np.zeros(2, np.int64), grid)
    assert matches.covered.tolist() == [True, True]
    assert matches.without.tolist() == [False, True]
    in_two_images = match(boxes, np.arange(2), grid)
    assert in_two_images.without.tolist() == [False, False]


def test_no_boxes_have_no_matches():
    matches = match(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), make_grid((64, 64), 7, 3.0, ASPECTS))
    assert matches.best_iou.shape == (0,)
    assert matches.positives.shape == (0, 5)
