import io
import json
import math
import signal
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from effdet.config import load_config
from effdet.errors import ConfigError, WeightsError
from effdet.structures import LabelBatch
from effdet.training.engine import end_epoch, train, train_step
from effdet.training.optim import train_mode
from effdet.training.setup import resume, set_up
from effdet.training.tasks.classification import ClassificationTask

QUIET = Console(quiet=True)
PLAIN_STEP = (  # one whose move is the gradient
    "optim.learning_rate=1",
    "optim.warmup_epochs=0",
    "optim.momentum=0",
    "optim.weight_decay=0",
    "optim.grad_clip_norm=null",
)
NOT_RANDOM = ("model.drop_path=0", "model.dropout=0")
STAGES = (
    "progressive={image_size: [32, 64], rand_augment_magnitude: [2, 9], mixup_alpha: [0.2, 0.5], dropout: [0.1, 0.3]}",
    "augment.rand_augment.layers=1",
    "augment.cutmix_alpha=1.0",
    "augment.random_erasing=0.25",
)


def start(recipe, folder, *overrides):
    """A run before its first step, and its first batch."""
    run, state = set_up(load_config(recipe, overrides), folder, "cpu", QUIET)
    train_mode(state.model, run.frozen)
    return run, state, next(run.task.batches(0, 1, pin_memory=False))


def copy_of(model):
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def changed(model, before):
    """Names of the values that are not what they were."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def records(folder):
    """Lines of the log without what the clock says."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    clock = ("seconds", "images_per_second", "data_wait")
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def assert_same(first, second):
    """That two contents of checkpoints are equal to the last bit, the clock aside."""
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first.keys() - {"seconds", "config"}:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for pair in zip(first, second, strict=True):
            assert_same(*pair)
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    else:
        assert first == second


class PressesCtrlC(Console):
    """A terminal at which somebody presses Ctrl-C when it shows a step."""

    def __init__(self, step):
        super().__init__(file=io.StringIO(), width=200)
        self.step = step

    def print(self, *objects, **options):
        super().print(*objects, **options)
        if str(objects[0]).startswith(f"step {self.step} "):
            signal.raise_signal(signal.SIGINT)


# The loss


def flat_batch(labels):
    """Images of one grey each that tells their class: 0 or 250."""
    labels = torch.tensor(labels)
    return LabelBatch((labels * 250).to(torch.uint8)[:, None, None, None].expand(-1, 3, 20, 20), labels, [0] * 8)


def shown_and_wanted(task, batch, parts=1, epoch=0, step=0):
    """The images that the network is shown, and the targets that the loss pulls it to."""
    shown, logits = [], []

    def forward(images):
        shown.append(images)
        logits.append(torch.randn(len(images), 3, requires_grad=True))
        return logits[-1]

    total = sum(losses["loss"] for losses in task.losses(forward, batch, parts, epoch, step))
    total.backward()
    assert len(shown) == parts
    # The gradient of a cross-entropy is the probability less the target.
    wanted = [values.softmax(1) - values.grad * len(batch.images) for values in logits]
    return torch.cat(shown), torch.cat(wanted).detach(), total, torch.cat(logits)


@pytest.mark.parametrize("mixing", [("mixup_alpha",), ("cutmix_alpha",), ("mixup_alpha", "cutmix_alpha")])
@pytest.mark.parametrize("parts", [1, 3])
def test_targets_are_what_is_to_be_seen_of_each_class(shapes_recipe, mixing, parts):
    overrides = [f"augment.{key}=1.0" for key in mixing]
    task = ClassificationTask(load_config(shapes_recipe, [*overrides, "loss.label_smoothing=0"]), QUIET)
    shown, wanted, _, _ = shown_and_wanted(task, flat_batch([0, 0, 1, 0, 1, 1, 0, 1]), parts)
    share = shown.float().mean((1, 2, 3)) / 250
    torch.testing.assert_close(wanted[:, 1], share, atol=0.003, rtol=0)
    torch.testing.assert_close(wanted.sum(1), torch.ones(8))
    assert ((share > 0.01) & (share < 0.99)).sum() >= 4


def test_mixing_follows_the_step_alone(shapes_recipe):
    task = ClassificationTask(load_config(shapes_recipe, ["augment.mixup_alpha=1.0"]), QUIET)
    batch = flat_batch([0, 1, 0, 1, 1, 1, 0, 0])
    first, again, other = (shown_and_wanted(task, batch, step=step)[0] for step in (3, 3, 4))
    assert first.equal(again)
    assert not first.equal(other)


def test_the_loss_is_the_smoothed_cross_entropy_per_image(shapes_recipe):
    task = ClassificationTask(load_config(shapes_recipe, ["loss.label_smoothing=0.3"]), QUIET)
    labels = [0, 1, 2, 1, 0, 2, 2, 1]
    shown, _, total, logits = shown_and_wanted(task, flat_batch(labels))
    assert shown.equal(flat_batch(labels).images)
    wanted = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        normaliser = math.log(sum(map(math.exp, row)))
        target = [0.1 + 0.7 * (number == label) for number in range(3)]
        wanted -= sum(share * (value - normaliser) for share, value in zip(target, row, strict=True)) / 8
    assert total.item() == pytest.approx(wanted, rel=1e-5)


# One step


def test_parts_of_a_batch_add_up_to_its_gradient(shapes_recipe, tmp_path):
    model = start(shapes_recipe, tmp_path)[1].model
    norms = [name for name, module in model.named_modules() if isinstance(module, nn.BatchNorm2d)]
    results = []
    for parts in (1, 6, 4):
        run, state, batch = start(
            shapes_recipe,
            tmp_path,
            f"train.freeze=[{', '.join(norms)}]",  # their statistics are those of a part
            f"train.accumulation_steps={parts}",
            "augment.mixup_alpha=0.5",
            "augment.cutmix_alpha=1.0",
            *PLAIN_STEP,
            *NOT_RANDOM,
        )
        before = copy_of(state.model)
        figures = train_step(run, state, batch)
        results.append((figures, {name: before[name] - value for name, value in copy_of(state.model).items()}))
    (whole, gradients), *others = results
    assert whole["gradient_norm"] > 0.1
    for figures, parts_gradients in others:
        assert figures == pytest.approx(whole, rel=1e-4)
        for name, value in parts_gradients.items():
            # As a whole: a ReLU6 near its corner may fall to the other side by rounding.
            expected = gradients[name].float()
            difference = (value.float() - expected).norm() / (expected.norm() + 1e-6)
            assert difference < 1e-2, name


def test_frozen_modules_stand_still_with_their_statistics(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path, "train.freeze=[conv_stem, bn1, blocks]")
    before = copy_of(state.model)
    train_step(run, state, batch)
    moved = changed(state.model, before)
    assert moved == {name for name in before if name.startswith(("conv_head.", "bn2.", "classifier."))}


def test_an_unknown_module_is_refused_with_near_names(shapes_recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.freeze: the model has no module 'backbone'; near names are "):
        start(shapes_recipe, tmp_path, "train.freeze=[backbone]")


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("schedule", ["cosine", "exponential"])
def test_every_optimiser_moves_all_weights(shapes_recipe, tmp_path, name, schedule):
    overrides = (
        f"optim.name={name}",
        f"optim.schedule={schedule}",
        "optim.learning_rate=1e-2",
        "optim.grad_clip_norm=null",
    )
    run, state, batch = start(shapes_recipe, tmp_path, *overrides)
    before = {key: value.detach().clone() for key, value in state.model.named_parameters()}
    for _ in range(2):
        assert math.isfinite(train_step(run, state, batch)["loss"])
    assert not [key for key, value in state.model.named_parameters() if torch.equal(value, before[key])]


def test_a_step_moves_the_average_and_counts(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path)
    before = copy_of(state.average.model)
    figures = train_step(run, state, batch)
    assert state.step == 1
    assert figures["learning_rate"] == run.schedule.learning_rate(0)
    for name, value in state.average.model.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.1 * before[name] + 0.9 * state.model.state_dict()[name])


def test_without_an_average_the_weights_themselves_are_evaluated(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path, "train.ema_decay=null")
    train_step(run, state, batch)
    end_epoch(run, state, evaluating=False)
    saved = torch.load(tmp_path / "last.pt", weights_only=True)
    assert_same(saved["model"], dict(state.model.state_dict()))
    assert saved["training"]["average"] is None


def test_a_loss_that_is_not_finite_names_step_and_images(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path)
    with torch.no_grad():
        state.model.classifier.bias[0] = math.nan
    before = copy_of(state.model)
    with pytest.raises(Exception, match=r"^step 1: the loss is no longer finite \(.*loss nan.*\); images: ") as caught:
        train_step(run, state, batch)
    assert all(run.task.file_name(index) in str(caught.value) for index in batch.indices)
    weights = {name for name, _ in state.model.named_parameters()}
    assert changed(state.model, before) & weights <= {"classifier.bias"}  # nan is never equal
    assert state.step == 0


def test_a_single_image_of_a_single_feature_is_refused(shapes_recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"one image of 32 x 32 at a time .*; raise train\.batch_size, lower"):
        start(shapes_recipe, tmp_path, "train.batch_size=1", "progressive.image_size=[64, 32]")


def test_stages_share_the_steps_of_a_run_that_ends_early(shapes_recipe):
    early = ["train.epochs=20", "train.max_steps=6", "progressive.image_size=[32, 64]"]
    task = ClassificationTask(load_config(shapes_recipe, early), QUIET)
    assert [batch.images.shape[-1] for batch in task.batches(0, 6, pin_memory=False)] == [32] * 3 + [64] * 3


def test_more_stages_than_epochs_are_refused(shapes_recipe):
    with pytest.raises(ConfigError, match=r"progressive has 3 stages, but train.epochs is 2; give an epoch or more"):
        load_config(shapes_recipe, ["train.epochs=2", "progressive.image_size=[32, 48, 64]"])


# Stages


def test_stages_change_images_and_network(shapes_recipe):
    task = ClassificationTask(load_config(shapes_recipe, STAGES), QUIET)
    batches = list(task.batches(0, 6, pin_memory=False))
    assert [batch.images.shape[-2:] for batch in batches] == [(32, 32)] * 3 + [(64, 64)] * 3
    first, second = dict(task.settings(0)), dict(task.settings(1))
    names = ("image_height", "image_width", "rand_augment_magnitude", "mixup_alpha", "cutmix_alpha", "dropout")
    assert first == dict(zip(names, (32, 32, 2.0, 0.2, 1.0, 0.1), strict=True))
    assert second == dict(zip(names, (64, 64, 9.0, 0.5, 1.0, 0.3), strict=True))
    assert task.model.dropout.p == 0.3


def test_without_stages_the_settings_are_those_of_the_recipe(shapes_recipe):
    task = ClassificationTask(load_config(shapes_recipe, ["augment.mixup_alpha=0.1", "model.dropout=0.4"]), QUIET)
    assert list(task.settings(0).values()) == list(task.settings(1).values()) == [64, 64, 0.0, 0.1, 0.0, 0.4]


@pytest.fixture(scope="module")
def staged_run(shapes_recipe, tmp_path_factory):
    """The folder of an uninterrupted run of two epochs in two stages, with everything that is random."""
    folder = tmp_path_factory.mktemp("staged") / "run"
    assert train(load_config(shapes_recipe, STAGES), folder, "cpu", None, QUIET) == "finished"
    return folder


def test_the_log_shows_how_the_stages_change(staged_run):
    steps = [record for record in records(staged_run) if "loss" in record]
    columns = (
        "epoch",
        "image_height",
        "image_width",
        "rand_augment_magnitude",
        "mixup_alpha",
        "cutmix_alpha",
        "dropout",
    )
    rows = [tuple(record[column] for column in columns) for record in steps]
    assert rows == [(1, 32, 32, 2.0, 0.2, 1.0, 0.1)] * 3 + [(2, 64, 64, 9.0, 0.5, 1.0, 0.3)] * 3


# Going on


@pytest.mark.parametrize("step", [2, 4])
def test_a_run_that_is_stopped_in_a_stage_goes_on_to_the_same_end(shapes_recipe, staged_run, tmp_path, step):
    config = load_config(shapes_recipe, STAGES)
    assert train(config, tmp_path, "cpu", None, PressesCtrlC(step)) == "interrupted"
    assert torch.load(tmp_path / "last.pt", weights_only=True)["training"]["step"] == step
    torch.manual_seed(99)  # as in another process
    assert train(config, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert records(tmp_path) == records(staged_run)
    for name in ("last.pt", "best.pt"):
        first, second = (torch.load(folder / name, weights_only=True) for folder in (tmp_path, staged_run))
        assert_same(first, second)
    for name in ("metrics.json", "predictions.json", "confusion.csv"):
        assert (tmp_path / name).read_text() == (staged_run / name).read_text()


def test_the_average_goes_on_too(shapes_recipe, staged_run, tmp_path):
    run, state, _ = start(shapes_recipe, tmp_path, *STAGES)
    resume(staged_run, run, state)
    saved = torch.load(staged_run / "last.pt", weights_only=True)
    assert_same(dict(state.average.model.state_dict()), dict(saved["model"]))
    assert not torch.equal(state.average.model.classifier.weight, state.model.classifier.weight)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.name=efficientnet_lite1", "is of an efficientnet_lite0 with classes disc, frame, stripes, but the "),
        ("model.dropout=0.5", r"is of an efficientnet_lite0 with dropout 0\.2 and now 0\.5; resume with"),
        ("model.image_size=[96, 64]", r"with image_size \(64, 64\) and now \(96, 64\); resume with"),
        ("model.width=0.5", r"with width 1\.0 and now 0\.5; resume with"),
        ("optim.name=adamw", "optim.name sgd and now adamw"),
        ("train.freeze=[blocks]", r"is of a run with train\.freeze \[\] and now \['blocks'\]"),
    ],
)
def test_a_run_of_another_recipe_is_not_resumed(shapes_run, shapes_recipe, tmp_path, change, message):
    run, state, _ = start(shapes_recipe, tmp_path, change)
    with pytest.raises(WeightsError, match=rf"last\.pt: .*{message}") as caught:
        resume(shapes_run, run, state)
    assert str(caught.value).endswith("resume with the recipe of the run")
    assert "\n" not in str(caught.value)


def test_a_run_of_other_classes_is_not_resumed(shapes_run, shapes_recipe, tmp_path):
    run, state, _ = start(shapes_recipe, tmp_path)
    other = replace(run, card=replace(run.card, class_names=("disc", "frame", "dots")))
    with pytest.raises(WeightsError, match=r"with classes disc, frame, stripes, but the recipe makes .* frame, dots;"):
        resume(shapes_run, other, state)


def test_a_detector_is_not_resumed_as_a_classifier(tiny_run, shapes_recipe, tmp_path):
    run, state, _ = start(shapes_recipe, tmp_path)
    with pytest.raises(WeightsError, match=r"is of an efficientdet_lite0 with .* makes an efficientnet_lite0 with"):
        resume(tiny_run, run, state)
