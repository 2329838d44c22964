import contextlib
import itertools
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from effdet.config import load_config
from effdet.distributed import Processes
from effdet.errors import DataError, TrainingError
from effdet.training.optim import train_mode
from effdet.training.setup import set_up
from effdet.training.step import compute_gradients, prepare, reduce_losses, train_step

QUIET = Console(quiet=True)
PLAIN_SGD = (  # the change of a weight is its gradient
    "optim.learning_rate=1",
    "optim.base_batch_size=null",
    "optim.warmup_epochs=0",
    "optim.momentum=0",
    "optim.weight_decay=0",
    "optim.grad_clip_norm=null",
)
SMALL = ("model.image_size=[64, 64]", "model.width=0.25", "model.depth=0.3")
RANDOM = {
    "detection": ("model.drop_path=0.5", "loss.positives_momentum=0.9", "train.accumulation_steps=2"),
    "classification": ("augment.mixup_alpha=0.5", "augment.cutmix_alpha=1.0", "train.accumulation_steps=2"),
}


@pytest.fixture(params=["detection", "classification"])
def task(request):
    return request.param


@pytest.fixture
def recipe(task, tiny_recipe, shapes_recipe):
    return {"detection": tiny_recipe, "classification": shapes_recipe}[task]


def start(recipe, folder, *overrides):
    """A run before its first step, and its first batch."""
    run, state = set_up(load_config(recipe, overrides), folder, "cpu", QUIET)
    train_mode(state.model, run.frozen)
    return run, state, next(run.task.data.batches(0, 1, pin_memory=False))


def step(run, state, batch):
    """The metrics of one optimizer step."""
    micro_batches, _ = prepare(run, state, batch)
    return train_step(run, state, micro_batches)


def copy_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(model, before):
    """Names of the values that are not what they were."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def gradients_of(model):
    return {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}


def batch_norm_layers(recipe, folder):
    """Names to freeze: batch statistics would differ between a batch and its micro-batches."""
    model = start(recipe, folder)[1].model
    return [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]


# Micro-batches


def assert_same_micro_batches(first, second):
    assert len(first) == len(second) == 2
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.images, two.images)
        assert list(one.rows) == list(two.rows)
        assert (one.count, float(one.normalizer)) == (two.count, float(two.normalizer))
        if isinstance(one.targets, torch.Tensor):
            assert torch.equal(one.targets, two.targets)
        else:
            assert list(one.targets) == list(two.targets)
            assert all(torch.equal(*pair) for pair in zip(one.assignment, two.assignment, strict=True))


def test_micro_batches_are_a_pure_function_of_batch_and_step(task, recipe, tmp_path):
    run, state, batch = start(recipe, tmp_path, *SMALL, *RANDOM[task])
    images = batch.images.clone()
    first, _ = prepare(run, state, batch)
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second, _ = prepare(run, state, batch)
    assert_same_micro_batches(first, second)
    assert torch.equal(batch.images, images)
    assert sorted(row for micro_batch in first for row in micro_batch.rows) == sorted(batch.indices)
    train_step(run, state, second)
    assert_same_micro_batches(run.task.prepare(batch, 0), run.task.prepare(batch, 0))


def test_the_normalizer_is_the_count_of_all_micro_batches(task, recipe, tmp_path):
    run, state, batch = start(recipe, tmp_path, *SMALL, "train.accumulation_steps=2")
    micro_batches, reason = prepare(run, state, batch)
    assert reason is None
    assert len(micro_batches) == 2
    counts = [micro_batch.count for micro_batch in micro_batches]
    assert [float(micro_batch.normalizer) for micro_batch in micro_batches] == [sum(counts)] * 2
    if task == "detection":
        assert counts == [micro_batch.assignment.num_positives for micro_batch in micro_batches]
    else:
        assert counts == [len(micro_batch.images) for micro_batch in micro_batches]


def test_a_batch_that_cannot_be_read_is_the_error_of_the_step(recipe, tmp_path):
    run, state, _ = start(recipe, tmp_path, *SMALL)
    with pytest.raises(DataError, match="the image is cut off"):
        prepare(run, state, DataError("the image is cut off"))


def test_a_stop_request_is_given_back_with_the_micro_batches(recipe, tmp_path):
    run, state, batch = start(recipe, tmp_path, *SMALL)
    micro_batches, reason = prepare(run, state, batch, "out of time")
    assert reason == "out of time"
    assert micro_batches


# One step


def test_micro_batches_of_a_detector_add_up_to_the_gradient_of_the_batch(tiny_recipe, tmp_path):
    frozen = ", ".join(batch_norm_layers(tiny_recipe, tmp_path))
    results = []
    for steps in (1, 4, 3):
        run, state, batch = start(
            tiny_recipe,
            tmp_path,
            f"train.freeze=[{frozen}]",
            f"train.accumulation_steps={steps}",
            "model.drop_path=0",
            "model.image_size=[160, 160]",
            *PLAIN_SGD,
        )
        before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
        metrics = step(run, state, batch)
        moves = {name: before[name] - value.detach() for name, value in state.model.named_parameters()}
        results.append((metrics, moves))
    (whole, gradients), *others = results
    assert whole["gradient_norm"] > 0.1
    for metrics, sums in others:
        assert metrics == pytest.approx(whole, rel=1e-4)
        for name, value in sums.items():
            scale = gradients[name].abs().max()
            torch.testing.assert_close(value, gradients[name], rtol=1e-3, atol=float(1e-4 + 1e-3 * scale), msg=name)


def test_micro_batches_of_a_classifier_add_up_to_the_gradient_of_the_batch(shapes_recipe, tmp_path):
    frozen = ", ".join(batch_norm_layers(shapes_recipe, tmp_path))
    results = []
    for steps in (1, 6, 4):
        run, state, batch = start(
            shapes_recipe,
            tmp_path,
            f"train.freeze=[{frozen}]",
            f"train.accumulation_steps={steps}",
            "augment.mixup_alpha=0.5",
            "augment.cutmix_alpha=1.0",
            "model.drop_path=0",
            "model.dropout=0",
            *PLAIN_SGD,
        )
        before = copy_of(state.model)
        metrics = step(run, state, batch)
        results.append((metrics, {name: before[name] - value for name, value in copy_of(state.model).items()}))
    (whole, gradients), *others = results
    assert whole["gradient_norm"] > 0.1
    for metrics, sums in others:
        assert metrics == pytest.approx(whole, rel=1e-4)
        for name, value in sums.items():
            # By its norm: a ReLU6 near its corner may fall to the other side by rounding.
            expected = gradients[name].float()
            difference = (value.float() - expected).norm() / (expected.norm() + 1e-6)
            assert difference < 1e-2, name


def test_gradients_are_clipped_to_the_norm_of_the_recipe(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *PLAIN_SGD, "optim.grad_clip_norm=0.5")
    before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    metrics = step(run, state, batch)
    moves = [before[name] - value.detach() for name, value in state.model.named_parameters()]
    assert metrics["gradient_norm"] > 1  # before clipping
    assert torch.cat([move.flatten() for move in moves]).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_a_frozen_backbone_does_not_change_with_its_statistics(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, "train.freeze=[backbone]")
    before = copy_of(state.model)
    step(run, state, batch)
    for name, value in state.model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, before[name]), name
        elif name.endswith(("running_mean", "predict.pointwise.weight")):
            assert not torch.equal(value, before[name]), name


def test_frozen_modules_of_a_classifier_do_not_change_with_their_statistics(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path, "train.freeze=[conv_stem, bn1, blocks]")
    before = copy_of(state.model)
    step(run, state, batch)
    moved = changed(state.model, before)
    assert moved == {name for name in before if name.startswith(("conv_head.", "bn2.", "classifier."))}


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_every_optimizer_moves_all_weights(shapes_recipe, tmp_path, name, schedule):
    overrides = (
        f"optim.name={name}",
        f"optim.schedule={schedule}",
        "optim.learning_rate=1e-2",
        "optim.grad_clip_norm=null",
    )
    run, state, batch = start(shapes_recipe, tmp_path, *overrides)
    before = {key: value.detach().clone() for key, value in state.model.named_parameters()}
    for _ in range(2):
        assert math.isfinite(step(run, state, batch)["loss"])
    assert not [key for key, value in state.model.named_parameters() if torch.equal(value, before[key])]


def test_a_step_updates_the_ema_and_counts(recipe, tmp_path):
    run, state, batch = start(recipe, tmp_path)
    before = copy_of(state.ema.model)
    metrics = step(run, state, batch)
    assert state.step == 1
    assert metrics["learning_rate"] == run.schedule.learning_rate(0)
    for name, value in state.ema.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.1 * before[name] + 0.9 * state.model.state_dict()[name])


def test_the_total_of_a_detector_is_the_weighted_sum_of_its_terms(tiny_recipe, tmp_path):
    metrics = step(*start(tiny_recipe, tmp_path))
    assert metrics["loss"] == pytest.approx(metrics["class_loss"] + 50 * metrics["box_loss"], rel=1e-5)


@pytest.mark.parametrize("empty", ["all", "one"])
def test_images_without_objects_are_trained_on(tiny_recipe, tmp_path, empty):
    run, state, batch = start(tiny_recipe, tmp_path)
    cleared = [replace(target, boxes=target.boxes[:0], labels=target.labels[:0]) for target in batch.targets]
    targets = tuple(cleared) if empty == "all" else (cleared[0], *batch.targets[1:])
    metrics = step(run, state, replace(batch, targets=targets))
    assert (metrics["box_loss"] == 0) == (empty == "all")
    assert metrics["class_loss"] > 0


def test_float16_gradients_that_overflow_are_computed_again_with_a_smaller_loss_scale(tiny_recipe, tmp_path):
    overrides = ("train.precision=fp16", "model.image_size=[64, 64]", "train.batch_size=2")
    run, state, batch = start(tiny_recipe, tmp_path, *overrides)
    assert state.scaler.get_scale() == 65536
    metrics = step(run, state, batch)
    assert state.step == 1
    assert metrics["gradient_norm"] < 1e4
    assert state.scaler.get_scale() < 65536


# NaN and Inf


@pytest.mark.parametrize("steps", [1, 2])
def test_an_infinite_loss_ends_the_run_and_leaves_the_weights(tiny_recipe, tmp_path, steps):
    run, state, batch = start(tiny_recipe, tmp_path, "loss.box_weight=1e39", f"train.accumulation_steps={steps}")
    before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    with pytest.raises(TrainingError) as caught:
        step(run, state, batch)
    message = str(caught.value)
    assert message.startswith("step 1: the loss or its gradient is NaN or Inf (learning rate 0.0005, loss inf, class l")
    for target in batch.targets:
        assert run.task.data.file_name(target.index) in message
    assert "lower optim.learning_rate" in message
    assert "\n" not in message
    assert state.step == 0
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_parameters())


def test_a_loss_of_nan_names_step_and_images_and_leaves_the_weights(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path)
    with torch.no_grad():
        state.model.classifier.bias[0] = math.nan
    before = copy_of(state.model)
    message = r"^step 1: the loss or its gradient is NaN or Inf \(.*loss nan.*\); images: "
    with pytest.raises(TrainingError, match=message) as caught:
        step(run, state, batch)
    assert all(run.task.data.file_name(index) in str(caught.value) for index in batch.indices)
    weights = {name for name, _ in state.model.named_parameters()}
    assert changed(state.model, before) & weights <= {"classifier.bias"}  # NaN is not equal to itself
    assert state.step == 0


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_not_finite_makes_all_gradients_nan(recipe, tmp_path, monkeypatch, value):
    run, state, batch = start(recipe, tmp_path, *SMALL, "optim.grad_clip_norm=null", "train.accumulation_steps=2")
    micro_batches, _ = prepare(run, state, batch)
    finite = run.task.loss
    calls = itertools.count()

    def loss(outputs, micro_batch):
        losses = finite(outputs, micro_batch)
        added = value if next(calls) == 0 else 0.0  # the gradient of a constant is zero
        return {**losses, "loss": losses["loss"] + added}

    monkeypatch.setattr(run.task, "loss", loss)
    losses, gradient_norm = compute_gradients(run, state, micro_batches)
    assert not math.isfinite(losses["loss"])
    assert math.isnan(gradient_norm)
    gradients = gradients_of(state.model)
    assert gradients.keys() == dict(state.model.named_parameters()).keys()
    assert all(gradient.isnan().all() for gradient in gradients.values())


def test_gradients_of_finite_losses_are_those_of_a_plain_backward(task, recipe, tmp_path):
    changes = (*SMALL, "optim.grad_clip_norm=null", "model.drop_path=0", "train.accumulation_steps=2")
    dropout = ("model.dropout=0",) if task == "classification" else ()
    run, state, batch = start(recipe, tmp_path, *changes, *dropout)
    micro_batches, _ = prepare(run, state, batch)
    for micro_batch in micro_batches:
        run.task.loss(state.model(micro_batch.images), micro_batch)["loss"].backward()
    expected = gradients_of(state.model)
    state.model.zero_grad()
    _, norm = compute_gradients(run, state, micro_batches)
    gradients = gradients_of(state.model)
    assert all(torch.equal(gradients[name], value) for name, value in expected.items())
    assert norm == pytest.approx(torch.stack([value.norm() for value in expected.values()]).norm().item(), rel=1e-5)


# Several processes


@dataclass(frozen=True)
class Alike(Processes):
    """One of two processes that have the same data and compute the same; notes what it sends."""

    size: int = 2
    sent: list = field(default_factory=list)

    def all_reduce_sum(self, values):
        self.sent.append(values.clone())
        return values.mul_(self.size)

    def all_reduce_max(self, value):
        raise AssertionError("a step needs no maximum")


@dataclass(frozen=True)
class WithOthers(Processes):
    """A process that adds to its numbers what other processes have sent."""

    numbers: tuple = ()

    def all_reduce_sum(self, values):
        return sum(self.numbers, values)


def sent_in_prepare(run, state, batch, asked=None):
    """What a process sends to the others in `prepare`."""
    processes = Alike(size=1)
    with contextlib.suppress(DataError):
        prepare(replace(run, processes=processes), state, batch, asked)
    (numbers,) = processes.sent
    return numbers


def after_a_step(recipe, folder):
    """A run with another process like it, after a step that is not its first; and the metrics of the step."""
    run, state, batch = start(recipe, folder, *SMALL)
    run = replace(run, processes=Alike())
    state.step = 1  # the loss of the first step is compared with that of an untrained head
    metrics = step(run, state, batch)
    state.recent.append(dict(metrics))
    state.unreduced = True
    return run, state, batch, metrics


def test_the_processes_of_a_step_exchange_numbers_once(recipe, tmp_path):
    run, state, batch, _ = after_a_step(recipe, tmp_path)
    assert len(run.processes.sent) == 1
    step(run, state, batch)  # now with the losses of the step before
    assert len(run.processes.sent) == 2


def test_losses_of_a_step_are_summed_over_processes_with_the_next_step(recipe, tmp_path):
    run, state, batch, metrics = after_a_step(recipe, tmp_path)
    prepare(run, state, batch)
    summed = {**metrics, **{name: 2 * metrics[name] for name in run.task.criterion.names}}
    assert state.recent == [summed]
    prepare(run, state, batch)
    reduce_losses(run, state)
    assert state.recent == [summed]  # not a second time


def test_losses_are_summed_over_processes_before_they_are_logged(recipe, tmp_path):
    run, state, _, metrics = after_a_step(recipe, tmp_path)
    reduce_losses(run, state)
    assert state.recent == [{**metrics, **{name: 2 * metrics[name] for name in run.task.criterion.names}}]
    reduce_losses(run, state)
    assert state.recent[0]["loss"] == 2 * metrics["loss"]
    assert len(run.processes.sent) == 2  # of the step, and of the losses


def test_losses_and_gradients_are_normalized_by_the_batches_of_all_processes(shapes_recipe, tmp_path):
    changes = (*SMALL, "model.drop_path=0", "model.dropout=0")
    run, state, batch = start(shapes_recipe, tmp_path, *changes)
    alone = step(run, state, batch)
    run, state, batch = start(shapes_recipe, tmp_path, *changes)
    pair = step(replace(run, processes=Alike()), state, batch)
    assert 2 * pair["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert pair["gradient_norm"] == pytest.approx(alone["gradient_norm"], rel=1e-4)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([None], None),
        (["out of time"], "out of time"),
        ([None, "interrupted"], "interrupted"),
        (["out of time", "interrupted"], "interrupted"),
        (["interrupted", "out of time", "terminated"], "terminated"),
    ],
)
def test_a_process_stops_with_the_others_for_the_most_urgent_reason(tiny_recipe, tmp_path, others, expected):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL)
    numbers = tuple(sent_in_prepare(run, state, batch, reason) for reason in others)
    processes = WithOthers(size=1 + len(others), numbers=numbers)
    micro_batches, reason = prepare(replace(run, processes=processes), state, batch)
    assert reason == expected
    positives = sum(micro_batch.count for micro_batch in micro_batches)
    assert micro_batches[0].normalizer == positives * (1 + len(others))


def test_data_that_another_process_cannot_read_ends_this_one_too(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, *SMALL)
    numbers = (sent_in_prepare(run, state, DataError("the image is cut off")),)
    with pytest.raises(DataError, match="another process cannot read its images; its own message says why"):
        prepare(replace(run, processes=WithOthers(size=2, numbers=numbers)), state, batch)
