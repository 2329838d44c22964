import io
import json
import time

import pytest
import yaml
from rich.console import Console

from effdet.config import ClassificationConfig, DetectionConfig, make_config
from effdet.errors import ConfigError
from effdet.training.records import trackers
from effdet.training.records.logs import RunLog
from effdet.training.records.trackers import Trackers, check_trackers, open_trackers

RECIPE = {"train": {"epochs": 3}, "loss": {"class_weights": {"chaise longue (ü)": 2.0}}, "model": {"weights": None}}


def console():
    return Console(file=io.StringIO(), width=200)


def printed(output):
    return output.file.getvalue()


def training(step, loss):
    return {"step": step, "epoch": 1, "seconds": 2.5, "learning_rate": 0.5, "loss": loss}


def evaluation(step, ap):
    return {"step": step, "epoch": 1, "seconds": 2.5, "AP": ap, "APs": -1.0}


def run_with(to, folder, records, step=0):
    """A run that logs records; after `step` it is a resumed one."""
    folder.mkdir(exist_ok=True)
    log = RunLog(folder, ("loss",), (), ("AP", "APs"))
    log.rewind(step, evaluated=True)
    with open_trackers(to, "cats", folder, RECIPE, step, console()) as log.trackers:
        for record in records:
            log.write(record)


def killed_and_resumed(to, folder):
    """A run that logs steps 20, 40 with an evaluation, and 60, and is resumed after step 40."""
    run_with(to, folder, [training(20, 8.0), training(40, 4.0), evaluation(40, 0.25), training(60, 2.0)])
    run_with(to, folder, [training(60, 2.0), training(80, 1.0), evaluation(80, 0.5)], step=40)


class Recorder:
    def __init__(self, fails=False):
        self.records, self.closed, self.fails = [], [], fails

    def write(self, step, metrics):
        if self.fails:
            raise ConnectionError("no route to host\nand so on")
        self.records.append((step, metrics))

    def close(self, failed):
        self.closed.append(failed)


# The recipe


@pytest.mark.parametrize("config", [DetectionConfig(), ClassificationConfig()])
def test_no_tracker_is_used_by_default(config):
    assert config.log.trackers == ()


def test_a_recipe_selects_its_trackers():
    assert make_config({}, ["log.trackers=[tensorboard,wandb]"]).log.trackers == ("tensorboard", "wandb")


@pytest.mark.parametrize("to", ["[visdom]", "tensorboard", "[wandb,wandb]"])
def test_an_unknown_or_repeated_tracker_is_refused(to):
    with pytest.raises(ConfigError, match=r"log"):
        make_config({}, [f"log.trackers={to}"])


def test_the_error_for_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "efficientdet-torch\[wandb\]"'):
        check_trackers(["wandb"])
    check_trackers([])


# What trackers receive


def test_a_tracker_receives_the_records_of_the_log_files_by_split(tmp_path):
    log, tracker = RunLog(tmp_path, ("loss",), (), ("AP", "APs")), Recorder()
    with Trackers({"one": tracker}, console()) as log.trackers:
        log.write(training(20, 8.0))
        log.write(evaluation(20, 0.25))
    assert tracker.records == [
        (20, {"train/epoch": 1, "train/seconds": 2.5, "train/learning_rate": 0.5, "train/loss": 8.0}),
        (20, {"val/AP": 0.25}),  # -1 is an undefined metric: no small objects
    ]
    assert tracker.closed == [False]


def test_trackers_are_closed_as_failed_after_an_error():
    tracker = Recorder()
    with pytest.raises(KeyError), Trackers({"one": tracker}, console()):
        raise KeyError
    assert tracker.closed == [True]


def test_a_tracker_that_fails_is_reported_once_and_not_used_again(tmp_path):
    output, good, bad = console(), Recorder(), Recorder(fails=True)
    log = RunLog(tmp_path, ("loss",))
    with Trackers({"bad": bad, "good": good}, output) as log.trackers:
        log.write(training(20, 8.0))
        log.write(training(40, 4.0))
    assert printed(output) == (
        "bad failed (no route to host); the run continues without it, and log.jsonl has all metrics\n"
    )
    assert [step for step, _ in good.records] == [20, 40]
    assert good.closed == [False]
    assert bad.closed == []


def test_a_tracker_that_cannot_be_started_ends_a_new_run_but_not_a_resumed_one(tmp_path, monkeypatch):
    def refuse(*_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(trackers, "check_trackers", lambda to: None)
    monkeypatch.setattr(trackers, "WandB", refuse)
    with pytest.raises(ConfigError, match=r"wandb cannot be started \(no route to host\)"):
        open_trackers(["wandb"], "cats", tmp_path, RECIPE, 0, console())
    output = console()
    assert not open_trackers(["wandb"], "cats", tmp_path, RECIPE, 40, output).trackers
    assert "wandb failed (no route to host)" in printed(output)


# The three tools


def test_tensorboard_has_every_step_once_after_a_resume(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed_and_resumed(["tensorboard"], tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (20, 8.0), (40, 4.0), (60, 2.0), (80, 1.0),
    ]  # fmt: skip
    assert [(event.step, event.value) for event in events.Scalars("val/AP")] == [(40, 0.25), (80, 0.5)]
    (recipe, *_) = events.Tensors("recipe/text_summary")
    text = recipe.tensor_proto.string_val[0].decode()
    assert yaml.safe_load(text.removeprefix("```\n").removesuffix("```")) == RECIPE


def content_of(path):
    """Content of a file of W&B, whose service still writes for a moment after the end of a run."""
    deadline = time.monotonic() + 60
    while b"val/AP" not in path.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    return path.read_bytes()


def test_wandb_offline_continues_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "run"
    killed_and_resumed(["wandb"], folder)
    run_id = json.loads((folder / "trackers.json").read_text())["wandb"]
    first, second = sorted((folder / "wandb").glob(f"offline-run-*-{run_id}*/run-{run_id}.wandb"))
    earlier, later = content_of(first), content_of(second)
    assert b"train/loss" in earlier
    assert b"val/AP" in earlier
    assert b"0.25" in earlier
    assert b"epochs" in earlier  # of the recipe
    assert b"cats" in earlier
    assert b"0.25" not in later
    assert b"train/loss" in later


def mlflow_run(uri):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("cats").experiment_id])
    return client, run


def test_mlflow_has_every_step_once_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # files are made faster than a database
    killed_and_resumed(["mlflow"], tmp_path / "run")
    client, run = mlflow_run((tmp_path / "mlruns").as_uri())
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"
    assert run.data.params["train.epochs"] == "3"
    losses = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((metric.step, metric.value) for metric in losses) == [(20, 8.0), (40, 4.0), (60, 2.0), (80, 1.0)]
    precision = client.get_metric_history(run.info.run_id, "val/AP")
    assert sorted((metric.step, metric.value) for metric in precision) == [(40, 0.25), (80, 0.5)]


@pytest.mark.slow
def test_mlflow_uses_a_database_in_the_folder_of_the_run_by_default(tmp_path, monkeypatch):
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="the extra mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_with(["mlflow"], tmp_path / "run", [training(20, 8.0)])
    _, run = mlflow_run(f"sqlite:///{tmp_path / 'run' / 'mlflow.db'}")
    assert run.data.metrics["train/loss"] == 8.0
