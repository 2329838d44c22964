import json
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import effdet
from effdet.errors import DataError
from effdet.training.records.manifest import git_states, versions, write_manifest

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def start(folder, resumed_after=None, fingerprints=None):
    write_manifest(
        folder,
        device=torch.device("cpu"),
        processes=2,
        seed=7,
        resumed_after=resumed_after,
        fingerprints=fingerprints or {"train": "ab12", "val": "cd34"},
    )
    return json.loads((folder / "manifest.json").read_text())["starts"]


def git(folder, *arguments):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def state_of(folder):
    (state,) = [one for one in git_states() if os.path.samefile(one["folder"], folder)]
    return state


def test_an_entry_has_versions_hardware_command_and_data(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["effdet", "train", "recipe.yaml"])
    (first,) = start(tmp_path)
    assert first["command"] == ["effdet", "train", "recipe.yaml"]
    assert first["resumed_after_step"] is None
    assert first["seed"] == 7
    assert first["data"] == {"train": "ab12", "val": "cd34"}
    assert first["hardware"]["processes"] == 2
    assert first["hardware"]["device"] == "cpu"
    assert first["hardware"]["threads"] == torch.get_num_threads()
    assert first["hardware"]["cores"] >= 1
    assert first["time"].endswith("+00:00")


def test_versions_are_those_of_the_imported_packages():
    installed = versions()
    assert installed["python"] == platform.python_version()
    assert installed["torch"] == torch.__version__
    assert installed["efficientdet-torch"] == effdet.__version__
    assert installed["numpy"] == np.__version__
    assert installed["cuda"] == torch.version.cuda


def test_every_resume_adds_an_entry(tmp_path):
    start(tmp_path)
    starts = start(tmp_path, resumed_after=40, fingerprints={"train": "ffff"})
    assert [one["resumed_after_step"] for one in starts] == [None, 40]
    assert [one["data"].get("val") for one in starts] == ["cd34", None]
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_environment_variables_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "a-secret-of-mine")
    start(tmp_path)
    assert "a-secret-of-mine" not in (tmp_path / "manifest.json").read_text()


def test_a_manifest_json_that_is_something_else_is_an_error(tmp_path):
    (tmp_path / "manifest.json").write_text("[]")
    with pytest.raises(DataError, match=r"manifest\.json: not the manifest of a run"):
        start(tmp_path)


@needs_git
def test_the_state_of_the_git_repository_is_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init")
    (tmp_path / "recipe.yaml").write_text("seed: 1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "runs.txt").write_text("unknown to git")
    state = state_of(tmp_path)
    assert state["commit"] == git(tmp_path, "rev-parse", "HEAD")
    assert state["changed"] is False
    (tmp_path / "recipe.yaml").write_text("seed: 2")
    assert state_of(tmp_path)["changed"] is True


@needs_git
def test_a_repository_without_commits_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init")
    assert state_of(tmp_path)["commit"] is None


def test_without_git_the_state_is_empty(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_states() == []
    assert start(tmp_path)[0]["git"] == []


@needs_git
def test_a_folder_outside_of_a_repository_has_no_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert not [one for one in git_states() if tmp_path.is_relative_to(one["folder"])]
