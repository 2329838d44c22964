"""What a run tells: log.jsonl and log.csv in its folder, and a progress line in the terminal.

Both files are appended to, and a resumed run continues them after dropping what came after its checkpoint. Trackers get
the same from `trackers.py`.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from effdet.errors import DataError
from effdet.files import write_text
from effdet.training.records.trackers import Trackers

Record = dict[str, float]
BatchType = TypeVar("BatchType")
MUCH_WAITING = 0.2  # share of the time
_JUDGED_STEPS, _JUDGED_SECONDS = 20, 30  # enough of either to tell how long a run waits for data


class RunLog:
    """The two log files of a run: a line of training figures or of metrics at a time.

    JSON lines hold what a record has; the CSV has all columns, empty where a record has nothing to say.

    Attributes:
        trackers: where records go besides, or None.
    """

    trackers: Trackers | None = None

    def __init__(
        self, folder: Path, losses: Sequence[str] = (), settings: Sequence[str] = (), metrics: Sequence[str] = ()
    ) -> None:
        """Logs in a folder.

        Args:
            folder: the run's.
            losses: names of the parts of the loss.
            settings: names of what changes from epoch to epoch.
            metrics: names of what an evaluation tells.
        """
        self.jsonl, self.table, self.metrics = folder / "log.jsonl", folder / "log.csv", frozenset(metrics)
        self.columns = (
            *("step", "epoch", "seconds", "learning_rate"),
            *losses,
            "gradient_norm",
            *settings,
            *("images_per_second", "data_wait"),
            *metrics,
        )

    def write(self, record: Record) -> None:
        """Appends one record to both files, and gives it to the trackers."""
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        new = not self.table.exists() or self.table.stat().st_size == 0
        with self.table.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerow(record)
        if self.trackers is not None:
            self.trackers.write(int(record["step"]), self._named(record))

    def _named(self, record: Record) -> Record:
        """Figures as trackers get them: train/loss, val/AP; what could not be measured is left out."""
        if self.metrics.isdisjoint(record):
            return {f"train/{name}": value for name, value in record.items() if name != "step"}
        return {f"val/{name}": record[name] for name in record if name in self.metrics and record[name] >= 0}

    def rewind(self, step: int, evaluated: bool) -> None:
        """Drops what a run will log again, and a line that was cut off by a kill; adds columns that are new.

        Args:
            step: steps that the run has done.
            evaluated: whether the evaluation after them, if there is one, is done too.

        Raises:
            DataError: a line is no record of a log.
        """
        for path in (self.jsonl, self.table):
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                whole = [(number, line) for number, line in enumerate(lines, 1) if line.endswith("\n")]
                kept = [line for number, line in whole if _place_of(line, path, number) <= (step, evaluated)]
                if path == self.table and kept:
                    kept = self._with_all_columns(kept)
                if kept != lines:
                    write_text(path, "".join(kept))

    def _with_all_columns(self, lines: list[str]) -> list[str]:
        """Lines of the table with the columns that a recipe of now has and that of before had not, at their end."""
        before = lines[0].rstrip("\n").split(",")
        new = [column for column in self.columns if column not in before]
        self.columns = (*before, *new)
        return [",".join(self.columns) + "\n", *(line[:-1] + "," * len(new) + "\n" for line in lines[1:])]


def _place_of(line: str, path: Path, number: int) -> tuple[int, bool]:
    """Step of a line of either file, and whether it is an evaluation's; (0, False) of the header of the table."""
    try:
        if path.suffix == ".jsonl":
            record = json.loads(line)
            return int(record["step"]), "learning_rate" not in record
        step, _, _, learning_rate, *_ = line.split(",")
        return (0, False) if number == 1 else (int(step), learning_rate == "")
    except (ValueError, KeyError, TypeError):
        raise DataError(
            f"{path}: line {number} is no record of this log ({line.strip()[:60]!r}); remove the line, or move the "
            "file away and a new one begins"
        ) from None


class Meter:
    """Clock of a training: its length without evaluations, its speed, and the time it waits for data."""

    def __init__(self, seconds: float) -> None:
        """A clock that goes on from `seconds`, which an earlier part of the run took."""
        self._begin = time.perf_counter() - seconds
        self._reading = time.perf_counter()
        self._images, self._waited = 0, 0.0

    def waiting(self, batches: Iterator[BatchType]) -> Iterator[BatchType]:
        """The batches, with the time that each lets wait counted."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - asked
            if batch is None:
                return
            yield batch

    def count(self, images: int) -> float:
        """Counts trained images; gives the length of the training so far in seconds."""
        self._images += images
        return time.perf_counter() - self._begin

    def read(self) -> tuple[float, float]:
        """(images per second, share of the time spent waiting for data) since the last reading."""
        spent = max(time.perf_counter() - self._reading, 1e-9)
        figures = self._images / spent, self._waited / spent
        self._reading += spent
        self._images, self._waited = 0, 0.0
        return figures

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves out what happens in the context, such as an evaluation."""
        stopped = time.perf_counter()
        yield
        away = time.perf_counter() - stopped
        self._begin += away
        self._reading += away


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def advice(data_wait: float, workers: int, cores: int, cache: str) -> str | None:
    """What to change where a training waits for its data for more than a fifth of the time; None where it does not.

    Args:
        data_wait: share of the time spent waiting.
        workers: processes that load, `data.workers`.
        cores: cores for this process and its workers.
        cache: `data.cache`.
    """
    if data_wait <= MUCH_WAITING:
        return None
    told = f"{data_wait:.0%} of the time goes into waiting for data; "
    if workers < cores:
        # A batch is loaded in so many times the time of a step by one process, and computed in the rest of it.
        loading, computing = workers or data_wait, max(1 - data_wait, 0.01)
        enough = min(max(math.ceil(loading / computing), workers + 1), cores)
        return f"{told}raise data.workers from {workers} to {enough} (there are {cores} cores)"
    if cache == "none":
        return (
            f"{told}{workers} workers keep all {cores} cores busy: set data.cache=memory or data.cache=disk, "
            "or store smaller images"
        )
    return (
        f"{told}{workers} workers keep all {cores} cores busy: store smaller images, or switch off costly augment keys"
    )


class ProgressLine:
    """A bar with the latest figures in a terminal, a line per record where the output is a file.

    Says once, as soon as enough steps tell so, that the run waits too long for its data. The first record is not
    judged: the start of the workers is in it.
    """

    def __init__(
        self,
        console: Console,
        losses: Sequence[str],
        total_steps: int,
        step: int,
        advise: Callable[[float], str | None] | None = None,
    ) -> None:
        """A line at its start.

        Args:
            console: where it is shown.
            losses: names of the parts of the loss.
            total_steps: steps of the run.
            step: steps that are done.
            advise: what to say of a share of the time spent waiting for data, see `advice`.
        """
        self.console, self.losses, self.advise = console, losses, advise
        self._judged_from: Record | None = None
        self._waited = 0.0  # seconds since then
        self._latest: Record | None = None
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("starting", total=total_steps, completed=step)

    def __enter__(self) -> ProgressLine:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.bar.stop()

    def advance(self, step: int) -> None:
        """Moves the bar to `step` steps done."""
        self.bar.update(self.task, completed=step)

    def show(self, record: Record) -> None:
        """Shows the figures of a training record."""
        total, *parts = self.losses
        shares = " ".join(f"{part.removesuffix('_loss')} {record[part]:.4f}" for part in parts)
        text = (
            f"epoch {record['epoch']}  loss {record[total]:.3f} {f'({shares})  ' if parts else ' '}"
            f"lr {record['learning_rate']:.2e}  {record['images_per_second']:.1f} images/s  "
            f"data wait {record['data_wait']:.0%}"
        )
        if self.console.is_terminal:
            self.bar.update(self.task, description=text)
        else:
            self.console.print(f"step {record['step']}  {text}")
        self._advise(record)

    def _advise(self, record: Record) -> None:
        """Judges the waiting for data once there is enough to judge."""
        if self.advise is None:
            return
        begin, latest, self._latest = self._judged_from, self._latest, record
        if begin is None or latest is None:
            self._judged_from = record
            return
        self._waited += record["data_wait"] * (record["seconds"] - latest["seconds"])
        steps, seconds = record["step"] - begin["step"], record["seconds"] - begin["seconds"]
        if steps < _JUDGED_STEPS and seconds < _JUDGED_SECONDS:
            return
        advice = self.advise(self._waited / max(seconds, 1e-9))
        if advice is not None:
            self.console.print(advice, style="yellow")
            self.advise = None
        self._judged_from, self._waited = record, 0.0
