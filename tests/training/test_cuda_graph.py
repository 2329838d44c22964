"""Which steps are captured as a CUDA graph, and that a graph computes what a plain step does."""

import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

import effdet.training.step as step_module
from effdet.config import TrainConfig, load_config
from effdet.data.loader import Prefetch
from effdet.errors import TrainingError
from effdet.training.cuda_graph import (
    PLAIN_MICRO_BATCHES,
    BackwardGraph,
    Captured,
    copy_of,
    reason_for_no_graph,
    signature_of,
    tensors_of,
)
from effdet.training.optim import train_mode
from effdet.training.setup import set_up
from effdet.training.step import finish_step, prepare, start_step, step_if_finite, train_step
from effdet.training.tasks import MicroBatch

QUIET = Console(quiet=True)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
STEPS = PLAIN_MICRO_BATCHES + 5


# Which runs use a graph


def test_a_plain_recipe_on_one_gpu_uses_a_graph():
    assert reason_for_no_graph(TrainConfig(), 1, None) is None


@pytest.mark.parametrize(
    ("train", "processes", "varies_by", "reason"),
    [
        ({"cuda_graphs": False}, 1, None, "train.cuda_graphs=false"),
        ({}, 2, None, "2 processes"),
        ({"compile": True}, 1, None, "train.compile"),
        ({"activation_checkpointing": True}, 1, None, "train.activation_checkpointing"),
        ({}, 1, "augment.multi_scale", "augment.multi_scale"),
    ],
)
def test_the_reason_against_a_graph_is_a_key_of_the_recipe(train, processes, varies_by, reason):
    assert reason_for_no_graph(TrainConfig(**train), processes, varies_by) == reason


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((), None),
        (("augment.multi_scale=[0.5,1.5]",), "augment.multi_scale"),
        (("data.rectangular=true",), "data.rectangular"),
    ],
)
def test_a_detector_names_what_changes_the_size_of_its_batches(tiny_recipe, tmp_path, overrides, key):
    run, _ = set_up(load_config(tiny_recipe, overrides), tmp_path, "cpu", QUIET)
    assert run.task.varies_by == key


def test_a_classifier_with_progressive_stages_uses_no_graph(shapes_recipe, staged_recipe, tmp_path):
    assert set_up(load_config(shapes_recipe), tmp_path, "cpu", QUIET)[0].task.varies_by is None
    assert set_up(load_config(staged_recipe), tmp_path, "cpu", QUIET)[0].task.varies_by == "progressive"


def test_without_a_gpu_there_is_no_graph(tiny_recipe, tmp_path):
    run, _ = set_up(load_config(tiny_recipe), tmp_path, "cpu", QUIET)
    assert run.graph is None


# Micro-batches and gradients


def micro_batch(value=1.0, images=2):
    return MicroBatch(
        torch.full((images, 3, 4, 4), value),
        torch.full((images, 5), value),
        range(images),
        None,
        2,
        torch.tensor(value),
    )


def detector_micro_batch(recipe, folder):
    run, state = set_up(load_config(recipe), folder, "cpu", QUIET)
    micro_batches, _ = prepare(run, state, next(run.task.data.batches(0, 1, pin_memory=False)))
    return run, micro_batches[0]


def test_a_copy_of_a_micro_batch_has_equal_tensors_of_its_own(tiny_recipe, tmp_path):
    for original in (micro_batch(), detector_micro_batch(tiny_recipe, tmp_path)[1]):
        copied = copy_of(original)
        assert signature_of(copied) == signature_of(original)
        for one, two in zip(tensors_of(copied), tensors_of(original), strict=True):
            assert torch.equal(one, two)
            assert one.data_ptr() != two.data_ptr() or one.numel() == 0


def test_a_copy_of_a_micro_batch_gives_its_losses(tiny_recipe, tmp_path):
    run, original = detector_micro_batch(tiny_recipe, tmp_path)
    outputs = run.task.untrained(original.images)
    assert run.task.loss(outputs, original) == run.task.loss(outputs, copy_of(original))


def test_micro_batches_of_another_shape_or_layout_have_another_signature():
    one = micro_batch()
    other = replace(one, images=one.images.contiguous(memory_format=torch.channels_last))
    assert len({signature_of(one), signature_of(micro_batch(images=3)), signature_of(other)}) == 3
    assert signature_of(one) == signature_of(micro_batch(7.0))


class Replayed:
    """Stands for a graph whose gradient is the first pixel of its images."""

    def __init__(self, inputs, gradient):
        self.inputs, self.gradient = inputs, gradient

    def replay(self):
        self.gradient.fill_(self.inputs.images.flatten()[0])


def test_gradients_of_replayed_micro_batches_add_up():
    weight, static, inputs = nn.Parameter(torch.zeros(3)), torch.zeros(3), micro_batch(0.0)
    captured = Captured(Replayed(inputs, static), signature_of(inputs), inputs, torch.zeros(1), [weight], [static], 0)
    expected = 0.0
    for value in (1.0, 10.0, 100.0):
        captured.replay(micro_batch(value))
        expected += value
        assert weight.grad.tolist() == [expected] * 3
    weight.grad = None
    captured.replay(micro_batch(5.0))
    assert weight.grad is static
    weight.grad = torch.full((3,), 0.5)  # of a micro-batch that was computed without the graph
    captured.replay(micro_batch(2.0))
    assert weight.grad.tolist() == [2.5] * 3


# The check of a step on the device


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_an_optimizer_step_with_a_result_of_nan_changes_nothing(kind, value):
    weight = nn.Parameter(torch.ones(4))
    optimizer = kind([weight], lr=0.1, fused=True)
    weight.grad = torch.ones(4)
    step_if_finite(optimizer, torch.tensor([1.0, 2.0]))
    moved = weight.detach().clone()
    assert (moved < 1).all()
    state = {key: entry.clone() for key, entry in optimizer.state[weight].items() if isinstance(entry, torch.Tensor)}
    weight.grad = torch.full((4,), math.nan)
    step_if_finite(optimizer, torch.tensor([1.0, value]))
    assert torch.equal(weight, moved)
    assert all(torch.equal(entry, optimizer.state[weight][key]) for key, entry in state.items())
    assert not hasattr(optimizer, "found_inf")


@pytest.fixture
def checked_late(monkeypatch):
    """Queues the optimizer step before its losses are known on a CPU too."""

    def switch(on):
        monkeypatch.setattr(step_module, "checks_on_device", lambda run, state: on and state.step > 0)

    return switch


def some_steps(recipe, folder, *overrides, count=3):
    run, state = set_up(load_config(recipe, overrides), folder, "cpu", QUIET)
    train_mode(state.model, run.frozen)
    batches = run.task.data.batches(0, count, pin_memory=False)
    return run, state, [train_step(run, state, prepare(run, state, batch)[0]) for batch in batches]


@pytest.mark.parametrize(("optimizer", "precision"), [("sgd", "fp16"), ("adamw", "fp32")])
def test_a_step_that_is_queued_before_it_is_checked_is_the_same_step(
    tiny_recipe, tmp_path, checked_late, optimizer, precision
):
    changes = (f"optim.name={optimizer}", f"train.precision={precision}", "model.width=0.25")
    results = []
    for on in (False, True):
        checked_late(on)
        _, state, metrics = some_steps(tiny_recipe, tmp_path, *changes)
        results.append((metrics, state.step, {**state.model.state_dict()}, {**state.ema.model.state_dict()}))
    (metrics, count, *models), (late_metrics, late_count, *late_models) = results
    assert (metrics, count) == (late_metrics, late_count)
    for one, two in zip(models, late_models, strict=True):
        assert all(torch.equal(value, two[name]) for name, value in one.items())


def test_nan_in_a_step_that_is_queued_before_it_is_checked_leaves_the_weights(tiny_recipe, tmp_path, checked_late):
    checked_late(True)
    run, state, _ = some_steps(tiny_recipe, tmp_path, count=2)
    before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    micro_batches, _ = prepare(run, state, next(run.task.data.batches(2, 3, pin_memory=False)))
    broken = [replace(one, normalizer=torch.full_like(one.normalizer, math.nan)) for one in micro_batches]
    with pytest.raises(TrainingError, match="step 3: the loss or its gradient is NaN or Inf"):
        train_step(run, state, broken)
    assert (tmp_path / "debug-3" / "report.json").exists()
    assert state.step == 2
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_parameters())


# On a GPU


def start_on_gpu(recipe, folder, *overrides):
    run, state = set_up(load_config(recipe, overrides), folder, "cuda", QUIET)
    train_mode(state.model, run.frozen)
    return run, state


def steps(run, state, count=STEPS):
    """The metrics of some steps, as the engine computes them."""
    batches = Prefetch(run.task.data.batches(0, count, True), run.network.device, run.task.prepare)
    metrics = []
    for batch in batches:
        micro_batches, _ = prepare(run, state, batch)
        started = start_step(run, state, micro_batches)
        batches.fetch()
        metrics.append(finish_step(run, state, started))
    batches.close()
    return metrics


@pytest.fixture
def repeatable():
    """cuDNN's deterministic kernels."""
    before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True
    yield
    torch.backends.cudnn.deterministic = before


def results(run, state):
    """Losses of some steps and the state after them, EMA and statistics included."""
    metrics = steps(run, state)
    saved = {"loss": torch.tensor([step["loss"] for step in metrics])}
    for name, model in (("model", state.model), ("ema", state.ema.model)):
        saved |= {f"{name}.{key}": value.float().cpu() for key, value in model.state_dict().items()}
    return saved


def assert_same(plain, again, other):
    """Bit for bit, if two plain runs are."""
    repeats = all(torch.equal(value, again[name]) for name, value in plain.items())
    tolerance = {"rtol": 0, "atol": 0} if repeats else {"rtol": 1e-2, "atol": 1e-3}
    torch.testing.assert_close(other, plain, **tolerance)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("task", ["detection", "classification"])
def test_a_graph_gives_the_weights_of_plain_steps_on_a_gpu(
    tiny_recipe, shapes_recipe, tmp_path, repeatable, task, micro_batches, precision
):
    recipe = {"detection": tiny_recipe, "classification": shapes_recipe}[task]
    changes = (
        f"train.precision={precision}",
        f"train.accumulation_steps={micro_batches}",
        "train.epochs=50",
        "model.drop_path=0.5",
        "data.workers=0",
    )
    plain, again = (results(*start_on_gpu(recipe, tmp_path, *changes, "train.cuda_graphs=false")) for _ in range(2))
    run, state = start_on_gpu(recipe, tmp_path, *changes)
    assert_same(plain, again, results(run, state))
    assert run.graph.is_captured


@needs_gpu
def test_a_step_that_cannot_be_captured_is_computed_without_a_graph_on_a_gpu(
    tiny_recipe, tmp_path, monkeypatch, capsys, repeatable
):
    changes = ("train.epochs=50", "model.drop_path=0.5", "data.workers=0")
    plain, again = (
        results(*start_on_gpu(tiny_recipe, tmp_path, *changes, "train.cuda_graphs=false")) for _ in range(2)
    )
    run, state = start_on_gpu(tiny_recipe, tmp_path, *changes)
    run = replace(run, graph=BackwardGraph(list(state.model.parameters()), run.network.device, Console(width=200)))
    loss = run.task.loss

    def waiting(outputs, micro_batch):
        losses = loss(outputs, micro_batch)
        float(losses["loss"])  # waits for the GPU, which a capture forbids
        return losses

    monkeypatch.setattr(run.task, "loss", waiting)
    assert_same(plain, again, results(run, state))
    assert not run.graph.is_captured
    assert capsys.readouterr().out.count("CUDA graphs: not used, this step cannot be captured") == 1


@needs_gpu
def test_batches_of_another_size_are_computed_without_the_graph_on_a_gpu(tiny_recipe, tmp_path):
    run, state = start_on_gpu(tiny_recipe, tmp_path, "train.epochs=50", "data.workers=0")
    steps(run, state)
    assert run.graph.is_captured
    batch = next(run.task.data.batches(state.step, state.step + 1, True))
    smaller = replace(batch, images=batch.images[:2], targets=batch.targets[:2])
    micro_batches, _ = prepare(run, state, smaller)
    assert math.isfinite(train_step(run, state, micro_batches)["loss"])


@needs_gpu
def test_nan_in_a_replayed_step_leaves_the_weights_on_a_gpu(tiny_recipe, tmp_path):
    run, state = start_on_gpu(tiny_recipe, tmp_path, "train.epochs=50", "data.workers=0", "train.precision=bf16")
    steps(run, state)
    assert run.graph.is_captured
    before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    batch = next(run.task.data.batches(state.step, state.step + 1, True))
    micro_batches, _ = prepare(run, state, batch)
    broken = [replace(one, normalizer=torch.full_like(one.normalizer, math.nan)) for one in micro_batches]
    with pytest.raises(TrainingError, match="the loss or its gradient is NaN or Inf"):
        train_step(run, state, broken)
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_parameters())


@needs_gpu
def test_a_graph_is_captured_again_after_it_made_space_on_a_gpu(tiny_recipe, tmp_path, monkeypatch):
    run, state = start_on_gpu(tiny_recipe, tmp_path, "train.epochs=50", "data.workers=0")
    steps(run, state)
    run.graph.make_space()
    assert run.graph.is_captured  # there is plenty
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "mem_get_info", lambda device: (-(10**15), 0))
        run.graph.make_space()
    assert not run.graph.is_captured
    batch = next(run.task.data.batches(state.step, state.step + 1, True))
    assert math.isfinite(train_step(run, state, prepare(run, state, batch)[0])["loss"])
    assert run.graph.is_captured
