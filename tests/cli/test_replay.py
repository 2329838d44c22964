from dataclasses import replace

import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.config import load_config
from effdet.errors import TrainingError
from effdet.training.debug.dump import read_bundle, write_bundle
from effdet.training.engine import train_step
from effdet.training.optim import train_mode
from effdet.training.setup import set_up

SMALL = ("model.width=0.25", "model.depth=0.3", "model.image_size=[64, 64]")


def failed(recipe, folder, *overrides, name="class_head.predict.pointwise.bias", value=float("nan")):
    """The bundle of a first step with a spoilt weight."""
    run, state = set_up(load_config(recipe, [*SMALL, *overrides]), folder, "cpu", Console(quiet=True))
    train_mode(state.model, run.frozen)
    with torch.no_grad():
        dict(state.model.named_parameters())[name][0] = value
    with pytest.raises(TrainingError, match="effdet replay"):
        train_step(run, state, next(run.task.batches(0, 1, pin_memory=False)))
    return folder / "bundle-1"


def test_a_step_that_is_not_finite_again_gives_status_1(tiny_recipe, tmp_path, capsys):
    bundle = failed(tiny_recipe, tmp_path)
    capsys.readouterr()
    assert main(["replay", str(bundle), "--device", "cpu"]) == 1
    told = capsys.readouterr().out
    assert "step 1, epoch 1: efficientdet_lite0, 4 images" in told
    assert "not finite again: it begins in layer class_head.predict.pointwise (Conv2d" in told
    assert [line.split()[-1] for line in told.splitlines() if line.startswith(("loss ", "class loss "))] == ["nan"] * 2


def test_what_float32_cures_gives_status_0(tiny_recipe, tmp_path, capsys):
    path = failed(tiny_recipe, tmp_path, "loss.box_weight=1e39")
    bundle = read_bundle(path)
    config = {**bundle.card.config, "loss": {**bundle.card.config["loss"], "box_weight": 50.0}}
    name = "class_head.predict.pointwise.bias"
    weights = {**bundle.weights, name: torch.zeros_like(bundle.weights[name])}
    cured = replace(bundle, card=replace(bundle.card, config=config), weights=weights, precision="bf16")
    write_bundle(tmp_path / "cured", cured, None)
    capsys.readouterr()
    assert main(["replay", str(tmp_path / "cured" / "bundle.pt"), "--device", "cpu", "--precision", "fp32"]) == 0
    told = capsys.readouterr().out
    assert "then (bf16 on cpu)" in told
    assert "now (fp32 on cpu)" in told
    assert "finite: float32 cures it; set train.precision=fp32" in told


def test_a_classifiers_step_is_taken_again(shapes_recipe, tmp_path, capsys):
    bundle = failed(shapes_recipe, tmp_path, name="classifier.bias")
    capsys.readouterr()
    assert main(["replay", str(bundle), "--device", "cpu"]) == 1
    assert "it begins in layer classifier (Linear" in capsys.readouterr().out


def test_what_is_no_bundle_is_told(tmp_path, capsys):
    assert main(["replay", str(tmp_path)]) == 1
    assert "no bundle; expected a folder such as runs/NAME/bundle-12" in capsys.readouterr().err


def test_the_exit_status_is_told(capsys):
    with pytest.raises(SystemExit):
        main(["replay", "--help"])
    assert "status is 0 if everything is finite now, and 1 if it is not" in " ".join(capsys.readouterr().out.split())
