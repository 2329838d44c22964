import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from effdet.config import load_config
from effdet.errors import ConfigError
from effdet.losses import assign
from effdet.structures import Target
from effdet.training.tasks import TASKS
from effdet.training.tasks.detection import DetectionTask, class_weights
from effdet.types import DetectionLossOptions

QUIET = Console(quiet=True)
SMALL = ("model.image_size=[64, 64]", "model.width=0.25", "model.depth=0.3")


def task_and_batch(recipe, *overrides):
    task = DetectionTask(load_config(recipe, [*SMALL, *overrides]), QUIET)
    return task, next(task.data.batches(0, 1, pin_memory=False))


# Micro-batches


@pytest.mark.parametrize("steps", [1, 2])
def test_micro_batches_have_their_images_targets_and_positive_anchors(tiny_recipe, steps):
    task, batch = task_and_batch(tiny_recipe, f"train.accumulation_steps={steps}")
    micro_batches = task.prepare(batch, 0)
    assert len(micro_batches) == steps
    assert torch.cat([one.images for one in micro_batches]).equal(batch.images)
    assert [target for one in micro_batches for target in one.targets] == list(batch.targets)
    assert [row for one in micro_batches for row in one.rows] == list(batch.indices)
    for one in micro_batches:
        expected = assign(task.model.anchors_at((64, 64)), one.targets)
        assert all(values.equal(other) for values, other in zip(one.assignment, expected, strict=True))
        assert one.count == one.normalizer == expected.num_positives > 0


def test_a_loss_of_matched_anchors_is_that_of_the_targets(tiny_recipe):
    task, batch = task_and_batch(tiny_recipe)
    (micro_batch,) = task.prepare(batch, 0)
    outputs = task.untrained(micro_batch.images)
    assert task.loss(outputs, micro_batch) == task.loss(outputs, replace(micro_batch, assignment=None))
    assert task.loss(outputs, micro_batch) == task.criterion(outputs, batch.targets)


def test_a_stretching_detector_trains_and_is_evaluated_on_stretched_images(tiny_recipe):
    task, batch = task_and_batch(tiny_recipe, "model.letterbox=stretch", "augment.scale_jitter=null")
    for target in batch.targets:
        height, width = target.size
        assert target.scale == (64 / height, 64 / width)
    assert task.card().spec.letterbox == "stretch"
    (micro_batch,) = task.prepare(batch, 0)
    assert task.loss(task.model(micro_batch.images), micro_batch)["loss"].isfinite()
    assert 0 <= task.evaluate(task.model.eval()).metrics()["AP"] <= 1


def test_images_of_other_sizes_have_anchors_of_their_own(tiny_recipe):
    task, batch = task_and_batch(tiny_recipe)
    images = batch.images.repeat(1, 1, 2, 3)
    (micro_batch,) = task.prepare(replace(batch, images=images), 0)
    assert len(task.untrained(images).anchors) == len(task.model.anchors_at((128, 192)))
    assert micro_batch.assignment.anchor.max() < len(task.model.anchors_at((128, 192)))


def test_the_normalizer_is_the_moving_average_of_the_positives_where_the_recipe_has_a_momentum(tiny_recipe):
    plain, _ = task_and_batch(tiny_recipe)
    assert [plain.normalizer(count, step) for step, count in enumerate((8, 0, 16))] == [8, 0, 16]
    averaging, _ = task_and_batch(tiny_recipe, "loss.positives_momentum=0.75")
    assert [float(averaging.normalizer(count, step)) for step, count in enumerate((8, 0, 16))] == [8, 6, 8.5]


# The loss


def test_the_criterion_has_the_options_of_the_recipe(tiny_recipe):
    options = {
        "alpha": 0.5,
        "gamma": 2.0,
        "label_smoothing": 0.1,
        "huber_delta": 0.2,
        "box_weight": 3.0,
        "iou": "ciou",
        "iou_weight": 2.0,
        "positives_momentum": 0.9,
    }
    task, _ = task_and_batch(tiny_recipe, *(f"loss.{name}={value}" for name, value in options.items()))
    assert task.criterion.options == DetectionLossOptions(**options)
    assert task.criterion.class_weights is None


def test_an_untrained_detector_has_scores_of_a_hundredth(tiny_recipe):
    task, batch = task_and_batch(tiny_recipe, "loss.label_smoothing=0.1", "train.accumulation_steps=2")
    alpha, gamma, score, half = 0.25, 1.5, 0.01, 0.05
    micro_batches = task.prepare(batch, 0)
    positives = sum(one.count for one in micro_batches)
    logits = len(batch.images) * len(task.model.anchors) * task.model.num_classes
    positive = alpha * (1 - score) ** gamma * -((1 - half) * math.log(score) + half * math.log(1 - score))
    negative = (1 - alpha) * score**gamma * -(half * math.log(score) + (1 - half) * math.log(1 - score))
    expected = (positives * positive + (logits - positives) * negative) / (positives + 1)
    losses = [task.loss(task.untrained(one.images), replace(one, normalizer=positives)) for one in micro_batches]
    assert sum(float(one["class_loss"]) for one in losses) == pytest.approx(expected, rel=1e-4)


def test_class_weights_are_in_label_order_and_1_where_none_is_given():
    assert class_weights({"dog": 2, "ant": 0.5}, ("ant", "cat", "dog")).tolist() == [0.5, 1, 2]
    assert class_weights({}, ("ant", "cat")) is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [("bycicle", "did you mean 'bicycle'?"), ("zebra", "its classes are bicycle, 0, 1, 2, 3, 4, 5, 6, 7, 8, ...")],
)
def test_weights_of_unknown_classes_are_refused(name, hint):
    with pytest.raises(ConfigError) as error:
        class_weights({name: 2}, ("bicycle", *map(str, range(12))))
    assert str(error.value) == f"loss.class_weights: the training set has no class '{name}'; {hint}"


# Without a data set


def test_outputs_are_named_by_level(tiny_recipe):
    task, batch = task_and_batch(tiny_recipe)
    outputs = task.model(batch.images)
    named = dict(task.named_outputs(task.model, outputs, (64, 64)))
    levels = [f"P{level}" for level in range(3, 8)]
    assert list(named) == [f"{kind} {level}" for kind in ("class_logits", "box_deltas") for level in levels]
    assert torch.cat([named[f"class_logits {level}"] for level in levels], 1).equal(outputs.class_logits)
    assert torch.cat([named[f"box_deltas {level}"] for level in levels], 1).equal(outputs.box_deltas)
    assert [named[f"box_deltas {level}"].shape[1] for level in levels] == [9 * side * side for side in (8, 4, 2, 1, 1)]


def test_targets_are_saved_as_plain_containers(tiny_recipe, tmp_path):
    task, batch = task_and_batch(tiny_recipe)
    torch.save(task.plain_targets([batch.targets[:1], batch.targets[1:]]), tmp_path / "targets.pt")
    restored = task.restore_targets(torch.load(tmp_path / "targets.pt", weights_only=True), torch.device("cpu"))
    assert len(restored) == len(batch.targets)
    for target, other in zip(restored, batch.targets, strict=True):
        assert target.boxes.equal(other.boxes)
        assert target.labels.equal(other.labels)
        assert (target.index, target.size, target.scale) == (other.index, other.size, other.scale)


def test_faults_of_boxes_are_counted(tiny_recipe):
    boxes = torch.tensor([[10.0, 10, 10, 40], [70, 5, 80, 9], [20, 30, 26, 60], [0, 0, math.nan, 4]])
    targets = [
        Target(boxes, torch.tensor([0, 5, 2, 2]), 0, (64, 64), (1.0, 1.0)),
        Target(boxes[:0], torch.zeros(0).long(), 1, (64, 64), (1.0, 1.0)),
    ]
    summary, lines = DetectionTask.describe_targets(targets, (64, 64), ())
    assert summary == {
        "count": 4,
        "not_finite": 1,
        "without_area": 1,
        "outside_their_image": 1,
        "smallest_side": 0.0,
        "largest_side": 30.0,
        "labels": [0, 5],
    }
    assert lines[0]["objects"] == 4
    assert lines[1] == {"objects": 0, "smallest_side": None}
    none, _ = DetectionTask.describe_targets(targets[1:], (64, 64), ())
    assert (none["count"], none["smallest_side"], none["labels"]) == (0, None, None)


def test_the_largest_image_is_that_of_multi_scale_training(tiny_recipe):
    config = load_config(tiny_recipe, ["augment.multi_scale=[0.5, 1.5]"])
    assert DetectionTask.largest_image(config, (128, 192)) == (192, 288)
    assert DetectionTask.largest_image(load_config(tiny_recipe), (128, 192)) == (128, 192)


def test_random_targets_are_many_valid_boxes():
    images = torch.zeros(2, 3, 64, 96)
    targets = DetectionTask.random_targets(images, 5)
    assert len(targets) == 2
    for target in targets:
        assert len(target.boxes) == len(target.labels) == 100
        assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
        assert (target.boxes >= 0).all()
        assert (target.boxes <= torch.tensor([96, 64, 96, 64])).all()
        assert set(target.labels.tolist()) <= set(range(5))


# The table of tasks


def test_every_task_is_in_the_table():
    assert set(TASKS) == {"detection", "classification"}
    assert TASKS["detection"] is DetectionTask
