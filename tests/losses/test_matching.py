import pytest
import torch

from effdet.losses import assign, matching
from effdet.losses.matching import match_anchors
from effdet.models.anchors import anchor_boxes
from effdet.structures import Target

SIZE = (128, 192)
CLASSES = 5


def random_boxes(count, seed=0, largest=90):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 90])
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * largest], 1)


def target(boxes, labels=None):
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels, dtype=torch.int64)
    return Target(boxes, labels, 0, SIZE, (1.0, 1.0))


def slow_match(anchors, boxes, threshold=0.5):
    """{anchor: box} by the rules, one pair at a time."""
    overlaps = []
    for x1, y1, x2, y2 in boxes:
        row = []
        for a1, b1, a2, b2 in anchors:
            inner = max(0.0, min(x2, a2) - max(x1, a1)) * max(0.0, min(y2, b2) - max(y1, b1))
            row.append(inner / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inner) if inner else 0.0)
        overlaps.append(row)
    matched = {}
    for anchor in range(len(anchors)):
        column = [row[anchor] for row in overlaps]
        if max(column, default=0.0) >= threshold:
            matched[anchor] = column.index(max(column))
    for box in reversed(range(len(boxes))):  # the first box writes last
        if max(overlaps[box]) > 0:
            matched[overlaps[box].index(max(overlaps[box]))] = box
    return matched


def as_dict(match):
    anchor, box = match
    assert anchor.tolist() == sorted(anchor.tolist())
    return dict(zip(anchor.tolist(), box.tolist(), strict=True))


# One image


@pytest.mark.parametrize("seed", range(4))
def test_matching_agrees_with_a_slow_loop(seed):
    anchors, boxes = anchor_boxes((64, 96), 3, 5), random_boxes(6, seed, 60)
    slow = slow_match(anchors.double().tolist(), boxes.double().tolist())
    assert as_dict(match_anchors(anchors, boxes)) == slow


def test_a_box_that_overlaps_no_anchor_by_half_still_gets_its_best():
    anchors = torch.tensor([[0.0, 0, 32, 32], [32, 0, 64, 32]])
    assert as_dict(match_anchors(anchors, torch.tensor([[28.0, 0, 60, 4]]))) == {1: 0}


def test_every_box_gets_an_anchor():
    boxes = torch.cat([random_boxes(30), torch.tensor([[3.0, 3, 3.5, 3.5], [0, 0, 192, 2], [0, 0, 192, 128]])])
    assert set(match_anchors(anchor_boxes(SIZE), boxes)[1].tolist()) == set(range(len(boxes)))


def test_an_overlap_of_exactly_the_threshold_matches():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    box = torch.tensor([[0.0, 0, 10, 5]])
    assert as_dict(match_anchors(anchors, box)) == {0: 0, 1: 0}


def test_of_equal_overlaps_the_first_box_and_the_first_anchor_win():
    box = torch.tensor([[0.0, 0, 10, 10]])
    assert as_dict(match_anchors(box, box.repeat(3, 1))) == {0: 0}
    away = torch.tensor([[0.0, 0, 4, 10], [6.0, 0, 10, 10]])  # both overlap by 0.4
    assert as_dict(match_anchors(away, box)) == {0: 0}


def test_where_two_boxes_claim_one_anchor_the_first_has_it():
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 3, 3], [0, 0, 9, 9]])
    assert as_dict(match_anchors(anchors, boxes)) == {0: 0}


def test_a_claim_beats_a_better_overlap_of_another_box():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 9]])
    boxes = torch.tensor([[0.0, 0, 10, 9], [0, 0, 10, 10], [0, 9, 10, 10]])
    assert as_dict(match_anchors(anchors, boxes)) == slow_match(anchors.tolist(), boxes.tolist()) == {0: 1, 1: 0}


def test_a_box_that_meets_no_anchor_claims_none():
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10]])
    assert as_dict(match_anchors(anchors, torch.tensor([[100.0, 100, 110, 110], [10, 0, 20, 10]]))) == {1: 1}


def test_an_image_without_boxes_has_no_positives():
    anchor, box = match_anchors(anchor_boxes(SIZE), torch.zeros(0, 4))
    assert (anchor.shape, box.shape) == ((0,), (0,))
    assert (anchor.dtype, box.dtype) == (torch.int64, torch.int64)


# A batch


def test_an_assignment_has_image_anchor_label_and_box_of_each_positive():
    boxes = random_boxes(4)
    targets = [target(boxes[:3], [4, 0, 2]), target(boxes[:0], []), target(boxes[3:], [1])]
    anchors = anchor_boxes(SIZE)
    assignment = assign(anchors, targets)
    expected = [
        (row, *pair) for row, each in enumerate(targets) for pair in as_dict(match_anchors(anchors, each.boxes)).items()
    ]
    assert list(zip(assignment.image.tolist(), assignment.anchor.tolist(), strict=True)) == [e[:2] for e in expected]
    assert assignment.label.tolist() == [targets[row].labels[box].item() for row, _, box in expected]
    assert assignment.box.tolist() == [targets[row].boxes[box].tolist() for row, _, box in expected]
    assert assignment.num_positives == len(expected)


def assert_assigned_as_by_the_loop(anchors, images):
    """An assignment of a batch has image, anchor, label and box of every positive that each image has by itself."""
    targets = [target(boxes) for boxes in images]
    assignment = assign(anchors, targets)
    expected = [
        (row, anchor, each.labels[box].item(), each.boxes[box].tolist())
        for row, each in enumerate(targets)
        for anchor, box in sorted(slow_match(anchors.tolist(), each.boxes.tolist()).items())
    ]
    given = zip(*(values.tolist() for values in assignment), strict=True)
    assert list(given) == expected
    assert [values.dtype for values in assignment] == [torch.int64] * 3 + [torch.float32]


@pytest.mark.parametrize("at_once", [1, 500, 2**20])
@pytest.mark.parametrize("counts", [(3, 5, 2), (0, 4, 0, 0, 3, 0), (0, 0), (1,), (0,)])
def test_a_batch_is_matched_like_image_by_image(counts, at_once, monkeypatch):
    monkeypatch.setattr(matching, "PAIRS_AT_ONCE_ON_CPU", at_once)
    anchors = anchor_boxes((64, 96), 4, 6)
    assert_assigned_as_by_the_loop(anchors, [random_boxes(count, seed, 60) for seed, count in enumerate(counts)])


@pytest.mark.parametrize("seed", range(6))
def test_a_batch_with_many_ties_is_matched_like_image_by_image(seed):
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 5, (30, 2), generator=generator) * 8.0
    boxes = torch.cat([corners, corners + torch.randint(1, 4, (30, 2), generator=generator) * 8], 1)
    anchors = torch.cat([boxes[:7], boxes[:7], torch.tensor([[0.0, 0, 16, 16], [8, 8, 24, 24]]).repeat(3, 1)])
    outside = torch.tensor([[200.0, 200, 220, 220]])
    images = [boxes[:12], boxes[:0], boxes[3:4].repeat(5, 1), outside, torch.cat([outside, boxes[12:]])]
    assert_assigned_as_by_the_loop(anchors, images)
    assert_assigned_as_by_the_loop(anchors[:1], images)
