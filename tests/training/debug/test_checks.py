import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from effdet.config import load_config
from effdet.data.annotations import Annotations
from effdet.data.formats.table import build_table, repair_boxes
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.errors import DataError, TrainingError
from effdet.losses import assign
from effdet.training.debug.checks import box_warnings, check_boxes, check_first_loss, label_warnings
from effdet.training.optim import train_mode
from effdet.training.setup import set_up
from effdet.training.step import prepare, train_step

INPUT = (100, 200)
SMALL = ("model.image_size=[64, 64]", "model.width=0.25", "model.depth=0.3")


def table_of(boxes, labels=None, names=("cat", "dog"), size=(100, 200), crowd=None):
    """Annotations of one image per box."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    return Annotations(
        source=Path("data/train.json"),
        image_folder=Path("images"),
        file_names=np.array([f"{number}.jpg" for number in range(max(count, 1))]),
        image_ids=np.arange(max(count, 1)),
        sizes=np.array([size] * max(count, 1), np.int32),
        offsets=np.arange(max(count, 1) + 1).clip(max=count),
        boxes=boxes,
        labels=np.arange(count) % 2 if labels is None else np.array(labels),
        crowd=np.zeros(count, bool) if crowd is None else np.array(crowd),
        areas=np.ones(count),
        difficult=np.zeros(count, bool),
        label_map=LabelMap(tuple(names), tuple(range(len(names)))),
    )


BOXES = [[10, 10, 50, 60], [20, 5, 180, 90]]


# The table


def test_a_valid_table_passes_without_a_warning():
    check_boxes(table_of(BOXES))
    assert box_warnings(table_of(BOXES), INPUT, "pad") == []


@pytest.mark.parametrize("box", [[10, 10, math.nan, 60], [10, 10, math.inf, 60], [10, 10, 10, 60], [50, 10, 10, 60]])
def test_boxes_that_are_not_finite_or_empty_are_an_error(box):
    with pytest.raises(DataError, match=r"1 of 3 boxes has NaN or Inf coordinates, or no area, .*/2\.jpg"):
        check_boxes(table_of([*BOXES, box]))


@pytest.mark.parametrize("label", [-1, 2])
def test_labels_that_are_not_a_class_are_an_error(label):
    with pytest.raises(DataError, match=r"1 of 2 boxes has labels outside 0\.\.1, the first in images/1\.jpg"):
        check_boxes(table_of(BOXES, labels=[0, label]))


def test_a_training_set_without_objects_gives_a_warning():
    expected = ["train.json: no image has objects, so the model can learn background only"]
    assert box_warnings(table_of([]), INPUT, "pad") == expected
    assert box_warnings(table_of(BOXES, crowd=[True, True]), INPUT, "pad") == expected


def test_classes_without_objects_are_named():
    names = [f"class {number}" for number in range(14)]
    (warning,) = box_warnings(table_of(BOXES, names=names), INPUT, "pad")
    assert warning.startswith("train.json: 12 of 14 classes have no objects to train on: class 2, class 3, ")
    assert warning.endswith("class 11, ...")
    (warning,) = box_warnings(table_of(BOXES, labels=[1, 1]), INPUT, "pad")
    assert warning == ("train.json: all objects are of class dog, and 1 of 2 classes has no objects to train on: cat")
    (warning,) = box_warnings(table_of(BOXES, crowd=[True, False]), INPUT, "pad")
    assert warning.endswith("no objects to train on: cat")


def test_a_single_class_gives_no_warning():
    assert box_warnings(table_of(BOXES, labels=[0, 0], names=["cat"]), INPUT, "pad") == []


def test_coordinates_relative_to_the_image_give_a_warning():
    (warning,) = box_warnings(table_of([[0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]], size=(20, 20)), (320, 320), "pad")
    assert "all box coordinates lie within 0..1" in warning


def test_boxes_that_mostly_extend_beyond_their_images_give_a_warning(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    boxes = np.array([[10, 10, 50, 60], [60, 60, 150, 90], [90, 90, 180, 190], [150, 150, 180, 200]], float)
    table = build_table(
        Path("train.json"),
        tmp_path,
        ["a.jpg"],
        np.array([1]),
        np.array([[100, 100]], np.int32),
        np.zeros(4, np.int64),
        boxes,
        np.zeros(4, np.int64),
        LabelMap(("cat",), (1,)),
    )
    (warning,) = box_warnings(repair_boxes(table), (320, 320), "pad")
    assert warning.startswith("train.json: 75% of the boxes extend beyond their images")


def test_objects_too_small_for_the_input_give_a_warning():
    tiny = [[0, 0, 30, 30], [50, 50, 70, 80], [0, 0, 60, 60]]
    large = table_of(tiny, size=(1000, 1000))
    assert box_warnings(large, (320, 320), "pad") == []
    (warning,) = box_warnings(large, (64, 128), "pad")
    assert warning.startswith("train.json: 100% of the objects are smaller than 4 x 4 pixels in an input of 64 x 128")
    assert "raise model.image_size" in warning
    assert box_warnings(table_of(tiny, size=(0, 0)), (64, 64), "pad") == []  # sizes that are not known


def test_classes_of_a_classifier_without_images_are_named():
    table = ImageLabels(
        source=Path("train"),
        image_folder=Path(),
        file_names=np.array(["a.jpg", "b.jpg"]),
        labels=np.array([0, 2]),
        label_map=LabelMap(("cat", "cow", "dog"), (0, 1, 2)),
    )
    assert label_warnings(table) == ["train: 1 of 3 classes has no images to train on: cow"]
    assert label_warnings(replace(table, labels=np.array([0, 2, 1]))) == []


# The first loss


def start(recipe, folder, *overrides):
    run, state = set_up(load_config(recipe, [*SMALL, *overrides]), folder, "cpu", Console(quiet=True))
    train_mode(state.model, run.frozen)
    return run, state, next(run.task.data.batches(0, 1, pin_memory=False))


def step(run, state, batch):
    """The metrics of one optimizer step."""
    micro_batches, _ = prepare(run, state, batch)
    return train_step(run, state, micro_batches)


def untrained_loss(run, state, batch, name):
    """The loss of a step with the outputs of a network that has learned nothing."""
    micro_batches, _ = prepare(run, state, batch)
    return sum(float(run.task.loss(run.task.untrained(one.images), one)[name]) for one in micro_batches)


def test_the_class_loss_of_a_new_head_is_that_of_scores_of_a_hundredth(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, "loss.label_smoothing=0.1", "train.accumulation_steps=2")
    alpha, gamma, score, half = 0.25, 1.5, 0.01, 0.05
    positives = assign(state.model.anchors, batch.targets).num_positives
    logits = len(batch.images) * len(state.model.anchors) * state.model.num_classes
    positive = alpha * (1 - score) ** gamma * -((1 - half) * math.log(score) + half * math.log(1 - score))
    negative = (1 - alpha) * score**gamma * -(half * math.log(score) + (1 - half) * math.log(1 - score))
    expected = (positives * positive + (logits - positives) * negative) / (positives + 1)
    assert untrained_loss(run, state, batch, "class_loss") == pytest.approx(expected, rel=1e-4)
    assert step(run, state, batch)["class_loss"] == pytest.approx(expected, rel=0.05)


def test_the_loss_of_a_new_classifier_is_the_logarithm_of_its_classes(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path, "augment.mixup_alpha=0.2", "train.accumulation_steps=2")
    assert untrained_loss(run, state, batch, "loss") == pytest.approx(math.log(3), rel=1e-5)
    assert step(run, state, batch)["loss"] == pytest.approx(math.log(3), rel=0.5)


def spoiled(recipe, folder, *overrides):
    """A run whose class head starts from scores of 0.5."""
    run, state, batch = start(recipe, folder, *overrides)
    with torch.no_grad():
        state.model.class_head.predict.pointwise.bias.zero_()
    return run, state, batch


def test_a_head_that_is_not_newly_initialized_is_an_error(tiny_recipe, tmp_path):
    run, state, batch = spoiled(tiny_recipe, tmp_path)
    before = state.model.class_head.predict.pointwise.bias.clone()
    with pytest.raises(TrainingError, match=r"step 1: the class loss is .* a newly initialized head should have "):
        step(run, state, batch)
    assert state.step == 0
    assert torch.equal(state.model.class_head.predict.pointwise.bias, before)
    assert list(tmp_path.iterdir()) == []


def test_later_steps_and_heads_with_weights_are_not_compared(tiny_recipe, tmp_path):
    run, state, batch = spoiled(tiny_recipe, tmp_path)
    state.step = 1
    step(run, state, batch)
    torch.save({"model": state.model.state_dict()}, tmp_path / "weights.pth")
    run, state, batch = spoiled(tiny_recipe, tmp_path, f"model.weights={tmp_path / 'weights.pth'}")
    step(run, state, batch)


def test_a_first_loss_may_differ_by_a_factor_of_three():
    for loss in (0.34, 1.0, 2.9):
        check_first_loss("class_loss", loss, 1.0)
    for loss in (0.32, 3.1):
        with pytest.raises(TrainingError, match=r"the class loss is .*, but a newly initialized head should have 1 on"):
            check_first_loss("class_loss", loss, 1.0)
