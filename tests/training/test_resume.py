"""A run that stops, in whatever way, goes on to the same end: weights, optimiser, random states and logs."""

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.cli.train import newest_run
from effdet.config import load_config
from effdet.errors import DataError, WeightsError
from effdet.evaluation.coco import CocoEvaluator
from effdet.training.engine import train
from effdet.training.records.logs import RunLog
from effdet.training.setup import resume, set_up

QUIET = Console(quiet=True)
TIMES = ("seconds", "images_per_second", "data_wait")
EVERY_STEP = "train.save_every_minutes=0.000001"


class DoesAtRecord(Console):
    """A terminal that does something when the record of a step is shown."""

    def __init__(self, step, deed):
        super().__init__(quiet=True)
        self.step, self.deed = step, deed

    def print(self, *objects, **options):
        if objects and str(objects[0]).startswith(f"step {self.step} "):
            self.deed()


def presses_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def is_killed_politely():
    os.kill(os.getpid(), signal.SIGTERM)


def records(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def saved(folder):
    return torch.load(folder / "last.pt", weights_only=True)


def assert_equal(first, second, place="last.pt"):
    if isinstance(first, dict):
        assert first.keys() == second.keys(), place
        for key in first.keys() - {"seconds", "output_dir"}:
            assert_equal(first[key], second[key], f"{place}.{key}")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), place
        for number, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_equal(one, other, f"{place}[{number}]")
    else:
        same = torch.equal(first, second) if isinstance(first, torch.Tensor) else first == second
        assert same, place


def assert_same_run(folder, other):
    """Everything but the recipe, which tells how the run was interrupted, and the clock."""
    assert records(folder) == records(other)
    first, second = saved(folder), saved(other)
    assert_equal(first["model"], second["model"])
    assert_equal(first["training"], second["training"])
    tables = [(run / "log.csv").read_text().splitlines() for run in (folder, other)]
    assert [len(table) for table in tables] == [len(records(folder)) + 1] * 2


@pytest.mark.parametrize(("step", "workers"), [(2, 0), (4, 0), (5, 2)])
def test_a_run_killed_at_once_goes_on_to_the_same_end(tiny_run, tiny_recipe, tmp_path, step, workers):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", "import sys; from effdet.cli import main; sys.exit(main(sys.argv[1:]))", "train"]
    arguments = [str(tiny_recipe), f"output_dir={folder}", EVERY_STEP, f"data.workers={workers}", "--device", "cpu"]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        log = folder / "log.jsonl"
        if log.exists() and f'"step": {step},' in log.read_text():
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    with (folder / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # as a kill in the middle of writing leaves it
    resumed = ["train", str(tiny_recipe), EVERY_STEP, f"data.workers={workers}", "--resume", str(folder)]
    assert main([*resumed, "--device", "cpu"]) == 0
    assert_same_run(folder, tiny_run)


@pytest.mark.parametrize("log_every", [1, 4])
@pytest.mark.parametrize("step", [2, 3])
def test_a_run_stopped_within_or_at_the_end_of_an_epoch_logs_the_same(tiny_recipe, tmp_path, step, log_every):
    config = load_config(tiny_recipe, [f"train.log_every={log_every}"])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(config, whole, "cpu", None, QUIET) == "finished"
    deeds = DoesAtRecord(step if log_every == 1 else 4, presses_ctrl_c)
    assert train(config, parts, "cpu", None, deeds) == "interrupted"
    assert train(config, parts, "cpu", parts, QUIET) == "finished"
    assert_same_run(parts, whole)


def test_an_evaluation_that_was_skipped_is_made_up_for(tiny_run, tiny_recipe, tmp_path):
    config = load_config(tiny_recipe)
    assert train(config, tmp_path, "cpu", None, DoesAtRecord(3, presses_ctrl_c)) == "interrupted"
    assert saved(tmp_path)["training"]["evaluation_due"]
    assert [line["step"] for line in records(tmp_path) if "AP" in line] == []
    assert train(config, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert_same_run(tmp_path, tiny_run)


def test_sigterm_saves_and_leaves_with_a_status_of_its_own(tiny_run, tiny_recipe, tmp_path, monkeypatch):
    config = load_config(tiny_recipe)
    assert train(config, tmp_path, "cpu", None, DoesAtRecord(2, is_killed_politely)) == "terminated"
    assert saved(tmp_path)["training"]["step"] == 2
    monkeypatch.setattr("effdet.training.engine.train", lambda *given: "terminated")
    assert main(["train", str(tiny_recipe), f"output_dir={tmp_path / 'other'}"]) == 143


def test_the_end_of_the_time_saves_and_leaves_with_a_status_of_its_own(tiny_run, tiny_recipe, tmp_path, capsys):
    folder = tmp_path / "run"
    recipe = ["train", str(tiny_recipe), "--device", "cpu"]
    assert main([*recipe, f"output_dir={folder}", "train.max_hours=1e-9"]) == 75
    assert f"out of time; go on with --resume {folder}" in capsys.readouterr().out
    assert saved(folder)["training"]["step"] == 1
    assert main([*recipe, "--resume", str(folder)]) == 0
    assert_same_run(folder, tiny_run)


@pytest.mark.parametrize("given", ["", "last.pt"])
def test_of_a_damaged_checkpoint_the_previous_one_is_taken(tiny_run, tiny_recipe, tmp_path, given):
    config = load_config(tiny_recipe, [EVERY_STEP])
    assert train(config, tmp_path, "cpu", None, DoesAtRecord(4, presses_ctrl_c)) == "interrupted"
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:10_000])
    assert torch.load(tmp_path / "previous.pt", weights_only=True)["training"]["step"] == 3
    assert train(config, tmp_path, "cpu", tmp_path / given, QUIET) == "finished"
    assert_same_run(tmp_path, tiny_run)


def test_a_damaged_checkpoint_without_a_previous_one_is_refused(tiny_recipe, tmp_path):
    (tmp_path / "last.pt").write_bytes(b"half")
    with pytest.raises(WeightsError, match=r"last\.pt: not a weights file, or damaged"):
        train(load_config(tiny_recipe), tmp_path, "cpu", tmp_path, QUIET)


def test_a_full_disk_leaves_the_old_checkpoint(tiny_recipe, tmp_path, monkeypatch):
    whole_save, saves = torch.save, []

    def save(*given):
        saves.append(given)
        if len(saves) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole_save(*given)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(WeightsError, match="No space left on device"):
        train(load_config(tiny_recipe, [EVERY_STEP]), tmp_path, "cpu", None, QUIET)
    assert saved(tmp_path)["training"]["step"] == 2
    assert not (tmp_path / "next.pt").exists()


def test_auto_resumes_the_newest_run_or_starts_one(tiny_run, tiny_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = ["train", str(tiny_recipe), "--device", "cpu", "--resume", "auto"]
    assert main([*recipe, "train.max_hours=1e-9"]) == 75
    assert "resumed" not in capsys.readouterr().out
    assert main(recipe) == 0
    assert "resumed from runs/tiny/last.pt after step 1" in capsys.readouterr().out
    assert_same_run(tmp_path / "runs/tiny", tiny_run)


@pytest.mark.parametrize("evaluating", ["metrics", "write"])
def test_a_run_killed_in_an_evaluation_makes_up_for_it(tiny_run, tiny_recipe, tmp_path, monkeypatch, evaluating):
    def dies(*given):
        raise SystemExit("killed")

    config = load_config(tiny_recipe)
    with monkeypatch.context() as patch:
        patch.setattr(CocoEvaluator, evaluating, dies)  # before and after its record is logged
        with pytest.raises(SystemExit):
            train(config, tmp_path, "cpu", None, QUIET)
    assert saved(tmp_path)["training"]["step"] == 3
    assert train(config, tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert_same_run(tmp_path, tiny_run)


def test_auto_passes_over_runs_that_are_damaged(tiny_run, tiny_recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["train", str(tiny_recipe), "--device", "cpu", "--resume", "auto"]
    for number, name in enumerate(("tiny", "tiny-2", "tiny-3")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        for file in ("last.pt", "previous.pt"):
            content = (tiny_run / file).read_bytes()
            (folder / file).write_bytes(content if name == "tiny" else content[:-100])
            os.utime(folder / file, (number, number))
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "runs/tiny-3/previous.pt: not a weights file, or damaged" in told
    assert "runs/tiny-2/previous.pt: not a weights file, or damaged" in told
    assert "resumed from runs/tiny/last.pt after step 6" in told
    for file in ("last.pt", "previous.pt"):
        (tmp_path / "runs/tiny" / file).write_bytes(b"")
    assert main(arguments) == 1
    assert "--resume auto: no saved state is whole" in capsys.readouterr().err


def test_auto_leaves_the_runs_of_other_recipes_alone(tiny_run, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny.yaml", "tiny-320.yaml"):
        (tmp_path / name).write_text(tiny_recipe.read_text())
    for name in ("tiny-320", "tiny-2"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "last.pt").write_bytes((tiny_run / "last.pt").read_bytes())
    os.utime(tmp_path / "runs/tiny-2/last.pt", (1, 1))
    assert newest_run(None, Path("tiny.yaml"), QUIET) == Path("runs/tiny-2")
    assert newest_run(None, Path("tiny-320.yaml"), QUIET) == Path("runs/tiny-320")


def test_epochs_may_be_added(tiny_run, tiny_recipe, tmp_path):
    (tmp_path / "last.pt").write_bytes((tiny_run / "last.pt").read_bytes())
    assert train(load_config(tiny_recipe, ["train.epochs=3"]), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert saved(tmp_path)["training"]["step"] == 9


def test_a_run_without_better_results_ends_early(tiny_recipe, tmp_path):
    never = ["postprocess.score_threshold=1", "train.epochs=9", "train.patience=2"]
    assert train(load_config(tiny_recipe, never), tmp_path, "cpu", None, QUIET) == "finished"
    assert [line["step"] for line in records(tmp_path) if "AP" in line] == [3, 6, 9]  # the first one is the best
    assert train(load_config(tiny_recipe, never), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert saved(tmp_path)["training"]["step"] == 9


def test_a_log_is_rewound_to_a_step(tmp_path):
    log = RunLog(tmp_path, ("loss",), (), ("AP",))
    for step in (1, 2, 10):
        log.write({"step": step, "learning_rate": 0.1, "loss": 0.5})
    with (tmp_path / "log.csv").open("a") as file:
        file.write("1")  # the beginning of 11
    log.rewind(2, evaluated=False)
    assert [record["step"] for record in records(tmp_path)] == [1, 2]
    assert [line.partition(",")[0] for line in (tmp_path / "log.csv").read_text().splitlines()] == ["step", "1", "2"]
    RunLog(tmp_path / "nowhere").rewind(2, evaluated=True)


@pytest.mark.parametrize("evaluated", [True, False])
def test_an_evaluation_that_will_be_made_again_is_dropped_from_the_log(tmp_path, evaluated):
    log = RunLog(tmp_path, ("loss",), (), ("AP",))
    for record in ({"learning_rate": 0.1, "loss": 0.5}, {"AP": 0.25}):
        log.write({"step": 1, "epoch": 1, "seconds": 0.5, **record})
    log.rewind(1, evaluated)
    assert [record.get("AP") for record in records(tmp_path)] == [None, 0.25][: 1 + evaluated]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 2 + evaluated


def test_a_table_that_lost_its_header_gets_a_new_one(tmp_path):
    (tmp_path / "log.csv").write_text("step,epo")
    log = RunLog(tmp_path, ("loss",))
    log.rewind(2, evaluated=True)
    log.write({"step": 3, "loss": 0.5})
    assert (tmp_path / "log.csv").read_text().startswith("step,epoch,seconds,learning_rate,loss")


def test_a_log_goes_on_with_columns_that_are_new(tmp_path):
    RunLog(tmp_path, ("loss", "box_loss")).write({"step": 1, "loss": 0.5, "box_loss": 0.25})
    log = RunLog(tmp_path, ("loss", "iou_loss"))
    log.rewind(1, evaluated=True)
    log.write({"step": 2, "loss": 0.75, "iou_loss": 0.125})
    with (tmp_path / "log.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["loss"], first["box_loss"], first["iou_loss"]) == ("0.5", "0.25", "")
    assert (second["loss"], second["box_loss"], second["iou_loss"]) == ("0.75", "", "0.125")


@pytest.mark.parametrize(("name", "line"), [("log.jsonl", '{"step": 2, "lo'), ("log.csv", "two,1,0.5")])
def test_a_broken_line_in_a_log_is_told_with_its_place(tmp_path, name, line):
    log = RunLog(tmp_path, ("loss",))
    log.write({"step": 1, "loss": 0.5})
    with (tmp_path / name).open("a") as file:
        file.write(line + "\n")
    number = len((tmp_path / name).read_text().splitlines())
    with pytest.raises(DataError, match=rf"{name}: line {number} is not a log record \({re.escape(repr(line))}\)"):
        log.rewind(2, evaluated=True)


def test_an_evaluation_that_the_recipe_no_longer_wants_is_not_made_up_for(tiny_recipe, tmp_path):
    config = load_config(tiny_recipe)
    assert train(config, tmp_path, "cpu", None, DoesAtRecord(3, presses_ctrl_c)) == "interrupted"
    assert train(load_config(tiny_recipe, ["data.val=null"]), tmp_path, "cpu", tmp_path, QUIET) == "finished"
    assert not [line for line in records(tmp_path) if "AP" in line]


def test_of_what_the_recipe_says_now_the_resumed_run_makes_use(tiny_run, tiny_recipe, tmp_path):
    run, state = set_up(load_config(tiny_recipe, ["optim.weight_decay=0.5"]), tmp_path, "cpu", QUIET)
    resume(tiny_run, run, state)
    assert [group["weight_decay"] for group in state.optimizer.param_groups] == [0.5, 0.0]
    assert state.optimizer.state_dict()["state"]  # its momenta are those of the run


def test_a_run_goes_on_in_float16(tiny_run, tiny_recipe, tmp_path):
    run, state = set_up(load_config(tiny_recipe, ["train.precision=fp16"]), tmp_path, "cpu", QUIET)
    resume(tiny_run, run, state)
    assert state.scaler.get_scale() == 65536
