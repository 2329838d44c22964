import pytest
import torch

from effdet.boxes import decode_boxes, encode_boxes, paired_iou
from effdet.losses import assign
from effdet.losses.boxes import huber_loss_sum, iou_loss_sum
from effdet.models.anchors import anchor_boxes
from effdet.structures import Target

IOU_KINDS = ("iou", "giou", "diou", "ciou")
WITHOUT_AREA = torch.tensor([[20.0, 20, 20, 20], [30.0, 30, 30.0001, 60], [0, 0, 128, 128]])


def random_boxes(count, seed=0, largest=90):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 90])
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * largest], 1)


def matched(boxes):
    """The anchors [P, 4] that are matched with boxes [N, 4], and the box [P, 4] of each."""
    size = (128, 192)
    anchors = anchor_boxes(size)
    assignment = assign(anchors, [Target(boxes, torch.zeros(len(boxes)).long(), 0, size, (1.0, 1.0))])
    return anchors[assignment.anchor], assignment.box


def random_deltas(count):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(0)) * 0.2


# Huber loss


def test_the_huber_loss_follows_the_written_out_formula():
    anchors, boxes = matched(random_boxes(4))
    deltas = random_deltas(len(anchors))
    expected = 0.0
    for wanted, given in zip(encode_boxes(boxes, anchors).flatten(), deltas.flatten(), strict=True):
        error = abs(given.item() - wanted.item())
        expected += 0.5 * error**2 if error <= 0.1 else 0.1 * error - 0.005
    assert huber_loss_sum(deltas, anchors, boxes, 0.1).item() == pytest.approx(expected / 4, rel=1e-4)


def test_coordinates_whose_target_is_exactly_zero_are_left_out():
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    box = torch.tensor([[4.0, 0, 20, 16]])  # moved to the right by a quarter: dx alone is not zero
    value = huber_loss_sum(torch.full((1, 4), 5.0), anchors, box, 0.1)
    assert value.item() == pytest.approx((0.1 * 4.75 - 0.005) / 4)


def test_perfect_boxes_have_no_huber_loss():
    anchors, boxes = matched(random_boxes(5))
    assert huber_loss_sum(encode_boxes(boxes, anchors), anchors, boxes, 0.1).item() == pytest.approx(0, abs=1e-12)


def test_a_box_without_area_has_a_finite_huber_loss():
    anchors, boxes = matched(WITHOUT_AREA)
    assert huber_loss_sum(random_deltas(len(anchors)), anchors, boxes, 0.1).isfinite()


# IoU losses


# Loss of a box one anchor's side to the right: the two do not meet, their hull is twice as wide
@pytest.mark.parametrize(("kind", "expected"), [("iou", 1.0), ("giou", 1.0), ("diou", 1 + 1 / 5), ("ciou", 1 + 1 / 5)])
def test_iou_losses_are_of_decoded_boxes_and_a_quarter_of_the_sum(kind, expected):
    anchors = torch.tensor([[0.0, 0, 16, 16]]).repeat(3, 1)
    deltas = torch.tensor([[1.0, 0, 0, 0]]).repeat(3, 1)
    assert iou_loss_sum(deltas, anchors, anchors, kind).item() == pytest.approx(3 * expected / 4)


@pytest.mark.parametrize("kind", IOU_KINDS)
def test_descending_an_iou_loss_leads_to_the_boxes(kind):
    anchors, boxes = matched(random_boxes(4))
    deltas = random_deltas(len(anchors)).requires_grad_()
    optimizer = torch.optim.Adam([deltas], 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        iou_loss_sum(deltas, anchors, boxes, kind).backward()
        optimizer.step()
    assert paired_iou(decode_boxes(deltas, anchors), boxes, "iou").mean() > 0.95


@pytest.mark.parametrize("kind", IOU_KINDS)
@pytest.mark.parametrize("delta", [-300.0, 0.0, 300.0])
def test_iou_losses_and_gradients_are_finite_for_extreme_boxes(kind, delta):
    anchors, boxes = matched(WITHOUT_AREA)
    deltas = torch.full((len(anchors), 4), delta).requires_grad_()
    value = iou_loss_sum(deltas, anchors, boxes, kind)
    value.backward()
    assert value.isfinite()
    assert deltas.grad.isfinite().all()


@pytest.mark.parametrize(
    "loss", [lambda *given: huber_loss_sum(*given, 0.1), lambda *given: iou_loss_sum(*given, "iou")]
)
def test_no_positives_cost_nothing(loss):
    deltas, nothing = torch.zeros(0, 4, requires_grad=True), torch.zeros(0, 4)
    value = loss(deltas, nothing, nothing)
    value.backward()
    assert value.item() == 0
    assert deltas.grad.shape == (0, 4)
