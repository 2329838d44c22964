import io

import pytest
import torch
from rich.console import Console

from effdet.config import load_config
from effdet.errors import ConfigError
from effdet.training.optim import train_mode
from effdet.training.setup import set_up
from effdet.training.step import prepare, train_step


def start(recipe, folder, *overrides):
    """A run before its first step, and its state."""
    return set_up(load_config(recipe, overrides), folder, "cpu", Console(quiet=True))


def test_what_will_be_trained_is_printed(tiny_recipe, tmp_path):
    console = Console(file=io.StringIO(), width=400)
    set_up(load_config(tiny_recipe), tmp_path / "run", "cpu", console)
    printed = console.file.getvalue()
    assert (
        "efficientdet_lite0 64 x 64, 6 classes; 12 images for training, 4 for validation; 2 epochs, 6 steps" in printed
    )
    assert "steps of 4 images on cpu in float32; writing to" in printed
    assert "BatchNorm: batch statistics (4 images per forward pass, and no statistics were loaded)" in printed


def test_nothing_is_written_before_the_first_step(tiny_recipe, tmp_path):
    start(tiny_recipe, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["auto", "batch", "sync"])
def test_one_value_per_channel_is_too_little_for_batch_statistics(tiny_recipe, tmp_path, mode):
    with pytest.raises(ConfigError, match=r"one image of 64 x 64 per forward pass .*; raise train\.batch_size, lower"):
        start(tiny_recipe, tmp_path, "train.accumulation_steps=4", f"train.batch_norm={mode}")


def test_the_smallest_images_of_progressive_stages_must_be_large_enough_too(shapes_recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"one image of 32 x 32 per forward pass .*; raise train\.batch_size, lower"):
        start(shapes_recipe, tmp_path, "train.batch_size=1", "progressive.image_size=[64, 32]")


@pytest.mark.parametrize("mode", ["auto", "frozen"])
def test_frozen_batch_norm_trains_on_one_value_per_channel(tiny_run, tiny_recipe, tmp_path, mode):
    weights = f"model.weights={tiny_run / 'best.pt'}"
    run, state = start(tiny_recipe, tmp_path, "train.accumulation_steps=4", f"train.batch_norm={mode}", weights)
    train_mode(state.model, run.frozen)
    batch = next(run.task.data.batches(0, 1, pin_memory=False))
    micro_batches, _ = prepare(run, state, batch)
    assert [len(micro_batch.images) for micro_batch in micro_batches] == [1] * 4
    assert train_step(run, state, micro_batches)["loss"] > 0


def test_an_unknown_module_is_refused_with_similar_names(shapes_recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.freeze: the model has no module 'backbone'; similar names are "):
        start(shapes_recipe, tmp_path, "train.freeze=[backbone]")


def test_the_card_has_recipe_classes_and_versions(shapes_recipe, tmp_path):
    run, state = start(shapes_recipe, tmp_path)
    assert run.card.config == run.config.to_dict()
    assert run.card.class_names == ("disc", "frame", "stripes")
    assert run.card.versions["torch"] == torch.__version__
    assert state.data.keys() == {"fingerprints", "images"}
