from dataclasses import replace

import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.config import load_config
from effdet.errors import TrainingError
from effdet.training.debug.dump import read_dump
from effdet.training.debug.dump_step import write_dump
from effdet.training.optim import train_mode
from effdet.training.setup import set_up
from effdet.training.step import prepare, train_step

SMALL = ("model.width=0.25", "model.depth=0.3", "model.image_size=[64, 64]")


def failed(recipe, folder, *overrides, name="class_head.predict.pointwise.bias", value=float("nan")):
    """The debug dump of a first step with a spoilt weight."""
    run, state = set_up(load_config(recipe, [*SMALL, *overrides]), folder, "cpu", Console(quiet=True))
    train_mode(state.model, run.frozen)
    with torch.no_grad():
        dict(state.model.named_parameters())[name][0] = value
    micro_batches, _ = prepare(run, state, next(run.task.data.batches(0, 1, pin_memory=False)))
    with pytest.raises(TrainingError, match="effdet replay"):
        train_step(run, state, micro_batches)
    return folder / "debug-1"


def test_a_step_with_nan_again_gives_status_1(tiny_recipe, tmp_path, capsys):
    dump = failed(tiny_recipe, tmp_path)
    capsys.readouterr()
    assert main(["replay", str(dump), "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "step 1, epoch 1: efficientdet_lite0, 4 images" in printed
    assert "NaN or Inf again: it begins in layer class_head.predict.pointwise (Conv2d" in printed
    losses = [line for line in printed.splitlines() if line.startswith(("loss ", "class loss "))]
    assert [line.split()[-1] for line in losses] == ["nan"] * 2


def test_a_step_that_is_finite_in_float32_gives_status_0(tiny_recipe, tmp_path, capsys):
    path = failed(tiny_recipe, tmp_path, "loss.box_weight=1e39")
    dump = read_dump(path)
    config = {**dump.card.config, "loss": {**dump.card.config["loss"], "box_weight": 50.0}}
    name = "class_head.predict.pointwise.bias"
    weights = {**dump.weights, name: torch.zeros_like(dump.weights[name])}
    cured = replace(dump, card=replace(dump.card, config=config), weights=weights, precision="bf16")
    write_dump(tmp_path / "cured", cured, None)
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "cured" / "dump.pt"), "--device", "cpu", "--precision", "fp32"]) == 0
    printed = capsys.readouterr().out
    assert "then (bf16 on cpu)" in printed
    assert "now (fp32 on cpu)" in printed
    assert "finite in float32; set train.precision=fp32" in printed


def test_a_classifiers_step_is_replayed(shapes_recipe, tmp_path, capsys):
    dump = failed(shapes_recipe, tmp_path, name="classifier.bias")
    capsys.readouterr()
    assert main(["replay", str(dump), "--device", "cpu"]) == 1
    assert "it begins in layer classifier (Linear" in capsys.readouterr().out


def test_a_folder_without_a_dump_is_refused(tmp_path, capsys):
    assert main(["replay", str(tmp_path)]) == 1
    assert "no debug dump; expected a folder such as runs/NAME/debug-12" in capsys.readouterr().err


def test_the_help_has_the_exit_status(capsys):
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert "exit status is 0 if all losses and gradients are finite now, and 1 if not" in words
