import math

import pytest
import torch
import torch.nn.functional as F

import effdet.losses
from effdet.boxes import decode_boxes, encode_boxes, paired_iou
from effdet.config import make_config
from effdet.errors import ConfigError
from effdet.losses import ClassificationLoss, DetectionLoss, focal_loss_sum, match_anchors, weights_of_classes
from effdet.models.anchors import anchor_boxes
from effdet.structures import Outputs, Target

SIZE = (128, 192)
CLASSES = 5


def random_boxes(count, seed=0, largest=90):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([150.0, 90])
    return torch.cat([corner, corner + 2 + torch.rand(count, 2, generator=generator) * largest], 1)


def target(boxes, labels=None):
    labels = torch.arange(len(boxes)) % CLASSES if labels is None else torch.tensor(labels, dtype=torch.int64)
    return Target(boxes, labels, 0, SIZE, (1.0, 1.0))


def outputs(images=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    anchors = anchor_boxes(SIZE)
    logits = torch.randn(images, len(anchors), CLASSES, generator=generator) - 2
    return Outputs(logits, torch.randn(images, len(anchors), 4, generator=generator) * 0.2, anchors)


def loss(gamma=1.5, smoothing=0.0, box_weight=50.0, class_weights=None, **settings):
    return DetectionLoss(0.25, gamma, smoothing, 0.1, box_weight, class_weights=class_weights, **settings)


# Matching


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


def test_an_assignment_tells_image_anchor_label_and_box_of_each_positive():
    boxes = random_boxes(4)
    targets = [target(boxes[:3], [4, 0, 2]), target(boxes[:0], []), target(boxes[3:], [1])]
    anchors = anchor_boxes(SIZE)
    assignment = loss().assign(anchors, targets)
    expected = [
        (row, *pair) for row, each in enumerate(targets) for pair in as_dict(match_anchors(anchors, each.boxes)).items()
    ]
    assert list(zip(assignment.image.tolist(), assignment.anchor.tolist(), strict=True)) == [e[:2] for e in expected]
    assert assignment.label.tolist() == [targets[row].labels[box].item() for row, _, box in expected]
    assert assignment.box.tolist() == [targets[row].boxes[box].tolist() for row, _, box in expected]
    assert len(assignment) == len(expected)


def assert_assigned_as_by_the_loop(anchors, images):
    """An assignment of a batch has image, anchor, label and box of every positive that each image has by itself."""
    targets = [target(boxes) for boxes in images]
    assignment = loss().assign(anchors, targets)
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
    monkeypatch.setattr(effdet.losses, "PAIRS_AT_ONCE_ON_CPU", at_once)
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


# Focal loss


def slow_focal(logits, positive, alpha, gamma, smoothing):
    one_hot = torch.zeros_like(logits)
    one_hot[positive] = 1
    p = logits.sigmoid()
    p_true = one_hot * p + (1 - one_hot) * (1 - p)
    weight = one_hot * alpha + (1 - one_hot) * (1 - alpha)
    soft = one_hot * (1 - smoothing) + smoothing / 2
    entropy = -(soft * p.log() + (1 - soft) * (1 - p).log())
    return (weight * (1 - p_true) ** gamma * entropy).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_focal_loss_and_its_gradient_follow_the_written_out_formula(gamma, smoothing):
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(2, 30, 5, generator=generator, dtype=torch.float64) * 4).requires_grad_()
    positive = (torch.tensor([0, 0, 1]), torch.tensor([3, 17, 29]), torch.tensor([1, 4, 0]))
    results = []
    for formula in (focal_loss_sum, slow_focal):
        value = formula(logits, positive, 0.25, gamma, smoothing)
        results.append((value, torch.autograd.grad(value, logits)[0]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64)])
def test_the_gradient_of_the_focal_loss_is_that_of_its_values(weights):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).requires_grad_()
    positive = (torch.tensor([0, 1]), torch.tensor([3, 4]), torch.tensor([1, 2]))
    assert torch.autograd.gradcheck(lambda logits: focal_loss_sum(logits, positive, 0.25, 1.5, 0.1, weights), logits)


def test_pieces_of_the_focal_loss_add_up_to_the_whole(monkeypatch):
    logits = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    positive = (torch.tensor([0, 1]), torch.tensor([3, 49]), torch.tensor([1, 2]))
    results = []
    for pieces in (2**17, 7):
        monkeypatch.setattr("effdet.losses.LOGITS_AT_ONCE_ON_CPU", pieces)
        value = focal_loss_sum(logits, positive, 0.25, 1.5, 0.1)
        results.append((value, torch.autograd.grad(value, logits)[0]))
    torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_focal_loss_of_short_floats_is_computed_in_float32(dtype):
    short = (torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0)) * 4 - 6).to(dtype).requires_grad_()
    logits = short.detach().float().requires_grad_()
    positive = (torch.tensor([0, 1]), torch.tensor([3, 49]), torch.tensor([1, 2]))
    value, expected = (focal_loss_sum(values, positive, 0.25, 1.5, 0.0) for values in (short, logits))
    torch.testing.assert_close(value, expected)
    factor = 2.0**16 / 100  # as a loss scaler and the positives make it
    (value * factor).backward()
    (expected * factor).backward()
    assert short.grad.dtype == dtype
    torch.testing.assert_close(short.grad.float(), logits.grad, rtol=0.01, atol=1e-7)


def test_the_focal_loss_keeps_nothing_but_its_gradient():
    kept = []
    logits = torch.randn(2, 50, 3).bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        focal_loss_sum(logits, (torch.tensor([0]), torch.tensor([3]), torch.tensor([1])), 0.25, 1.5, 0.0)
    assert [(tensor.shape, tensor.dtype) for tensor in kept] == [(logits.shape, torch.bfloat16)]


def test_without_focus_and_balance_it_is_half_the_cross_entropy():
    logits = torch.randn(7, 3)
    one_hot = torch.zeros(7, 3)
    one_hot[2, 1] = 1
    value = focal_loss_sum(logits, (torch.tensor([2]), torch.tensor([1])), 0.5, 0.0, 0.0)
    torch.testing.assert_close(value, 0.5 * F.binary_cross_entropy_with_logits(logits, one_hot, reduction="sum"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("size", [50.0, 1e4])
def test_the_gradient_is_finite_at_extreme_logits(size, smoothing):
    logits = torch.tensor([[size, -size, size, -size]], requires_grad=True)
    positive = (torch.tensor([0, 0]), torch.tensor([0, 1]))
    value = focal_loss_sum(logits, positive, 0.25, 1.5, smoothing)
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()
    right_positive, wrong_positive, wrong_negative, right_negative = logits.grad[0].tolist()
    assert wrong_positive == pytest.approx(-0.25 * (1 - smoothing / 2), rel=1e-3)
    assert wrong_negative == pytest.approx(0.75 * (1 - smoothing / 2), rel=1e-3)
    assert abs(right_positive) < 1e-6
    assert abs(right_negative) < 1e-6


def test_the_loss_of_untrained_scores_is_where_the_prior_puts_it():
    logits = torch.full((100, 7), -math.log(99))
    value = focal_loss_sum(logits, (torch.tensor([5]), torch.tensor([2])), 0.25, 1.5, 0.0)
    expected = 699 * 0.75 * 0.01**1.5 * -math.log(0.99) + 0.25 * 0.99**1.5 * -math.log(0.01)
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_multiply_the_loss_of_each_class():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, 3, generator=generator)
    positive = (torch.tensor([0, 0, 1]), torch.tensor([3, 17, 29]), torch.tensor([1, 2, 1]))
    weights = torch.tensor([0.0, 3, 0.5])
    expected = 0.0
    for label, weight in enumerate(weights.tolist()):
        of_class = positive[2] == label
        alone = (positive[0][of_class], positive[1][of_class], torch.zeros_like(positive[2][of_class]))
        expected += weight * focal_loss_sum(logits[..., label : label + 1], alone, 0.25, 1.5, 0.1)
    torch.testing.assert_close(focal_loss_sum(logits, positive, 0.25, 1.5, 0.1, weights), expected)


def test_class_weights_are_in_label_order_and_1_where_none_is_given():
    assert weights_of_classes({"dog": 2, "ant": 0.5}, ("ant", "cat", "dog")).tolist() == [0.5, 1, 2]
    assert weights_of_classes({}, ("ant", "cat")) is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [("bycicle", "did you mean 'bicycle'?"), ("zebra", "its classes are bicycle, 0, 1, 2, 3, 4, 5, 6, 7, 8, ...")],
)
def test_weights_of_unknown_classes_are_refused(name, hint):
    with pytest.raises(ConfigError) as error:
        weights_of_classes({name: 2}, ("bicycle", *map(str, range(12))))
    assert str(error.value) == f"loss.class_weights: the training set has no class '{name}'; {hint}"


# The whole loss


def test_losses_follow_the_written_out_formula():
    out, targets = outputs(), [target(random_boxes(4)), target(random_boxes(2, 1))]
    criterion = loss()
    assignment = criterion.assign(out.anchors, targets)
    positives = (assignment.image, assignment.anchor, assignment.label)
    class_loss = slow_focal(out.class_logits, positives, 0.25, 1.5, 0.0) / (len(assignment) + 1)
    box_loss = 0.0
    for image, anchor, _, box in zip(*assignment, strict=True):
        for wanted, given in zip(encode_boxes(box, out.anchors[anchor]), out.box_deltas[image, anchor], strict=True):
            error = abs(given.item() - wanted.item())
            box_loss += 0.5 * error**2 if error <= 0.1 else 0.1 * error - 0.005
    box_loss /= 4 * (len(assignment) + 1)
    losses = criterion(out, assignment, len(assignment))
    assert losses["class_loss"].item() == pytest.approx(class_loss.item(), rel=1e-4)
    assert losses["box_loss"].item() == pytest.approx(box_loss, rel=1e-4)
    assert losses["loss"].item() == pytest.approx(class_loss.item() + 50 * box_loss, rel=1e-4)


# Loss of a box one anchor's side to the right: the two do not meet, their hull is twice as wide
@pytest.mark.parametrize(("kind", "expected"), [("iou", 1.0), ("giou", 1.0), ("diou", 1 + 1 / 5), ("ciou", 1 + 1 / 5)])
def test_iou_losses_are_of_decoded_boxes_and_a_quarter_of_the_mean_over_positives(kind, expected):
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    out = Outputs(torch.zeros(1, 1, CLASSES), torch.tensor([[[1.0, 0, 0, 0]]]), anchors)
    criterion = loss(box_weight=0, iou=kind, iou_weight=3)
    losses = criterion(out, criterion.assign(anchors, [target(anchors)]), 1)
    assert losses["iou_loss"].item() == pytest.approx(expected / 2 / 4)
    assert losses["loss"].item() == pytest.approx(losses["class_loss"].item() + 3 * losses["iou_loss"].item())


def test_an_iou_loss_is_added_to_the_huber_loss():
    out, targets = outputs(), [target(random_boxes(4)), target(random_boxes(2, 1))]
    huber, iou, both = (loss(**given) for given in ({}, {"box_weight": 0, "iou": "giou"}, {"iou": "giou"}))
    assignment = huber.assign(out.anchors, targets)
    first, second, added = (criterion(out, assignment, len(assignment)) for criterion in (huber, iou, both))
    total = first["loss"] + second["loss"] - first["class_loss"]
    torch.testing.assert_close(added, {**first, **second, "loss": total})


@pytest.mark.parametrize("settings", [{}, {"box_weight": 0, "iou": "iou"}, {"iou": "ciou"}])
def test_losses_are_named_in_their_order(settings):
    criterion, out = loss(**settings), outputs()
    losses = criterion(out, criterion.assign(out.anchors, [target(random_boxes(2))] * 2), 9)
    assert criterion.names == tuple(losses)
    assert criterion.names[0] == "loss"


def test_a_recipe_without_any_box_loss_is_refused():
    with pytest.raises(ConfigError, match=r"no loss is left for the boxes: with loss.box_weight=0 set loss.iou"):
        make_config({"loss": {"box_weight": 0}})
    assert make_config({"loss": {"box_weight": 0, "iou": "diou"}}).loss.iou == "diou"


def test_without_a_momentum_the_positives_of_the_batch_count():
    criterion = loss()
    given = [criterion.smoothed(torch.tensor(count), step).item() for step, count in enumerate((7.0, 0, 12))]
    assert given == [7, 0, 12]


def test_the_positives_are_averaged_over_the_steps_and_begin_with_the_first_batch():
    criterion = loss(positives_momentum=0.75)
    given = [criterion.smoothed(torch.tensor(count), step).item() for step, count in enumerate((8.0, 0, 16))]
    assert given == [8, 6, 8.5]


def test_a_step_that_is_taken_again_counts_once_also_after_a_restart():
    criterion, following = loss(positives_momentum=0.75), loss(positives_momentum=0.75)
    for step, count in ((0, 8.0), (0, 8.0), (1, 0.0)):
        criterion.smoothed(torch.tensor(count), step)
    following.load_state_dict(criterion.state_dict())
    for taken in (criterion, following):
        assert [taken.smoothed(torch.tensor(count), 1).item() for count in (0.0, 0.0, 4.0)] == [6, 6, 7]
        assert taken.smoothed(torch.tensor(3.0), 2).item() == 6


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
def test_descending_an_iou_loss_leads_to_the_boxes(kind):
    out, boxes = outputs(1), random_boxes(4)
    out.box_deltas.requires_grad_()
    criterion = loss(box_weight=0, iou=kind)
    assignment = criterion.assign(out.anchors, [target(boxes)])
    optimizer = torch.optim.Adam([out.box_deltas], 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        criterion(out, assignment, len(assignment))["iou_loss"].backward()
        optimizer.step()
    found = decode_boxes(out.box_deltas[0, assignment.anchor], out.anchors[assignment.anchor])
    assert paired_iou(found, assignment.box, "iou").mean() > 0.95


@pytest.mark.parametrize("kind", ["iou", "giou", "diou", "ciou"])
@pytest.mark.parametrize("delta", [-300.0, 0.0, 300.0])
def test_iou_losses_and_gradients_are_finite_for_extreme_boxes(kind, delta):
    out = outputs(1)
    deltas = torch.full_like(out.box_deltas, delta).requires_grad_()
    criterion = loss(box_weight=0, iou=kind)
    boxes = torch.tensor([[20.0, 20, 20, 20], [30.0, 30, 30.0001, 60], [0, 0, 128, 128]])
    assignment = criterion.assign(out.anchors, [target(boxes)])
    losses = criterion(out._replace(box_deltas=deltas), assignment, len(assignment))
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert deltas.grad.isfinite().all()


def test_class_weights_change_the_class_loss_alone():
    out = outputs()
    weights = torch.tensor([1.0, 1, 5, 1, 1])
    assignment = loss().assign(out.anchors, [target(random_boxes(4)), target(random_boxes(2, 1))])
    plain, weighted, ones = (
        loss(class_weights=given)(out, assignment, len(assignment)) for given in (None, weights, torch.ones(CLASSES))
    )
    assert weighted["class_loss"] > plain["class_loss"]
    assert weighted["box_loss"] == plain["box_loss"]
    assert ones == plain


def test_a_batch_without_objects_has_a_class_loss_and_no_box_loss():
    out = outputs()
    criterion = loss()
    assignment = criterion.assign(out.anchors, [target(torch.zeros(0, 4))] * 2)
    losses = criterion(out, assignment, 0)
    assert len(assignment) == 0
    assert losses["box_loss"].item() == 0
    assert losses["class_loss"].item() > 0
    out.class_logits.requires_grad_()
    out.box_deltas.requires_grad_()
    criterion(out, assignment, 0)["loss"].backward()
    assert (out.box_deltas.grad == 0).all()
    assert (out.class_logits.grad > 0).all()


@pytest.mark.parametrize("count", [int, torch.tensor])
def test_the_parts_of_a_batch_add_up_to_the_whole(count):
    out = outputs(3)
    targets = [target(random_boxes(4)), target(torch.zeros(0, 4)), target(random_boxes(2, 1))]
    criterion = loss(smoothing=0.1)
    whole = criterion.assign(out.anchors, targets)
    expected = criterion(out, whole, count(len(whole)))
    parts = []
    for rows in (slice(0, 1), slice(1, 3)):
        part = criterion.assign(out.anchors, targets[rows])
        given = Outputs(out.class_logits[rows], out.box_deltas[rows], out.anchors)
        parts.append(torch.stack([*criterion(given, part, count(len(whole))).values()]))
    torch.testing.assert_close(sum(parts), torch.stack([*expected.values()]))


def test_only_positives_move_their_boxes():
    out = outputs(1)
    out.box_deltas.requires_grad_()
    criterion = loss()
    assignment = criterion.assign(out.anchors, [target(random_boxes(3))])
    criterion(out, assignment, len(assignment))["box_loss"].backward()
    moved = (out.box_deltas.grad[0] != 0).any(1).nonzero().squeeze(1)
    assert moved.tolist() == assignment.anchor.tolist()


def test_coordinates_whose_target_is_exactly_zero_are_left_out():
    anchors = torch.tensor([[0.0, 0, 16, 16]])
    out = Outputs(torch.zeros(1, 1, CLASSES), torch.full((1, 1, 4), 5.0), anchors)
    criterion = loss()
    box = torch.tensor([[4.0, 0, 20, 16]])  # moved to the right by a quarter: dx alone is not zero
    losses = criterion(out, criterion.assign(anchors, [target(box)]), 1)
    assert losses["box_loss"].item() == pytest.approx((0.1 * 4.75 - 0.005) / (4 * 2))


def test_perfect_boxes_have_no_box_loss():
    out, boxes = outputs(1), random_boxes(5)
    criterion = loss()
    assignment = criterion.assign(out.anchors, [target(boxes)])
    out.box_deltas[0, assignment.anchor] = encode_boxes(assignment.box, out.anchors[assignment.anchor])
    assert criterion(out, assignment, len(assignment))["box_loss"].item() == pytest.approx(0, abs=1e-12)


def test_a_box_without_area_gives_finite_losses():
    out = outputs(1)
    criterion = loss()
    boxes = torch.tensor([[20.0, 20, 20, 20], [30.0, 30, 30.0001, 60]])
    assignment = criterion.assign(out.anchors, [target(boxes)])
    assert all(value.isfinite() for value in criterion(out, assignment, len(assignment)).values())


def test_outputs_of_low_precision_give_float32_losses():
    out = outputs(1)
    low = Outputs(out.class_logits.bfloat16(), out.box_deltas.bfloat16(), out.anchors)
    criterion = loss()
    assignment = criterion.assign(out.anchors, [target(random_boxes(3))])
    exact, given = criterion(out, assignment, len(assignment)), criterion(low, assignment, len(assignment))
    assert {value.dtype for value in given.values()} == {torch.float32}
    assert given["loss"].item() == pytest.approx(exact["loss"].item(), rel=0.02)


# Cross-entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("classes", [2, 7])
def test_the_cross_entropy_of_mixed_targets_follows_the_written_out_formula(smoothing, classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(6, classes, generator=generator) * 3
    targets = torch.rand(6, classes, generator=generator).pow(4)
    targets /= targets.sum(1, keepdim=True)
    wanted = 0.0
    for row, shares in zip(logits.tolist(), targets.tolist(), strict=True):
        normaliser = math.log(sum(math.exp(value) for value in row))
        for value, share in zip(row, shares, strict=True):
            wanted += ((1 - smoothing) * share + smoothing / classes) * (normaliser - value)
    assert ClassificationLoss(smoothing)(logits, targets, 2)["loss"].item() * 2 == pytest.approx(wanted, rel=1e-5)


def test_a_mixture_of_two_images_costs_the_mixture_of_their_losses():
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    criterion = ClassificationLoss(0.1)
    one, two = torch.eye(5)[[1]], torch.eye(5)[[3]]
    first, second = (criterion(logits, target, 1)["loss"] for target in (one, two))
    both = criterion(logits, 0.3 * one + 0.7 * two, 1)["loss"]
    torch.testing.assert_close(both, 0.3 * first + 0.7 * second)


def test_the_cross_entropy_of_parts_adds_up_and_is_float32():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)).bfloat16() * 100
    targets = torch.eye(4)[[0, 1, 2, 3, 0]]
    criterion = ClassificationLoss(0.1)
    whole = criterion(logits, targets, 5)["loss"]
    assert whole.dtype == torch.float32
    assert whole.isfinite()
    parts = [criterion(*pieces, 5)["loss"] for pieces in zip(logits.split(2), targets.split(2), strict=True)]
    torch.testing.assert_close(sum(parts), whole)
