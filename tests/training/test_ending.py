"""The end of a run names files that exist, the metric of best.pt with its epoch, and commands that can be run."""

import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.config import load_config
from effdet.distributed import Processes
from effdet.training.commands import resume_command, verb_command
from effdet.training.engine import train
from effdet.training.epoch import evaluations_left
from effdet.training.setup import set_up


def ending_of(recipe, folder, *overrides, resume=None):
    """What a run prints."""
    output = io.StringIO()
    console = Console(file=output, soft_wrap=True, markup=False, highlight=False)
    assert train(load_config(recipe, overrides), folder, "cpu", resume, console) == "finished"
    return output.getvalue()


def test_a_finished_run_names_its_files_and_the_next_commands(tiny_recipe, tiny_data, tmp_path):
    printed = ending_of(tiny_recipe, tmp_path)
    done, weights, others, near_zero, predict, evaluate = printed.splitlines()[-6:]
    durations = r"trained [\w ]+, [\w ]+ of evaluation; [\w ]+ in all"
    assert re.fullmatch(rf"done: step 6 of 6, epoch 2 of 2; {durations}", done)
    assert re.fullmatch(rf"weights to use: {tmp_path}/best.pt \(AP \d+\.\d% after epoch [12]\)", weights)
    names = others.removeprefix(f"also in {tmp_path}: ").split(", ")
    assert names == ["report.html", "metrics.json", "predictions.json", "confusion.png", "curves.png", "log.csv"]
    assert all((tmp_path / name).is_file() for name in names)
    assert near_zero == f"AP is near zero; find out why: effdet doctor {tmp_path}"
    words = shlex.split(predict.removeprefix("next: effdet "))
    out = ["--out", str(tmp_path / "out")]
    assert main([str(tiny_data / "val2017") if word == "YOUR_IMAGES" else word for word in words] + out) == 0
    assert main(shlex.split(evaluate.strip())[1:]) == 0


def test_a_run_without_validation_names_neither_metrics_nor_an_evaluation(tiny_recipe, tmp_path):
    *_, done, weights, others, predict = ending_of(
        tiny_recipe, tmp_path, "data.val=null", "train.max_steps=1"
    ).splitlines()
    assert re.fullmatch(r"done: step 1 of 1, epoch 1 of 1; trained [\w ]+; [\w ]+ in all", done)
    assert weights.endswith("best.pt (the newest weights, because there is no validation split)")
    assert others == f"also in {tmp_path}: log.csv"
    assert predict == f"next: effdet predict YOUR_IMAGES --weights {tmp_path}/best.pt"


def test_the_command_for_a_test_split_can_be_pasted_as_a_whole_line(tiny_recipe, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "data")
    annotations = tmp_path / "data" / "annotations"
    shutil.copy(annotations / "instances_val2017.json", annotations / "instances_test2017.json")
    shutil.copytree(tmp_path / "data" / "val2017", tmp_path / "data" / "test2017")
    printed = ending_of(tiny_recipe, tmp_path / "run", f"data.root={tmp_path / 'data'}", "train.max_steps=1")
    last = printed.splitlines()[-1]
    assert last.endswith("data.val.split=test2017  # images that were not used so far")
    assert main(shlex.split(last, comments=True)[1:]) == 0


def test_early_stopping_ends_with_the_best_epoch_and_how_to_go_on(tiny_recipe, tmp_path):
    never = ["postprocess.score_threshold=1", "train.epochs=9", "train.patience=1"]
    printed = ending_of(tiny_recipe, tmp_path, *never)
    assert "early stopping: AP did not improve in 1 evaluation\n" in printed
    assert "done: step 6 of 27, epoch 2 of 9; " in printed
    assert "best.pt (AP 0.0% after epoch 2)\n" in printed  # of equal evaluations the newest weights are kept
    printed = ending_of(tiny_recipe, tmp_path, *never, resume=tmp_path)
    assert "nothing is left to do: 6 of 27 steps are done\n" in printed
    assert f"train longer with: effdet train --resume {tmp_path} train.patience=null\n" in printed


def test_all_counts_agree_with_their_nouns(tiny_recipe, shapes_recipe, tmp_path):
    one = ["train.max_steps=1", "train.batch_size=1", "eval.every_epochs=0", "train.batch_norm=frozen"]
    printed = ending_of(tiny_recipe, tmp_path / "detector", *one)
    assert "; 1 epoch, 1 step of 1 image on cpu" in printed
    assert "evaluating 4 images after epoch 1\n" in printed


def test_evaluations_that_follow_are_counted(tiny_recipe, tmp_path):
    def left(step, *overrides):
        run, _ = set_up(load_config(tiny_recipe, overrides), tmp_path, "cpu", Console(quiet=True))
        return evaluations_left(run, step)

    assert [left(step, "train.epochs=4") for step in (0, 2, 3, 6, 11, 12)] == [4, 4, 3, 2, 1, 0]
    assert [left(step, "train.epochs=4", "eval.every_epochs=3") for step in (0, 8, 9, 12)] == [2, 2, 1, 0]
    assert [left(step, "train.epochs=4", "eval.every_epochs=0") for step in (0, 11, 12)] == [1, 1, 0]
    assert left(0, "data.val=null") == 0


# Commands


def test_a_command_is_that_of_the_program_that_runs(monkeypatch):
    folder = Path("runs/a b")
    monkeypatch.setattr(sys, "argv", ["/usr/bin/effdet"])
    assert resume_command(folder, "train.epochs=3") == "effdet train --resume 'runs/a b' train.epochs=3"
    monkeypatch.setattr(sys, "argv", ["tools/train.py"])
    assert resume_command(folder) == "python tools/train.py --resume 'runs/a b'"
    assert verb_command("eval", "--weights", "x.pt") == "python tools/eval.py --weights x.pt"


def test_several_processes_are_started_by_torchrun(monkeypatch):
    pair, eight = Processes(0, 2, 2), Processes(0, 8, 4)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/effdet"])
    launched = "torchrun --standalone --nproc-per-node=2 --no-python effdet train --resume run"
    assert resume_command(Path("run"), processes=pair) == launched
    assert resume_command(Path("run"), processes=eight).startswith("torchrun --nnodes=2 --rdzv-backend=c10d ")
    monkeypatch.setattr(sys, "argv", ["/work/tools/train.py"])
    launched = "torchrun --standalone --nproc-per-node=2 /work/tools/train.py --resume run"
    assert resume_command(Path("run"), processes=pair) == launched


@pytest.mark.parametrize(("device", "named"), [("cpu", ""), ("meta", " --device meta")])
def test_a_device_is_named_if_it_is_not_the_one_that_is_chosen(monkeypatch, device, named):
    monkeypatch.setattr(sys, "argv", ["effdet"])
    monkeypatch.setattr("effdet.training.commands.pick_device", lambda: torch.device("cpu"))
    assert resume_command(Path("run"), device=torch.device(device)) == f"effdet train --resume run{named}"
