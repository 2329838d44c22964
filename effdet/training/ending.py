"""What is printed when a run ends: how long it lasted, which files to use, and the next commands.

Why a run stops is decided in `engine.py` and `stopping.py`.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

from effdet.errors import DataError
from effdet.evaluation.average_precision import NEAR_ZERO
from effdet.report.curves import read_log
from effdet.training.commands import resume_command, verb_command
from effdet.training.epoch import epoch_of, is_last
from effdet.training.records.progress import duration_text
from effdet.training.setup import Run
from effdet.training.state import TrainState
from effdet.training.stopping import Ending

FILES = ("report.html", "metrics.json", "predictions.json", "confusion.png", "curves.png", "log.csv")  # besides best.pt


@dataclass(frozen=True)
class Start:
    """Where this start of a run began.

    Attributes:
        time: of `time.perf_counter`.
        step: completed steps.
        seconds: training time before.
    """

    time: float
    step: int
    seconds: float


def ending_lines(run: Run, state: TrainState, ending: Ending, start: Start) -> list[str]:
    """The last lines of a run that was not ended by an error."""
    total, epochs = run.schedule.total_steps, math.ceil(run.schedule.total_steps / run.schedule.steps_per_epoch)
    command = resume_command(run.folder, processes=run.processes, device=run.network.device)
    lines = []
    if ending != "finished":
        lines += [f"{ending} after step {state.step} of {total}; {_durations(run, state, start)}"]
        lines += [f"continue with: {command}"]
    elif state.step == start.step:
        lines += [f"nothing is left to do: {state.step} of {total} steps are done", _how_to_go_on(run, state, epochs)]
    else:
        epoch = epoch_of(run, state)
        lines += [f"done: step {state.step} of {total}, epoch {epoch} of {epochs}; {_durations(run, state, start)}"]
    if (run.folder / "best.pt").exists():
        lines += _results(run, state)
    return lines


def saved_line(run: Run, state: TrainState, is_fault: bool) -> str | None:
    """How to continue a run that an error or a second Ctrl-C ended; None if nothing is saved."""
    if state.saved_step is None:
        return None
    command = resume_command(run.folder, processes=run.processes, device=run.network.device)
    fix = "fix the cause below, then " if is_fault else ""
    return f"saved after step {state.saved_step}; {fix}continue with: {command}"


def _durations(run: Run, state: TrainState, start: Start) -> str:
    trained, evaluated = state.seconds - start.seconds, sum(run.evaluation_seconds)
    evaluation = f", {duration_text(evaluated)} of evaluation" if run.evaluation_seconds else ""
    text = f"trained {duration_text(trained)}{evaluation}; {duration_text(time.perf_counter() - start.time)} in all"
    return f"{text}; {duration_text(state.seconds)} of training since the first start" if start.step else text


def _how_to_go_on(run: Run, state: TrainState, epochs: int) -> str:
    """How to train longer than the recipe says."""
    train = run.config.train
    if not is_last(run, state):
        change = "train.patience=null"
    elif train.max_steps is not None:
        change = f"train.max_steps={2 * train.max_steps}"
    else:
        change = f"train.epochs={2 * epochs}"
    command = resume_command(run.folder, change, processes=run.processes, device=run.network.device)
    return f"train longer with: {command}"


def _results(run: Run, state: TrainState) -> list[str]:
    """The files to use, and the commands that use them."""
    best = run.folder / "best.pt"
    measured = run.task.data.num_validation > 0 and state.best is not None
    quality = _quality(run, state) if measured else "the newest weights, because there is no validation split"
    others = [name for name in FILES if (run.folder / name).exists()]
    lines = [f"weights to use: {best} ({quality})"]
    if others:
        lines.append(f"also in {run.folder}: {', '.join(others)}")
    if measured and state.best is not None and state.best <= NEAR_ZERO:
        lines.append(f"{run.task.metric} is near zero; find out why: {verb_command('doctor', str(run.folder))}")
    lines.append(f"next: {verb_command('predict', 'YOUR_IMAGES', '--weights', str(best))}")
    if measured:
        lines.append(f"      {verb_command('eval', '--weights', str(best))}")
    for name in run.task.data.tables.unused:
        if name.lower().startswith("test"):
            command = verb_command("eval", "--weights", str(best), f"data.val.split={name}")
            lines.append(f"      {command}  # images that were not used so far")
    return lines


def _quality(run: Run, state: TrainState) -> str:
    """The metric of best.pt, and the epoch that it is of."""
    assert state.best is not None
    metric = run.task.metric
    value = f"{metric} {state.best:.1%}" if state.best >= 0 else f"{metric} is undefined"
    epoch = _epoch_of_best(run.folder / "log.jsonl", metric, state.best)
    return value if epoch is None else f"{value} after epoch {epoch}"


def _epoch_of_best(log: Path, metric: str, best: float) -> int | None:
    """The epoch of the newest evaluation with that metric; None if the log does not have it."""
    try:
        _, evaluations = read_log(log)
    except DataError:
        return None
    return next((int(record["epoch"]) for record in reversed(evaluations) if record.get(metric) == best), None)
