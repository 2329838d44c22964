"""Borders of trainings: the state from which one is resumed, and the debug dump of a step.

Weights are in `borders_weights.py`, the results of a run in `borders_results.py`.
"""

from __future__ import annotations

import copy
import functools
import io
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .border import Border, damages
from .tensors import write_content

SMALL = {"name": "efficientdet_lite0", "image_size": [64, 64], "width": 0.1, "depth": 0.1}


@functools.cache
def _started() -> tuple[Any, Any, Any]:
    """A run after one step with AdamW, its state, and the micro-batches of its next step."""
    from rich.console import Console

    from effdet.config import make_config
    from effdet.data.synthetic import write_data_set
    from effdet.training.setup import set_up
    from effdet.training.step import prepare, train_step

    root = Path(tempfile.mkdtemp(prefix="fuzz-run-"))
    write_data_set(root / "data", 4, 2, size=(64, 64))
    recipe = {
        "model": SMALL,
        "data": {"root": str(root / "data"), "workers": 0},
        "optim": {"name": "adamw"},
        "train": {"batch_size": 2, "precision": "fp32", "epochs": 3},
    }
    run, state = set_up(make_config(recipe), root / "run", "cpu", Console(quiet=True))
    batch = next(iter(run.task.data.batches(0, 1, pin_memory=False)))
    train_step(run, state, prepare(run, state, batch)[0])
    state.step = 1
    micro_batches, _ = prepare(run, state, batch)
    return run, state, micro_batches


def _plain_card(run: Any) -> dict[str, Any]:
    """The card of a run without the folders of this process, so that the same seed makes the same bytes."""
    card = run.card.to_dict()
    card["config"] = {**card["config"], "data": {**card["config"]["data"], "root": "data"}}
    return card


@functools.cache
def _saved() -> dict[str, Any]:
    """The content of last.pt."""
    run, state, _ = _started()
    training = copy.deepcopy({**state.state_dict(), "seconds": 2.5, "best": 0.25})
    training["recent"] = [{**dict.fromkeys(run.task.criterion.names, 0.5), "learning_rate": 0.1}]
    return {"format": 3, "model": training["model"], "card": _plain_card(run), "training": training}


def _make_state(rng: random.Random, folder: Path) -> Path:
    content = _saved()
    count = damages(rng, folder)
    if count and rng.random() < 0.3:  # without damage of the largest containers, the small ones get more
        small = {key: value for key, value in content["training"].items() if key in ("recent", "data", "step", "best")}
        mutated = write_content(rng, folder / "part.pt", small, count)
        try:
            damaged = torch.load(mutated, weights_only=True)
        except Exception:
            damaged = {"data": {"fingerprints": "x"}}
        mutated.unlink()
        content = {**content, "training": {**content["training"], **(damaged if isinstance(damaged, dict) else {})}}
        torch.save(content, folder / "last.pt")
        return folder / "last.pt"
    return write_content(rng, folder / "last.pt", content, count)


def _read_state(path: Path) -> None:
    from rich.console import Console

    from effdet.training.resume import resume
    from effdet.training.step import train_step

    run, state, micro_batches = _started()
    printed = io.StringIO()
    resume(path, replace(run, console=Console(file=printed, width=200)), state)
    assert len(printed.getvalue()) < 10_000, "what is printed is too long"
    assert type(state.step) is int
    assert state.step >= 0
    assert isinstance(state.recent, list)
    assert all(tensor.dtype.is_floating_point for tensor in state.optimizer.param_groups[0]["params"])
    train_step(run, state, micro_batches)
    run.task.settings(state.step // run.schedule.steps_per_epoch)
    assert run.schedule.learning_rate(state.step) >= 0
    again = state.state_dict()
    assert again["model"].keys() == _saved()["model"].keys()


@functools.cache
def _dumped() -> dict[str, Any]:
    """The content of a debug dump."""
    from effdet.training.debug.dump_step import make_dump
    from effdet.training.step import seed_of_step

    run, state, micro_batches = _started()
    dump = make_dump(run, state, micro_batches, {"learning_rate": 0.1}, seed_of_step(0, 1, 0))
    return {**copy.deepcopy(dump.to_dict()), "card": _plain_card(run)}


def _make_dump(rng: random.Random, folder: Path) -> Path:
    return write_content(rng, folder / "dump.pt", _dumped(), damages(rng, folder))


def _read_dump(path: Path) -> None:
    from effdet.training.debug.dump import read_dump
    from effdet.training.debug.dump_step import report_of, write_dump
    from effdet.training.debug.replay import replay

    dump = read_dump(path)
    traced = replay(dump, torch.device("cpu"), None)
    report_of(dump, traced)
    write_dump(path.parent / "written", dump, traced)


BORDERS = (
    Border("resume state", _make_state, _read_state, seconds=20, heavy=True),
    Border("debug dump", _make_dump, _read_dump, seconds=20, heavy=True),
)
