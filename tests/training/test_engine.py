import csv
import json
import os
import signal
import threading
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from torch import nn

from effdet.cli import main
from effdet.config import load_config
from effdet.errors import ConfigError, TrainingError, WeightsError
from effdet.evaluation.coco import METRIC_NAMES
from effdet.training.engine import end_epoch, train, train_step
from effdet.training.optim import train_mode
from effdet.training.setup import resume, set_up
from effdet.weights.checkpoint import load_checkpoint

QUIET = Console(quiet=True)


def start(recipe, folder, *overrides):
    """A run before its first step, and its first batch."""
    config = load_config(recipe, overrides)
    run, state = set_up(config, folder, "cpu", QUIET)
    train_mode(state.model, run.frozen)
    return run, state, next(run.task.batches(0, 1, pin_memory=False))


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def interrupt_after_first_record(folder):
    """Presses Ctrl-C as soon as the log of a run has a line."""

    def wait():
        for _ in range(6000):
            if (folder / "log.jsonl").exists():
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.01)

    threading.Thread(target=wait, daemon=True).start()


# One step


def test_parts_of_a_batch_add_up_to_its_gradient(tiny_recipe, tmp_path):
    norms = [
        name
        for name, module in start(tiny_recipe, tmp_path)[1].model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
    ]
    results = []
    for parts in (1, 4, 3):
        run, state, batch = start(
            tiny_recipe,
            tmp_path,
            f"train.freeze=[{', '.join(norms)}]",  # their statistics are those of a part
            f"train.accumulation_steps={parts}",
            "model.drop_path=0",
            "model.image_size=[160, 160]",
            "optim.learning_rate=1",
            "optim.base_batch_size=null",
            "optim.warmup_epochs=0",
            "optim.momentum=0",
            "optim.weight_decay=0",
            "optim.grad_clip_norm=null",
        )
        before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
        figures = train_step(run, state, batch)
        gradients = {name: before[name] - value.detach() for name, value in state.model.named_parameters()}
        results.append((figures, gradients))
    (whole, gradients), *others = results
    assert whole["gradient_norm"] > 0.1
    for figures, parts_gradients in others:
        assert figures == pytest.approx(whole, rel=1e-4)
        for name, value in parts_gradients.items():
            scale = gradients[name].abs().max()
            torch.testing.assert_close(value, gradients[name], rtol=1e-3, atol=float(1e-4 + 1e-3 * scale), msg=name)


def test_gradients_are_clipped_to_the_norm_of_the_recipe(tiny_recipe, tmp_path):
    run, state, batch = start(
        tiny_recipe,
        tmp_path,
        "optim.learning_rate=1",
        "optim.base_batch_size=null",
        "optim.warmup_epochs=0",
        "optim.weight_decay=0",
        "optim.grad_clip_norm=0.5",
    )
    before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    figures = train_step(run, state, batch)
    moves = [before[name] - value.detach() for name, value in state.model.named_parameters()]
    assert figures["gradient_norm"] > 1  # told as it was
    assert torch.cat([move.flatten() for move in moves]).norm().item() == pytest.approx(0.5, rel=1e-3)


def test_a_frozen_backbone_stands_still_with_its_statistics(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, "train.freeze=[backbone]")
    before = {name: value.clone() for name, value in state.model.state_dict().items()}
    train_step(run, state, batch)
    for name, value in state.model.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, before[name]), name
        elif name.endswith(("running_mean", "predict.pointwise.weight")):
            assert not torch.equal(value, before[name]), name


@pytest.mark.parametrize("parts", [1, 2])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_weights(tiny_recipe, tmp_path, parts):
    run, state, batch = start(tiny_recipe, tmp_path, "loss.box_weight=1e39", f"train.accumulation_steps={parts}")
    before = {name: value.detach().clone() for name, value in state.model.named_parameters()}
    with pytest.raises(TrainingError) as caught:
        train_step(run, state, batch)
    message = str(caught.value)
    assert message.startswith("step 1: the loss is no longer finite (learning rate 0.0005, loss inf, class loss ")
    for target in batch.targets:
        assert run.task.file_name(target.index) in message
    assert "lower optim.learning_rate" in message
    assert "\n" not in message
    assert state.step == 0
    assert all(torch.equal(value, before[name]) for name, value in state.model.named_parameters())


def test_a_step_moves_the_average_and_counts(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path)
    before = state.average.model.class_head.predict.pointwise.bias.clone()
    figures = train_step(run, state, batch)
    assert state.step == 1
    assert figures["learning_rate"] == run.schedule.learning_rate(0)
    assert figures["loss"] == pytest.approx(figures["class_loss"] + 50 * figures["box_loss"], rel=1e-5)
    now, average = state.model.class_head.predict.pointwise.bias, state.average.model.class_head.predict.pointwise.bias
    torch.testing.assert_close(average, 0.1 * before + 0.9 * now.detach())


@pytest.mark.parametrize("empty", ["all", "one"])
def test_images_without_objects_are_trained_on(tiny_recipe, tmp_path, empty):
    run, state, batch = start(tiny_recipe, tmp_path)
    cleared = [replace(target, boxes=target.boxes[:0], labels=target.labels[:0]) for target in batch.targets]
    targets = tuple(cleared) if empty == "all" else (cleared[0], *batch.targets[1:])
    figures = train_step(run, state, replace(batch, targets=targets))
    assert (figures["box_loss"] == 0) == (empty == "all")
    assert figures["class_loss"] > 0


# A whole run


def test_a_run_leaves_all_its_files(tiny_run, tiny_recipe):
    names = {"best.pt", "config.yaml", "last.pt", "previous.pt", "log.csv", "log.jsonl"}
    assert {path.name for path in tiny_run.iterdir()} == names | {
        "metrics.json",
        "predictions.json",
        "manifest.json",
        "curves.png",
    }
    config = load_config(tiny_run / "config.yaml")
    assert config == load_config(tiny_recipe, [f"output_dir={tiny_run}"])
    checkpoint = load_checkpoint(tiny_run / "best.pt")
    assert checkpoint.card.metrics == json.loads((tiny_run / "metrics.json").read_text())
    assert checkpoint.card.config == config.to_dict()
    assert checkpoint.training == {}
    assert load_checkpoint(tiny_run / "last.pt").training["step"] == 6


def test_the_log_has_every_step_and_every_evaluation(tiny_run):
    lines = records(tiny_run)
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "AP" in line]
    assert [(line["step"], line["epoch"]) for line in steps] == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert [(line["step"], line["epoch"]) for line in evaluations] == [(3, 1), (6, 2)]
    assert all(set(METRIC_NAMES) <= line.keys() for line in evaluations)
    assert [line["seconds"] for line in lines] == sorted(line["seconds"] for line in lines)
    with (tiny_run / "log.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == [str(line["step"]) for line in lines]


def test_the_best_weights_are_those_of_the_best_evaluation(tiny_run):
    best = max(line["AP"] for line in records(tiny_run) if "AP" in line)
    assert load_checkpoint(tiny_run / "best.pt").card.metrics["AP"] == best
    assert load_checkpoint(tiny_run / "last.pt").training["best"] == best


def test_the_numbers_of_the_training_are_those_of_eval(tiny_run, tmp_path):
    assert main(["eval", "--weights", str(tiny_run / "best.pt"), "--out", str(tmp_path), "--device", "cpu"]) == 0
    for name in ("metrics.json", "predictions.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((tiny_run / name).read_text())


def test_ctrl_c_saves_a_state_from_which_the_run_goes_on_the_same_way(tiny_run, tiny_recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    interrupt_after_first_record(folder)
    assert main(["train", str(tiny_recipe), f"output_dir={folder}", "--device", "cpu"]) == 130
    assert f"interrupted; go on with --resume {folder}" in capsys.readouterr().out
    stopped_at = load_checkpoint(folder / "last.pt").training["step"]
    assert 1 <= stopped_at < 6
    assert main(["train", str(tiny_recipe), "--resume", str(folder), "--device", "cpu"]) == 0
    assert f"resumed from {folder / 'last.pt'} after step {stopped_at}" in capsys.readouterr().out
    assert_same_weights(weights(folder / "last.pt"), weights(tiny_run / "last.pt"))
    before, after = records(tiny_run), records(folder)
    assert [line["loss"] for line in after if "loss" in line] == [line["loss"] for line in before if "loss" in line]
    assert after[-1]["AP"] == before[-1]["AP"]


def test_resuming_a_finished_run_changes_nothing(tiny_run, tiny_recipe, tmp_path):
    (tmp_path / "last.pt").write_bytes((tiny_run / "last.pt").read_bytes())
    assert train(load_config(tiny_recipe), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert not (tmp_path / "log.jsonl").exists()
    assert_same_weights(weights(tmp_path / "last.pt"), weights(tiny_run / "last.pt"))


def test_a_run_without_validation_keeps_its_newest_weights(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["data.val=null", "train.max_steps=1"])
    assert train(config, tmp_path, "cpu", None, QUIET) == "finished"
    assert_same_weights(weights(tmp_path / "best.pt"), weights(tmp_path / "last.pt"))
    assert not (tmp_path / "metrics.json").exists()


def test_evaluations_may_be_left_to_the_end(tiny_recipe, tmp_path):
    assert (
        train(load_config(tiny_recipe, ["eval.every_epochs=0", "train.max_steps=4"]), tmp_path, "cpu", None, QUIET)
        == "finished"
    )
    assert [line["step"] for line in records(tmp_path) if "AP" in line] == [4]


def test_of_equal_evaluations_the_newest_weights_are_kept(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path, "train.ema_decay=null", "postprocess.score_threshold=1")
    end_epoch(run, state, evaluating=True)
    first = weights(tmp_path / "best.pt")
    train_step(run, state, batch)
    end_epoch(run, state, evaluating=True)
    assert state.best == 0
    assert not torch.equal(
        first["class_head.predict.pointwise.bias"], weights(tmp_path / "best.pt")["class_head.predict.pointwise.bias"]
    )


def test_an_evaluation_that_fails_costs_no_training(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path)
    train_step(run, state, batch)
    run.task.val_table.file_names[2] = "gone.jpg"
    with pytest.raises(Exception, match=r"gone\.jpg: no such image"):
        end_epoch(run, state, evaluating=True)
    assert load_checkpoint(tmp_path / "last.pt").training["step"] == 1


def test_norms_are_not_trained_on_single_values(tiny_recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"one image of 128 x 128 at a time .*; raise train\.batch_size, lower"):
        start(tiny_recipe, tmp_path, "train.accumulation_steps=4")


def test_synchronised_norms_of_a_single_process_need_values_as_well(tiny_recipe, tmp_path):
    with pytest.raises(ConfigError, match=r"one image of 128 x 128 at a time .*, set train\.norms=frozen"):
        start(tiny_recipe, tmp_path, "train.accumulation_steps=4", "train.batch_norm=sync")


@pytest.mark.parametrize("norms", ["auto", "frozen"])
def test_norms_that_keep_the_statistics_of_weights_need_no_values(tiny_run, tiny_recipe, tmp_path, norms):
    weights = f"model.weights={tiny_run / 'best.pt'}"
    run, state, batch = start(tiny_recipe, tmp_path, "train.accumulation_steps=4", f"train.batch_norm={norms}", weights)
    assert train_step(run, state, batch)["loss"] > 0


def test_weights_that_diverge_in_the_last_step_are_told_by_the_evaluation(tiny_recipe, tmp_path):
    run, state, _ = start(tiny_recipe, tmp_path)
    with torch.no_grad():
        state.evaluated.neck.cells[0].nodes[0].conv.pointwise.weight.fill_(float("inf"))
    with pytest.raises(
        TrainingError, match=r"after step 0: .*\.jpg: the outputs of the model .* NaN or Inf; .*; lower optim"
    ):
        end_epoch(run, state, evaluating=True)
    assert not (tmp_path / "best.pt").exists()


def test_steps_of_another_loss_are_left_out_of_the_next_record(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["train.log_every=4", "train.max_hours=1e-9", "data.val=null"])
    assert train(config, tmp_path, "cpu", None, QUIET) == "out of time"
    other = load_config(tiny_recipe, ["train.log_every=4", "loss.iou=giou", "data.val=null"])
    assert train(other, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    first, *_ = records(tmp_path)
    assert first["step"] == 4
    assert first["loss"] == pytest.approx(first["class_loss"] + 50 * first["box_loss"] + first["iou_loss"])


def test_two_deterministic_runs_are_the_same(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["train.deterministic=true", "train.max_steps=2", "data.val=null"])
    try:
        for name in ("first", "second"):
            train(config, tmp_path / name, "cpu", None, QUIET)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_weights(weights(tmp_path / "first/last.pt"), weights(tmp_path / "second/last.pt"))


# What cannot be resumed


def test_weights_without_a_training_are_not_resumed(tiny_run, tiny_recipe, tmp_path):
    run, state, _ = start(tiny_recipe, tmp_path)
    with pytest.raises(
        WeightsError, match=r"best\.pt: holds no state of a training; resume from the last\.pt of a run"
    ):
        resume(tiny_run / "best.pt", run, state)


@pytest.mark.parametrize(
    "change", ["model.name=efficientdet_lite1", "optim.name=adamw", "train.freeze=[backbone]", "train.batch_size=2"]
)
def test_a_run_of_another_recipe_is_not_resumed(tiny_run, tiny_recipe, tmp_path, change):
    run, state, _ = start(tiny_recipe, tmp_path, change)
    with pytest.raises(WeightsError, match=r"last\.pt: .*; resume with the recipe of the run"):
        resume(tiny_run, run, state)
