import sys

import pytest
import torch

from effdet.config import TrainConfig, make_config
from effdet.errors import ConfigError, TrainingError
from effdet.models import make_spec
from effdet.training.debug import memory
from effdet.training.debug.memory import (
    MeasuredStep,
    assumed_num_classes,
    largest_micro_batch,
    measure_step,
    parse_memory_size,
    peak_memory,
    plan_memory,
    run_step,
)
from effdet.training.debug.out_of_memory import is_out_of_memory, out_of_memory_error
from effdet.training.tasks import TASKS
from effdet.weights.create import options_of

CPU = torch.device("cpu")
TINY = {"name": "efficientdet_d0", "image_size": [128, 128], "depth": 0.2, "num_classes": 2}


def recipe(task="detection", model=TINY, **sections):
    return make_config({"task": task, "model": model, **sections}, [], source="test")


def raised_by(function):
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        function()
    return caught.value


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("11GB", 11 * 10**9),
        ("11GiB", 11 * 2**30),
        ("8000MB", 8 * 10**9),
        ("1.5 gb", 15 * 10**8),
        ("24G", 24 * 10**9),
        ("2000000000", 2 * 10**9),
    ],
)
def test_sizes_are_read_with_their_units(text, size):
    assert parse_memory_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "11", "11TB", "-3GB", "GB", "1e3GB", "10KB"])
def test_text_that_is_not_a_memory_size_is_an_error(text):
    with pytest.raises(ConfigError, match="expected a size such as 11GB"):
        parse_memory_size(text)


def largest_image(config):
    return TASKS[config.task].largest_image(config, make_spec(options_of(config.model)).image_size)


def test_the_largest_training_images_are_used():
    assert largest_image(recipe()) == (128, 128)
    assert largest_image(recipe(augment={"multi_scale": [0.5, 1.5]})) == (192, 192)
    classifier = {"name": "efficientnet_b0"}
    assert largest_image(recipe("classification", classifier)) == (224, 224)
    progressive = {"image_size": [96, 256, 160]}
    assert largest_image(recipe("classification", classifier, progressive=progressive)) == (256, 256)


def test_the_number_of_classes_defaults_to_that_of_coco_or_imagenet():
    assert assumed_num_classes(recipe()) == 2
    assert assumed_num_classes(recipe(model={"name": "efficientdet_d0"})) == 80
    assert assumed_num_classes(recipe("classification", {"name": "efficientnet_b0"})) == 1000


def steps_of(plain, checkpointed, start=100, seconds=(1.0, 1.3)):
    """Fakes a machine on which each image needs so many bytes, without and with activation checkpointing."""
    measured = []

    def measure(checkpointing, images):
        memory = start + images * (checkpointed if checkpointing else plain)
        measured.append(MeasuredStep(images, checkpointing, memory, seconds[checkpointing]))
        return measured[-1]

    return measure, measured


def test_a_batch_that_fits_needs_no_gradient_accumulation():
    measure, measured = steps_of(100, 10)
    best, _ = largest_micro_batch(measure, 16, 2000)
    assert (best.images, best.checkpointing) == (16, False)
    assert [step.images for step in measured] == [1, 2, 16]


def test_the_faster_of_the_largest_micro_batches_is_chosen():
    best, _ = largest_micro_batch(steps_of(100, 10)[0], 16, 600)
    assert (best.images, best.checkpointing) == (4, False)  # 5 would fit, but 4 accumulation steps need 4 each
    best, _ = largest_micro_batch(steps_of(100, 10, seconds=(1.0, 0.8))[0], 16, 600)
    assert (best.images, best.checkpointing) == (16, True)


def test_activation_checkpointing_is_chosen_if_nothing_else_fits():
    best, _ = largest_micro_batch(steps_of(1000, 10)[0], 16, 300)
    assert (best.images, best.checkpointing) == (16, True)
    best, _ = largest_micro_batch(steps_of(1000, 100)[0], 16, 300)
    assert (best.images, best.checkpointing) == (2, True)


def test_a_micro_batch_above_the_estimate_of_the_line_is_reduced():
    def measure(checkpointing, images):
        return MeasuredStep(images, checkpointing, 100 * images + (images > 4) * 1000, 1.0)

    best, _ = largest_micro_batch(measure, 12, 1000)
    assert best.images == 4


def test_if_nothing_fits_the_result_is_the_fraction_of_an_image_that_would():
    measure, measured = steps_of(1000, 400)
    assert largest_micro_batch(measure, 16, 125) == (None, 0.25)
    assert [(step.images, step.checkpointing) for step in measured] == [(1, False), (1, True)]


def test_a_batch_of_one_image_is_measured_once():
    measure, measured = steps_of(100, 10)
    assert largest_micro_batch(measure, 1, 1000)[0].images == 1
    assert len(measured) == 1


def test_steps_that_run_out_of_memory_do_not_fit():
    assert largest_micro_batch(lambda *step: MeasuredStep(step[1], step[0], None, float("nan")), 4, 1e9) == (None, 0)


def test_a_step_is_measured_in_a_new_process():
    step = measure_step(recipe(train={"precision": "fp32", "batch_size": 2}), 2, True, CPU)
    assert (step.images, step.checkpointing) == (2, True)
    assert 10**8 < step.memory < 10**10
    assert step.seconds > 0


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_a_step_is_run_without_a_data_set(task):
    model = TINY if task == "detection" else {"name": "efficientnet_b0", "image_size": [64, 64], "num_classes": 2}
    assert run_step(recipe(task, model, train={"batch_size": 2}), 2, False, CPU) > 0


def test_a_single_image_that_is_too_small_for_batch_norm_is_an_error():
    with pytest.raises(ConfigError, match="too small for BatchNorm"):
        plan_memory(recipe(train={"batch_size": 1}), 10**11, "cpu", lambda step: None)


def test_a_single_image_is_enough_for_frozen_batch_norm(monkeypatch):
    monkeypatch.setattr(memory, "measure_step", lambda config, images, *_: MeasuredStep(images, False, 10**9, 1.0))
    result = plan_memory(recipe(train={"batch_size": 1, "batch_norm": "frozen"}), 10**11, "cpu", lambda step: None)
    assert (result.best.images, result.accumulation_steps) == (1, 1)


def test_a_recipe_that_leaves_nothing_to_train_keeps_its_own_error():
    config = recipe(train={"freeze": ["backbone", "neck", "class_head", "box_head"]})
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        plan_memory(config, 10**11, "cpu", lambda step: None)


def test_peak_memory_agrees_with_the_system():
    resource = pytest.importorskip("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    assert peak_memory(CPU) == pytest.approx(peak, rel=0.5)


@pytest.mark.parametrize(
    ("settings", "images", "dtype", "micro_batch", "advice"),
    [
        ({}, 16, None, "16 images", "set train.accumulation_steps=2 "),
        ({"accumulation_steps": 6}, 16, None, "3 images", "set train.accumulation_steps=12 "),
        ({"accumulation_steps": 9}, 16, None, "2 images", "set train.accumulation_steps=16 "),
        ({"accumulation_steps": 16}, 16, None, "1 image", "set train.activation_checkpointing=true"),
        ({"accumulation_steps": 64, "activation_checkpointing": True}, 16, None, "1 image", "set train.precision=bf16"),
        ({"activation_checkpointing": True}, 1, torch.bfloat16, "1 image", "lower model.image_size"),
    ],
)
def test_the_out_of_memory_error_says_what_to_change_next(settings, images, dtype, micro_batch, advice):
    error = out_of_memory_error(TrainConfig(**settings), images, (512, 640), dtype)
    assert isinstance(error, TrainingError)
    assert str(error).startswith(f"not enough memory for {micro_batch} of 512 x 640 per forward pass; {advice}")
    assert "effdet plan" in str(error)


def test_all_kinds_of_out_of_memory_errors_are_recognized():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(raised_by(lambda: torch.empty(2**60, dtype=torch.uint8)))
    assert is_out_of_memory(raised_by(lambda: bytearray(2**62)))


def test_other_errors_are_not_out_of_memory():
    assert not is_out_of_memory(raised_by(lambda: torch.zeros(2) @ torch.zeros(3)))
    assert not is_out_of_memory(ValueError("out of memory"))
