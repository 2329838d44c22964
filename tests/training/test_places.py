"""Runs whose folder or log cannot be written any more, and runs that are killed."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from rich.console import Console

from effdet.config import load_config
from effdet.errors import DataError, TrainingError
from effdet.training.engine import train
from effdet.training.records.logs import RunLog

QUIET = Console(quiet=True)


def test_where_the_log_cannot_be_written_the_steps_are_saved(tiny_recipe, tmp_path, monkeypatch):
    folder, write = tmp_path / "run", RunLog.write

    def fail(log, record):
        if record["step"] == 2:
            log.jsonl.unlink()
            log.jsonl.mkdir()
        write(log, record)

    monkeypatch.setattr(RunLog, "write", fail)
    config = load_config(tiny_recipe, ["train.log_every=1", "train.max_steps=4", "data.val=null"])
    with pytest.raises(DataError, match=r"log\.jsonl: the log cannot be written \(Is a directory\); free some space"):
        train(config, folder, "cpu", None, QUIET)
    assert torch.load(folder / "last.pt", weights_only=True)["training"]["step"] == 2


def test_a_folder_that_is_moved_away_is_not_begun_anew(tiny_recipe, tmp_path, monkeypatch):
    folder, write = tmp_path / "run", RunLog.write

    def move(log, record):
        if record["step"] == 2:
            folder.rename(tmp_path / "moved")
        write(log, record)

    monkeypatch.setattr(RunLog, "write", move)
    config = load_config(tiny_recipe, ["train.log_every=1", "train.max_steps=4", "data.val=null"])
    with pytest.raises(TrainingError, match=r"run: the folder of the run was moved or removed; move it back"):
        train(config, folder, "cpu", None, QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["moved"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_a_run_that_is_killed_twice_ends_as_one_that_is_not(tiny_recipe, tmp_path):
    def started(folder, *changes):
        overrides = ["train.max_steps=6", "train.deterministic=true", "data.val=null", f"output_dir={folder}"]
        command = [sys.executable, "-m", "effdet", "train", str(tiny_recipe), *overrides, *changes, "--device", "cpu"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert started(whole).wait() == 0
    for delay in (0.05, 0.2):
        process = started(killed, "--resume", "auto", "train.save_every_minutes=0.0001", "train.log_every=1")
        while (line := process.stdout.readline()) and not line.startswith("step "):
            pass
        time.sleep(delay)
        process.kill()
        process.wait()
    last = started(killed, "--resume", "auto")
    assert last.wait() == 0, last.stdout.read()
    first, second = (torch.load(folder / "last.pt", weights_only=True)["model"] for folder in (whole, killed))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not [name for name in os.listdir(killed) if name.startswith(".") or name == "next.pt"]
