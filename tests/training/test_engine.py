import csv
import json
from dataclasses import dataclass, field, replace

import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.config import load_config
from effdet.distributed import Processes
from effdet.errors import TrainingError
from effdet.evaluation.average_precision import METRIC_NAMES
from effdet.training.engine import go_on, train
from effdet.training.epoch import end_epoch
from effdet.training.optim import train_mode
from effdet.training.setup import set_up
from effdet.training.state import TrainState
from effdet.training.step import prepare, train_step
from effdet.weights.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("no_pictures")  # but tiny_run, which is made before, has them

QUIET = Console(quiet=True)


def start(recipe, folder, *overrides):
    """A run before its first step, and its first batch."""
    config = load_config(recipe, overrides)
    run, state = set_up(config, folder, "cpu", QUIET)
    train_mode(state.model, run.frozen)
    return run, state, next(run.task.data.batches(0, 1, pin_memory=False))


def step(run, state, batch):
    """The metrics of one optimizer step."""
    micro_batches, _ = prepare(run, state, batch)
    return train_step(run, state, micro_batches)


def weights(path):
    return torch.load(path, weights_only=True)["model"]


def assert_same_weights(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def records(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


# Its files


def test_a_run_leaves_all_its_files(tiny_run, tiny_recipe):
    names = {"best.pt", "config.yaml", "last.pt", "previous.pt", "log.csv", "log.jsonl"}
    assert {path.name for path in tiny_run.iterdir()} == names | {
        "metrics.json",
        "predictions.json",
        "manifest.json",
        "curves.png",
        *("analysis.json", "report.html", "confusion.csv", "confusion.png"),
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


def test_thresholds_of_the_evaluation_are_stored_with_the_weights(tiny_run):
    card = load_checkpoint(tiny_run / "best.pt").card
    assert 0 < card.score_threshold < 1
    assert len(card.class_thresholds) == len(card.class_names)
    assert card.temperature is None or card.temperature > 0


def test_an_evaluation_changes_no_checkpoint(tiny_run, tmp_path):
    before = (tiny_run / "last.pt").read_bytes()
    assert main(["eval", "--weights", str(tiny_run / "last.pt"), "--out", str(tmp_path), "--device", "cpu"]) == 0
    assert (tiny_run / "last.pt").read_bytes() == before


def test_the_metrics_of_the_training_are_those_of_eval(tiny_run, tmp_path):
    assert main(["eval", "--weights", str(tiny_run / "best.pt"), "--out", str(tmp_path), "--device", "cpu"]) == 0
    for name in ("metrics.json", "predictions.json"):
        assert json.loads((tmp_path / name).read_text()) == json.loads((tiny_run / name).read_text())


# Evaluations


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
    step(run, state, batch)
    end_epoch(run, state, evaluating=True)
    assert state.best == 0
    assert not torch.equal(
        first["class_head.predict.pointwise.bias"], weights(tmp_path / "best.pt")["class_head.predict.pointwise.bias"]
    )


def test_an_evaluation_that_fails_costs_no_training(tiny_recipe, tmp_path):
    run, state, batch = start(tiny_recipe, tmp_path)
    step(run, state, batch)
    run.task.data.val_table.file_names[2] = "gone.jpg"
    with pytest.raises(Exception, match=r"gone\.jpg: no such image"):
        end_epoch(run, state, evaluating=True)
    assert load_checkpoint(tmp_path / "last.pt").training["step"] == 1


def test_weights_that_diverge_in_the_last_step_are_an_error_of_the_evaluation(tiny_recipe, tmp_path):
    run, state, _ = start(tiny_recipe, tmp_path)
    with torch.no_grad():
        state.evaluated.neck.cells[0].nodes[0].conv.pointwise.weight.fill_(float("inf"))
    with pytest.raises(
        TrainingError, match=r"after step 0: .*\.jpg: the outputs of the model .* NaN or Inf; .*; lower optim"
    ):
        end_epoch(run, state, evaluating=True)
    assert not (tmp_path / "best.pt").exists()


def test_two_deterministic_runs_are_the_same(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe, ["train.deterministic=true", "train.max_steps=2", "data.val=null"])
    try:
        for name in ("first", "second"):
            train(config, tmp_path / name, "cpu", None, QUIET)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_weights(weights(tmp_path / "first/last.pt"), weights(tmp_path / "second/last.pt"))


def test_early_stopping_ends_a_run_without_better_results(tiny_recipe, tmp_path):
    never = ["postprocess.score_threshold=1", "train.epochs=9", "train.patience=2"]
    assert train(load_config(tiny_recipe, never), tmp_path, "cpu", None, QUIET) == "finished"
    assert [line["step"] for line in records(tmp_path) if "AP" in line] == [3, 6, 9]  # the first one is the best
    assert train(load_config(tiny_recipe, never), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert load_checkpoint(tmp_path / "last.pt").training["step"] == 9


def test_without_an_ema_the_weights_themselves_are_saved(shapes_recipe, tmp_path):
    run, state, batch = start(shapes_recipe, tmp_path, "train.ema_decay=null")
    step(run, state, batch)
    end_epoch(run, state, evaluating=False)
    assert_same_weights(weights(tmp_path / "last.pt"), dict(state.model.state_dict()))
    assert load_checkpoint(tmp_path / "last.pt").training["average"] is None


def test_the_log_shows_the_settings_of_each_stage(staged_run):
    names = ("image_height", "image_width", "rand_augment_magnitude", "mixup_alpha", "cutmix_alpha", "dropout")
    rows = [(line["epoch"], *(line[name] for name in names)) for line in records(staged_run) if "loss" in line]
    assert rows == [(1, 32, 32, 2.0, 0.2, 1.0, 0.1)] * 3 + [(2, 64, 64, 9.0, 0.5, 1.0, 0.3)] * 3


# Several processes


@dataclass(frozen=True)
class Alike(Processes):
    """The main one of two processes that have the same data and compute the same; notes each exchange by its step."""

    state: TrainState | None = None
    exchanges: list = field(default_factory=list)

    def all_reduce_sum(self, values):
        self.exchanges.append((self.state.step, "sum"))
        return values.mul_(self.size)

    def all_reduce_max(self, value):
        self.exchanges.append((self.state.step, "max"))
        return value

    def broadcast(self, value):
        return value

    def broadcast_buffers(self, model):
        pass


def train_alike(recipe, folder, *overrides):
    """How a run of two such processes ends, its state, and its exchanges as (steps done, kind)."""
    folder.mkdir()
    run, state, _ = start(recipe, folder, *overrides)
    processes = Alike(size=2, state=state)
    return go_on(replace(run, processes=processes), state), state, processes.exchanges


def test_processes_exchange_numbers_once_per_step_and_more_where_they_log_or_evaluate(tiny_recipe, tmp_path):
    changes = ("train.epochs=2", "train.log_every=100", "data.val=null")
    ending, _, exchanges = train_alike(tiny_recipe, tmp_path / "run", *changes)
    assert ending == "finished"
    by_step = {step: [kind for done, kind in exchanges if done == step] for step in range(7)}
    assert by_step[0] == ["sum", "sum"]  # the loss of the first step is compared with that of an untrained head
    assert by_step[1] == by_step[2] == by_step[4] == by_step[5] == ["sum"]
    assert sorted(by_step[3]) == ["max", "max", "sum", "sum"]  # the end of an epoch, and the step after it
    assert sorted(by_step[6]) == ["max", "max", "sum"]


@pytest.mark.parametrize("log_every", [1, 2])
def test_logged_losses_are_the_sums_over_processes(shapes_recipe, tmp_path, log_every):
    changes = (f"train.log_every={log_every}", "model.drop_path=0", "model.dropout=0", "data.val=null")
    assert train(load_config(shapes_recipe, changes), tmp_path / "alone", "cpu", None, QUIET) == "finished"
    assert train_alike(shapes_recipe, tmp_path / "alike", *changes)[0] == "finished"
    alone, alike = ([(line["step"], line["loss"]) for line in records(tmp_path / name)] for name in ("alone", "alike"))
    assert [step for step, _ in alone] == [step for step, _ in alike]
    assert alike[0][1] == pytest.approx(alone[0][1], rel=1e-4)
    assert [loss for _, loss in alike] == pytest.approx([loss for _, loss in alone], rel=0.01)


def test_saved_losses_are_the_sums_over_processes(shapes_recipe, tmp_path):
    changes = ("train.log_every=100", "model.drop_path=0", "model.dropout=0", "train.max_hours=1e-9")
    assert train(load_config(shapes_recipe, changes), tmp_path / "alone", "cpu", None, QUIET) == "out of time"
    ending, state, _ = train_alike(shapes_recipe, tmp_path / "alike", *changes)
    assert ending == "out of time"
    assert not state.unreduced
    (alone,), (alike,) = (
        load_checkpoint(tmp_path / name / "last.pt").training["recent"] for name in ("alone", "alike")
    )
    assert alike["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert state.recent == [alike]
