import dataclasses

import pytest
import torch
import torch.nn.functional as F

from effdet.boxes import encode_boxes
from effdet.config import make_config
from effdet.errors import ConfigError
from effdet.losses import DetectionLoss, assign
from effdet.models.anchors import anchor_boxes
from effdet.structures import Outputs, Target
from effdet.types import DetectionLossOptions

SIZE = (128, 192)
CLASSES = 5


def random_boxes(count, seed=0, largest=90):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 90])
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * largest], 1)


def target(boxes):
    return Target(boxes, torch.arange(len(boxes)) % CLASSES, 0, SIZE, (1.0, 1.0))


def outputs(images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    anchors = anchor_boxes(SIZE)
    logits = torch.randn(images, len(anchors), CLASSES, generator=generator) - 2
    return Outputs(logits, torch.randn(images, len(anchors), 4, generator=generator) * 0.2, anchors)


def criterion_with(class_weights=None, **options):
    return DetectionLoss(DetectionLossOptions(**options), class_weights)


def slow_focal(logits, positives, alpha, gamma):
    """The focal loss with a one-hot target for every logit."""
    one_hot = torch.zeros_like(logits)
    one_hot[positives] = 1
    p = logits.sigmoid()
    p_true = one_hot * p + (1 - one_hot) * (1 - p)
    weight = one_hot * alpha + (1 - one_hot) * (1 - alpha)
    return (weight * (1 - p_true) ** gamma * F.binary_cross_entropy(p, one_hot, reduction="none")).sum()


# What it is given


def test_without_arguments_it_has_the_constants_of_the_reference():
    criterion = DetectionLoss()
    constants = {"alpha": 0.25, "gamma": 1.5, "label_smoothing": 0.0, "huber_delta": 0.1, "box_weight": 50.0}
    others = {"iou": None, "iou_weight": 1.0, "positives_momentum": 0.0}
    assert dataclasses.asdict(criterion.options) == {**constants, **others}
    assert criterion.class_weights is None


def test_targets_may_be_given_instead_of_matched_anchors():
    out, targets = outputs(), [target(random_boxes(4)), target(random_boxes(2, 1))]
    criterion = DetectionLoss()
    given = criterion(out, targets)
    assignment = assign(out.anchors, targets)
    assert given == criterion(out, assignment, assignment.num_positives) == criterion(out, assignment)
    assert given["loss"] > 0


def test_the_defaults_of_a_recipe_are_those_of_the_criterion():
    config, options = make_config({}).loss, DetectionLossOptions()
    assert {name: getattr(config, name) for name in vars(options)} == vars(options)


def test_a_recipe_without_any_box_loss_is_refused():
    with pytest.raises(ConfigError, match=r"no loss is left for the boxes: with loss.box_weight=0 set loss.iou"):
        make_config({"loss": {"box_weight": 0}})
    assert make_config({"loss": {"box_weight": 0, "iou": "diou"}}).loss.iou == "diou"


# What it gives


def test_losses_follow_the_written_out_formula():
    out, targets = outputs(), [target(random_boxes(4)), target(random_boxes(2, 1))]
    image, anchor, label, boxes = assign(out.anchors, targets)
    divisor = len(anchor) + 1
    class_loss = slow_focal(out.class_logits, (image, anchor, label), 0.25, 1.5) / divisor
    box_loss = 0.0
    for row, column, box in zip(image, anchor, boxes, strict=True):
        for wanted, given in zip(encode_boxes(box, out.anchors[column]), out.box_deltas[row, column], strict=True):
            error = abs(given.item() - wanted.item())
            box_loss += 0.5 * error**2 if error <= 0.1 else 0.1 * error - 0.005
    box_loss /= 4 * divisor
    losses = DetectionLoss()(out, targets)
    assert losses["class_loss"].item() == pytest.approx(class_loss.item(), rel=1e-4)
    assert losses["box_loss"].item() == pytest.approx(box_loss, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(class_loss.item() + 50 * box_loss, rel=1e-4)


# Loss of a box one anchor's side to the right: the two do not meet, their hull is twice as wide
@pytest.mark.parametrize(("kind", "expected"), [("iou", 1.0), ("giou", 1.0), ("diou", 1 + 1 / 5), ("ciou", 1 + 1 / 5)])
def test_the_iou_loss_is_weighted_and_normalized_by_positives_plus_one(kind, expected):
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    out = Outputs(torch.zeros(1, 1, CLASSES), torch.tensor([[[1.0, 0, 0, 0]]]), anchors)
    losses = criterion_with(box_weight=0, iou=kind, iou_weight=3)(out, [target(anchors)])
    assert losses["iou_loss"].item() == pytest.approx(expected / 2 / 4)
    assert losses["loss"].item() == pytest.approx(losses["class_loss"].item() + 3 * losses["iou_loss"].item())


def test_an_iou_loss_is_added_to_the_huber_loss():
    out, targets = outputs(), [target(random_boxes(4)), target(random_boxes(2, 1))]
    options = ({}, {"box_weight": 0, "iou": "giou"}, {"iou": "giou"})
    first, second, added = (criterion_with(**given)(out, targets) for given in options)
    total = first["loss"] + second["loss"] - first["class_loss"]
    torch.testing.assert_close(added, {**first, **second, "loss": total})


@pytest.mark.parametrize("options", [{}, {"box_weight": 0, "iou": "iou"}, {"iou": "ciou"}])
def test_losses_are_named_in_their_order(options):
    criterion = criterion_with(**options)
    losses = criterion(outputs(), [target(random_boxes(2))] * 2)
    assert criterion.names == tuple(losses)
    assert criterion.names[0] == "loss"


def test_class_weights_change_the_class_loss_alone():
    out, targets = outputs(), [target(random_boxes(4)), target(random_boxes(2, 1))]
    weights = torch.tensor([1.0, 1, 5, 1, 1])
    plain, weighted, ones = (
        criterion_with(class_weights=given)(out, targets) for given in (None, weights, torch.ones(CLASSES))
    )
    assert weighted["class_loss"] > plain["class_loss"]
    assert weighted["box_loss"] == plain["box_loss"]
    assert ones == plain


def test_label_smoothing_changes_the_class_loss_alone():
    out, targets = outputs(), [target(random_boxes(4)), target(random_boxes(2, 1))]
    plain, smoothed = (criterion_with(label_smoothing=given)(out, targets) for given in (0.0, 0.1))
    assert smoothed["class_loss"] > plain["class_loss"]
    assert smoothed["box_loss"] == plain["box_loss"]


def test_a_batch_without_objects_has_a_class_loss_and_no_box_loss():
    out, targets = outputs(), [target(torch.zeros(0, 4))] * 2
    out.class_logits.requires_grad_()
    out.box_deltas.requires_grad_()
    losses = DetectionLoss()(out, targets)
    assert losses["box_loss"].item() == 0
    assert losses["class_loss"].item() > 0
    losses["loss"].backward()
    assert (out.box_deltas.grad == 0).all()
    assert (out.class_logits.grad > 0).all()


def test_only_positives_move_their_boxes():
    out, targets = outputs(1), [target(random_boxes(3))]
    out.box_deltas.requires_grad_()
    DetectionLoss()(out, targets)["box_loss"].backward()
    moved = (out.box_deltas.grad[0] != 0).any(1).nonzero().squeeze(1)
    assert moved.tolist() == assign(out.anchors, targets).anchor.tolist()


def test_a_box_without_area_gives_finite_losses():
    boxes = torch.tensor([[20.0, 20, 20, 20], [30.0, 30, 30.0001, 60]])
    assert all(value.isfinite() for value in DetectionLoss()(outputs(1), [target(boxes)]).values())


def test_outputs_of_low_precision_give_float32_losses():
    out, targets = outputs(1), [target(random_boxes(3))]
    low = Outputs(out.class_logits.bfloat16(), out.box_deltas.bfloat16(), out.anchors)
    exact, given = DetectionLoss()(out, targets), DetectionLoss()(low, targets)
    assert {value.dtype for value in given.values()} == {torch.float32}
    assert given["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.02)


# The normalizer


@pytest.mark.parametrize("count", [int, torch.tensor])
@pytest.mark.parametrize("options", [{"label_smoothing": 0.1}, {"iou": "giou"}])
def test_micro_batches_add_up_to_the_losses_and_gradients_of_the_batch(count, options):
    out = outputs(3)
    out.class_logits.requires_grad_()
    out.box_deltas.requires_grad_()
    targets = [target(random_boxes(4)), target(torch.zeros(0, 4)), target(random_boxes(2, 1))]
    criterion = criterion_with(**options)
    expected = criterion(out, targets)
    normalizer = count(assign(out.anchors, targets).num_positives)
    sums = dict.fromkeys(criterion.names, 0.0)
    for rows in (slice(0, 1), slice(1, 3)):
        given = Outputs(out.class_logits[rows], out.box_deltas[rows], out.anchors)
        for name, value in criterion(given, targets[rows], normalizer).items():
            sums[name] = sums[name] + value
    torch.testing.assert_close(sums, expected)
    for values in (out.class_logits, out.box_deltas):
        gradients = [torch.autograd.grad(total["loss"], values, retain_graph=True)[0] for total in (sums, expected)]
        torch.testing.assert_close(*gradients)


def test_without_a_momentum_the_positives_of_the_batch_count():
    criterion = DetectionLoss()
    given = [criterion.average_positives(torch.tensor(count), step).item() for step, count in enumerate((7.0, 0, 12))]
    assert given == [7, 0, 12]


def test_the_positives_are_averaged_over_the_steps_and_begin_with_the_first_batch():
    criterion = criterion_with(positives_momentum=0.75)
    given = [criterion.average_positives(torch.tensor(count), step).item() for step, count in enumerate((8.0, 0, 16))]
    assert given == [8, 6, 8.5]


def test_a_repeated_step_counts_once_also_after_a_restart():
    criterion, restarted = criterion_with(positives_momentum=0.75), criterion_with(positives_momentum=0.75)
    for step, count in ((0, 8.0), (0, 8.0), (1, 0.0)):
        criterion.average_positives(torch.tensor(count), step)
    restarted.load_state_dict(criterion.state_dict())
    for repeating in (criterion, restarted):
        assert [repeating.average_positives(torch.tensor(count), 1).item() for count in (0.0, 0.0, 4.0)] == [6, 6, 7]
        assert repeating.average_positives(torch.tensor(3.0), 2).item() == 6


# Padding


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gamma": 2.0, "alpha": 0.5},
        {"label_smoothing": 0.1},
        {"class_weights": torch.tensor([1.0, 2, 0.5, 1, 3])},
        {"iou": "giou"},
        {"iou": "ciou", "iou_weight": 2.0},
        {"box_weight": 0, "iou": "iou"},
        {"box_weight": 0, "iou": "diou"},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("objects", [0, 4])
def test_padding_changes_neither_losses_nor_gradients(options, dtype, objects):
    out, targets = outputs(), [target(random_boxes(objects)), target(torch.zeros(0, 4))]
    assignment = assign(out.anchors, targets)
    results = []
    for given in (assignment, assignment.padded(300)):
        assert given.num_positives == len(assignment.anchor)
        logits, deltas = (values.to(dtype).requires_grad_() for values in (out.class_logits, out.box_deltas))
        losses = criterion_with(**options)(Outputs(logits, deltas, out.anchors), given)
        results.append((losses, *torch.autograd.grad(losses["loss"], (logits, deltas))))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-7)
    assert torch.equal(results[0][2], results[1][2])


def test_padding_hides_no_nan_and_makes_none():
    out, targets = outputs(1), [target(random_boxes(2))]
    positives = assign(out.anchors, targets)
    elsewhere = out.box_deltas.clone()
    elsewhere[0, 0] = float("nan")  # the anchor of the padding, which is no positive
    elsewhere[0, -1] = float("nan")
    assert not ((positives.anchor == 0) | (positives.anchor == len(out.anchors) - 1)).any()
    losses = DetectionLoss()(Outputs(out.class_logits, elsewhere, out.anchors), positives.padded(64))
    assert losses["box_loss"].isfinite()
    logits = out.class_logits.clone()
    logits[0, -1, -1] = float("nan")
    assert DetectionLoss()(Outputs(logits, out.box_deltas, out.anchors), positives.padded(64))["loss"].isnan()
