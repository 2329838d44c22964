import math
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from effdet.config import load_config
from effdet.errors import ConfigError
from effdet.structures import LabelBatch
from effdet.training.tasks.classification import ClassificationTask

QUIET = Console(quiet=True)


def task_of(recipe, *overrides):
    return ClassificationTask(load_config(recipe, overrides), QUIET)


# The loss


def flat_batch(labels):
    """Images of a single gray level, 0 or 250, that is their class."""
    labels = torch.tensor(labels)
    images = (labels * 250).to(torch.uint8)[:, None, None, None].expand(-1, 3, 20, 20)
    return LabelBatch(images, labels, range(len(labels)))


def prepared(task, batch, step=0):
    """The micro-batches of a step, normalized by the images of the whole batch."""
    micro_batches = task.prepare(batch, step)
    normalizer = task.normalizer(sum(micro_batch.count for micro_batch in micro_batches), step)
    return [replace(micro_batch, normalizer=normalizer) for micro_batch in micro_batches]


def loss_of_random_logits(task, micro_batches):
    """Images, targets by the gradient of the loss, total loss and logits of a step with random logits."""
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(len(one.images), 3, generator=generator).requires_grad_() for one in micro_batches]
    total = sum(task.loss(*pair)["loss"] for pair in zip(logits, micro_batches, strict=True))
    total.backward()
    count = sum(len(one.images) for one in micro_batches)
    # The gradient of a cross-entropy is the probability minus the target.
    targets = [values.softmax(1) - values.grad * count for values in logits]
    images = torch.cat([one.images for one in micro_batches])
    return images, torch.cat(targets).detach(), total.item(), torch.cat(logits)


@pytest.mark.parametrize("mixing", [("mixup_alpha",), ("cutmix_alpha",), ("mixup_alpha", "cutmix_alpha")])
@pytest.mark.parametrize("steps", [1, 3])
def test_targets_are_the_fraction_of_each_class_that_is_visible(shapes_recipe, mixing, steps):
    overrides = [f"augment.{key}=1.0" for key in mixing]
    task = task_of(shapes_recipe, *overrides, "loss.label_smoothing=0", f"train.accumulation_steps={steps}")
    micro_batches = prepared(task, flat_batch([0, 0, 1, 0, 1, 1, 0, 1]))
    assert len(micro_batches) == steps
    images, targets, _, _ = loss_of_random_logits(task, micro_batches)
    visible = images.float().mean((1, 2, 3)) / 250
    torch.testing.assert_close(targets[:, 1], visible, atol=0.003, rtol=0)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    torch.testing.assert_close(targets, torch.cat([one.targets for one in micro_batches]), atol=1e-4, rtol=0)
    assert ((visible > 0.01) & (visible < 0.99)).sum() >= 4


def test_mixing_follows_the_step_alone(shapes_recipe):
    task, batch = task_of(shapes_recipe, "augment.mixup_alpha=1.0"), flat_batch([0, 1, 0, 1, 1, 1, 0, 0])
    ((first,), (again,), (other,)) = (task.prepare(batch, step) for step in (3, 3, 4))
    assert first.images.equal(again.images)
    assert first.targets.equal(again.targets)
    assert not first.images.equal(other.images)


def test_processes_mix_differently(shapes_recipe):
    task, batch = task_of(shapes_recipe, "augment.mixup_alpha=1.0"), flat_batch([0, 1, 0, 1, 1, 1, 0, 0])
    (first,) = task.prepare(batch, 0)
    task.processes = replace(task.processes, rank=1, size=2)
    (second,) = task.prepare(batch, 0)
    assert not first.images.equal(second.images)


def test_the_loss_is_the_smoothed_cross_entropy_per_image(shapes_recipe):
    task = task_of(shapes_recipe, "loss.label_smoothing=0.3")
    labels = [0, 1, 2, 1, 0, 2, 2, 1]
    images, _, total, logits = loss_of_random_logits(task, prepared(task, flat_batch(labels)))
    assert images.equal(flat_batch(labels).images)
    expected = 0.0
    for row, label in zip(logits.tolist(), labels, strict=True):
        log_sum = math.log(sum(map(math.exp, row)))
        target = [0.1 + 0.7 * (number == label) for number in range(3)]
        expected -= sum(weight * (value - log_sum) for weight, value in zip(target, row, strict=True)) / 8
    assert total == pytest.approx(expected, rel=1e-5)


def test_an_untrained_classifier_has_equal_probabilities(shapes_recipe):
    task = task_of(shapes_recipe, "loss.label_smoothing=0")
    (micro_batch,) = prepared(task, flat_batch([0, 1, 1]))
    loss = task.loss(task.untrained(micro_batch.images), micro_batch)["loss"]
    assert loss.item() == pytest.approx(math.log(3), rel=1e-5)


# Targets in a debug dump


def test_targets_are_saved_as_tensors_and_described_by_class_name(shapes_recipe):
    task = task_of(shapes_recipe)
    first, second = torch.tensor([[0.25, 0.75, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    plain = task.plain_targets([first, second])
    assert plain.equal(torch.cat([first, second]))
    assert task.restore_targets(plain, torch.device("cpu")).equal(plain)
    names = ("disc", "frame", "stripes")
    expected = [{"classes": {"disc": 0.25, "frame": 0.75}}, {"classes": {"stripes": 1.0}}]
    assert task.describe_targets(plain, (20, 20), names) == (None, expected)


# Stages


def test_stages_change_images_and_network(staged_recipe):
    task = task_of(staged_recipe)
    batches = list(task.data.batches(0, 6, pin_memory=False))
    assert [batch.images.shape[-2:] for batch in batches] == [(32, 32)] * 3 + [(64, 64)] * 3
    first, second = dict(task.settings(0)), dict(task.settings(1))
    names = ("image_height", "image_width", "rand_augment_magnitude", "mixup_alpha", "cutmix_alpha", "dropout")
    assert first == dict(zip(names, (32, 32, 2.0, 0.2, 1.0, 0.1), strict=True))
    assert second == dict(zip(names, (64, 64, 9.0, 0.5, 1.0, 0.3), strict=True))
    assert task.setting_names == names
    assert task.model.dropout.p == 0.3
    assert task.smallest_features() == ((32, 32), (1, 1))


def test_without_stages_the_settings_are_those_of_the_recipe(shapes_recipe):
    task = task_of(shapes_recipe, "augment.mixup_alpha=0.1", "model.dropout=0.4")
    assert list(task.settings(0).values()) == list(task.settings(1).values()) == [64, 64, 0.0, 0.1, 0.0, 0.4]


def test_stages_divide_the_steps_of_a_run_that_ends_early(shapes_recipe):
    task = task_of(shapes_recipe, "train.epochs=20", "train.max_steps=6", "progressive.image_size=[32, 64]")
    sizes = [batch.images.shape[-1] for batch in task.data.batches(0, 6, pin_memory=False)]
    assert sizes == [32] * 3 + [64] * 3


def test_more_stages_than_epochs_are_refused(shapes_recipe):
    with pytest.raises(ConfigError, match=r"progressive has 3 stages, but train.epochs is 2; give an epoch or more"):
        load_config(shapes_recipe, ["train.epochs=2", "progressive.image_size=[32, 48, 64]"])


def test_the_largest_image_is_that_of_all_stages(shapes_recipe):
    config = load_config(shapes_recipe, ["progressive.image_size=[96, 32]"])
    assert ClassificationTask.largest_image(config, (64, 64)) == (96, 96)
    assert ClassificationTask.largest_image(load_config(shapes_recipe), (64, 64)) == (64, 64)
