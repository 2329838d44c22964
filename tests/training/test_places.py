"""Runs whose folder or log cannot be written any more; those that are killed are in `tests/fuzz/faults`."""

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
