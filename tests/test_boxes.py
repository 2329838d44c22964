import math

import pytest
import torch
import torchvision

from effdet.boxes import LARGEST_GROWTH, box_area, clip_boxes, decode_boxes, encode_boxes, paired_iou, pairwise_iou

KINDS = ("iou", "giou", "diou", "ciou")


def random_boxes(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 300 - 50
    return torch.cat([corner, corner + 1 + torch.rand(count, 2, generator=generator) * 150], 1)


def slow_iou(first, second):
    across = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    down = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return across * down / (area - across * down)


def test_area_is_width_times_height_without_an_extra_pixel():
    assert box_area(torch.tensor([[10.0, 20, 13, 24], [5, 5, 5, 9]])).tolist() == [12, 0]


def test_iou_agrees_with_a_slow_loop_and_with_torchvision():
    first, second = random_boxes(30), random_boxes(40, seed=1)
    iou = pairwise_iou(first, second)
    slow = torch.tensor([[slow_iou(a, b) for b in second.tolist()] for a in first.tolist()])
    torch.testing.assert_close(iou, slow, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(iou, torchvision.ops.box_iou(first, second))
    assert (iou > 0).any()
    assert (iou == 0).any()


def test_iou_of_a_box_with_itself_is_one_and_with_a_touching_box_zero():
    boxes = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [10, 10, 20, 20]])
    assert pairwise_iou(boxes, boxes).tolist() == torch.eye(3).tolist()


def test_iou_of_boxes_without_area_is_zero_and_not_nan():
    points = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9]])
    assert pairwise_iou(points, points).tolist() == [[0, 0], [0, 0]]
    assert pairwise_iou(points, torch.tensor([[0.0, 0, 10, 10]])).tolist() == [[0], [0]]


@pytest.mark.parametrize(("first", "second"), [(0, 3), (3, 0), (0, 0)])
def test_iou_of_no_boxes_has_no_rows_or_columns(first, second):
    assert pairwise_iou(random_boxes(first), random_boxes(second)).shape == (first, second)


def test_iou_works_on_batches():
    first, second = random_boxes(12).reshape(2, 6, 4), random_boxes(10, seed=1).reshape(2, 5, 4)
    for row in range(2):
        torch.testing.assert_close(pairwise_iou(first, second)[row], pairwise_iou(first[row], second[row]))


# IoU of pairs


def slow_paired_iou(box, wanted, kind, weight=None):
    """By the formulas, one pair at a time; `weight` of the aspect ratios if it is held fixed."""
    iou = slow_iou(box, wanted)
    hull = [max(box[axis + 2], wanted[axis + 2]) - min(box[axis], wanted[axis]) for axis in (0, 1)]
    if kind == "giou":
        union = sum((each[2] - each[0]) * (each[3] - each[1]) for each in (box, wanted))
        inner = [max(0.0, min(box[axis + 2], wanted[axis + 2]) - max(box[axis], wanted[axis])) for axis in (0, 1)]
        union -= inner[0] * inner[1]
        return iou - (hull[0] * hull[1] - union) / (hull[0] * hull[1])
    centres = [[(each[axis] + each[axis + 2]) / 2 for axis in (0, 1)] for each in (box, wanted)]
    if kind != "iou":
        iou_alone, iou = iou, iou - math.dist(*centres) ** 2 / (hull[0] ** 2 + hull[1] ** 2)
    if kind == "ciou":
        angles = [math.atan((each[2] - each[0]) / (each[3] - each[1])) for each in (box, wanted)]
        unlike = 4 / math.pi**2 * (angles[0] - angles[1]) ** 2
        iou -= unlike * (unlike / (1 - iou_alone + unlike) if weight is None else weight)
    return iou


def weight_of_aspect(box, wanted):
    """By which the penalty for unequal aspect ratios is multiplied."""
    without, with_one = (slow_paired_iou(box, wanted, "ciou", weight) for weight in (0, 1))
    unlike = without - with_one
    return unlike / (1 - slow_iou(box, wanted) + unlike)


def pairs(dtype=torch.float64):
    """Boxes and partners that overlap much, little and not at all."""
    boxes = random_boxes(24).to(dtype)
    wanted = torch.cat([boxes[:12] + torch.randn(12, 4, generator=torch.Generator().manual_seed(2)) * 0.4, boxes[:12]])
    return boxes, wanted.to(dtype)


# (y1, x1, y2, x2) and 1 - IoU as the EfficientDet reference gives them
@pytest.mark.parametrize(
    ("kind", "losses"),
    [
        ("iou", (0.875, 1)),
        ("giou", (1.075, 1.933333)),
        ("diou", (0.9969512, 1.6243094)),
        ("ciou", (0.99931306, 1.6415315)),
    ],
)
def test_paired_iou_is_that_of_the_reference(kind, losses):
    boxes = torch.tensor([[4.0, 3, 7, 5], [5, 6, 10, 7]])[:, [1, 0, 3, 2]]
    wanted = torch.tensor([[3.0, 4, 6, 8], [14, 14, 15, 15]])[:, [1, 0, 3, 2]]
    assert (1 - paired_iou(boxes, wanted, kind)).tolist() == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_paired_iou_agrees_with_a_slow_loop(kind):
    boxes, wanted = pairs()
    slow = [slow_paired_iou(*pair, kind) for pair in zip(boxes.tolist(), wanted.tolist(), strict=True)]
    assert paired_iou(boxes, wanted, kind).tolist() == pytest.approx(slow, rel=1e-9, abs=1e-12)
    assert paired_iou(boxes.float(), wanted.float(), kind).tolist() == pytest.approx(slow, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("kind", ["iou", "giou", "diou"])
def test_paired_iou_has_the_true_gradient(kind):
    boxes, wanted = pairs()
    assert torch.autograd.gradcheck(lambda given: paired_iou(given, wanted, kind), boxes.requires_grad_())


def test_the_gradient_of_ciou_holds_the_weight_of_the_aspect_ratios_fixed():
    boxes, wanted = pairs()
    (given,) = torch.autograd.grad(paired_iou(boxes.requires_grad_(), wanted, "ciou").sum(), boxes)
    for row, partner, slopes in zip(boxes.tolist(), wanted.tolist(), given.tolist(), strict=True):
        weight = weight_of_aspect(row, partner)
        for place, slope in enumerate(slopes):
            ends = [[*row[:place], row[place] + step, *row[place + 1 :]] for step in (1e-5, -1e-5)]
            up, down = (slow_paired_iou(end, partner, "ciou", weight) for end in ends)
            assert slope == pytest.approx((up - down) / 2e-5, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_paired_iou_of_a_box_with_itself_is_the_largest(kind):
    boxes = random_boxes(20)
    assert paired_iou(boxes, boxes, kind).tolist() == [1] * 20
    assert (paired_iou(boxes, random_boxes(20, seed=1), kind) < 1).all()


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_the_gradient_moves_separate_boxes_towards_each_other(kind):
    box = torch.tensor([[0.0, 0, 10, 10]], requires_grad=True)
    paired_iou(box, torch.tensor([[50.0, 30, 60, 40]]), kind).sum().backward()
    assert (box.grad[0, 2:] > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_without_area_have_a_finite_paired_iou_and_gradient(kind):
    shapes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 9], [5, 5, 9, 5], [0, 0, 10, 10], [5, 5, 5 + 1e-5, 5 + 1e-5]])
    boxes, wanted = shapes.repeat_interleave(5, 0).requires_grad_(), shapes.repeat(5, 1)
    value = paired_iou(boxes, wanted, kind)
    value.sum().backward()
    assert value.isfinite().all()
    assert boxes.grad.isfinite().all()
    assert (value >= -2).all()
    assert (value <= 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_paired_iou_of_no_boxes_is_empty(kind):
    assert paired_iou(torch.zeros(0, 4), torch.zeros(0, 4), kind).shape == (0,)


# Frames and deltas


def test_clipped_boxes_lie_inside_the_image():
    boxes = torch.tensor([[-5.0, -6, 700, 500], [10, 20, 30, 40], [650, 490, 660, 500]])
    assert clip_boxes(boxes, (480, 640)).tolist() == [[0, 0, 640, 480], [10, 20, 30, 40], [640, 480, 640, 480]]


def test_encoding_follows_the_definition():
    anchor, box = torch.tensor([[0.0, 0, 40, 20]]), torch.tensor([[20.0, 5, 40, 45]])
    expected = [(30 - 20) / 40, (25 - 10) / 20, math.log(20 / 40), math.log(40 / 20)]
    assert encode_boxes(box, anchor)[0].tolist() == pytest.approx(expected)


def test_an_anchor_encodes_itself_as_zero_and_zero_decodes_to_the_anchor():
    anchors = random_boxes(20)
    assert encode_boxes(anchors, anchors).abs().max() == 0
    torch.testing.assert_close(decode_boxes(torch.zeros(20, 4), anchors), anchors)


def test_decoding_undoes_encoding():
    boxes, anchors = random_boxes(200), random_boxes(200, seed=1)
    torch.testing.assert_close(decode_boxes(encode_boxes(boxes, anchors), anchors), boxes, atol=1e-3, rtol=1e-5)


def test_a_box_without_area_encodes_to_finite_deltas():
    assert encode_boxes(torch.tensor([[5.0, 5, 5, 5]]), torch.tensor([[0.0, 0, 32, 32]])).isfinite().all()


def test_huge_deltas_decode_to_finite_boxes():
    boxes = decode_boxes(torch.tensor([[0.0, 0, 1e4, 90]]), torch.tensor([[0.0, 0, 32, 32]]))
    assert boxes.isfinite().all()
    assert (boxes[0, 2] - boxes[0, 0]).item() == pytest.approx(32 * math.exp(LARGEST_GROWTH))


def test_deltas_of_low_precision_decode_to_float32():
    anchors = random_boxes(5)
    assert decode_boxes(torch.zeros(5, 4, dtype=torch.bfloat16), anchors).dtype == torch.float32
    assert decode_boxes(torch.zeros(0, 4), anchors[:0]).shape == (0, 4)
