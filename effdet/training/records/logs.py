"""The log of a run, log.jsonl and log.csv in its folder, and the meter of its speed.

Both files are appended to. A resumed run first drops the lines after its checkpoint. TensorBoard, W&B and MLflow are in
`trackers.py`, what is shown on the screen in `progress.py`.
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from effdet.errors import DataError
from effdet.files import read_text, write_text
from effdet.plain_data import parse_json
from effdet.report.curves import HIGH_DATA_WAIT
from effdet.training.records.trackers import Trackers

BatchType = TypeVar("BatchType")


class RunLog:
    """The two log files of a run. A record is a mapping with the metrics of training steps or of an evaluation.

    Each line of log.jsonl has the keys of its record. log.csv has all columns; a value that a record lacks is empty.

    Attributes:
        trackers: the trackers that get every record too, or None.
    """

    trackers: Trackers | None = None

    def __init__(
        self, folder: Path, losses: Sequence[str] = (), settings: Sequence[str] = (), metrics: Sequence[str] = ()
    ) -> None:
        """The log files in a folder, which are created by the first record.

        Args:
            folder: folder of the run.
            losses: names of the total loss and its terms.
            settings: names of the settings that change from epoch to epoch.
            metrics: names of the evaluation metrics.
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

    def write(self, record: dict[str, float]) -> None:
        """Appends a record to both files and sends it to the trackers.

        Raises:
            DataError: a file cannot be written.
        """
        try:
            with self.jsonl.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
            new = not self.table.exists() or self.table.stat().st_size == 0
            with self.table.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, self.columns)
                if new:
                    writer.writeheader()
                writer.writerow(record)
        except OSError as error:
            raise DataError(
                f"{error.filename or self.jsonl}: the log cannot be written ({error.strerror}); free some space, make "
                "the folder writable, or move it back"
            ) from None
        if self.trackers is not None:
            self.trackers.write(int(record["step"]), self._tracker_metrics(record))

    def _tracker_metrics(self, record: dict[str, float]) -> dict[str, float]:
        """The record with the names of the trackers, such as train/loss and val/AP. Undefined metrics are left out."""
        if self.metrics.isdisjoint(record):
            return {f"train/{name}": value for name, value in record.items() if name != "step"}
        return {f"val/{name}": record[name] for name in record if name in self.metrics and record[name] >= 0}

    def rewind(self, step: int, evaluated: bool) -> None:
        """Drops the lines that a resumed run will log again, and a last line that is incomplete; adds new columns.

        Args:
            step: completed steps of the run.
            evaluated: whether the evaluation after the last completed step, if there is one, is complete too.

        Raises:
            DataError: a line is not a log record.
        """
        for path in (self.jsonl, self.table):
            if path.exists():
                lines = read_text(path).splitlines(keepends=True)
                complete = [(number, line) for number, line in enumerate(lines, 1) if line.endswith("\n")]
                kept = [line for number, line in complete if _step_of_line(line, path, number) <= (step, evaluated)]
                if path == self.table and kept:
                    kept = self._add_columns(kept)
                if kept != lines:
                    write_text(path, "".join(kept))

    def _add_columns(self, lines: list[str]) -> list[str]:
        """The lines of log.csv with the columns appended that the current recipe has and the earlier one did not."""
        before = lines[0].rstrip("\n").split(",")
        new = [column for column in self.columns if column not in before]
        self.columns = (*before, *new)
        return [",".join(self.columns) + "\n", *(line[:-1] + "," * len(new) + "\n" for line in lines[1:])]


def _step_of_line(line: str, path: Path, number: int) -> tuple[int, bool]:
    """(step, whether it is of an evaluation) of a line of either file; (0, False) for the header of log.csv."""
    try:
        if path.suffix == ".jsonl":
            record = parse_json(line)
            return int(record["step"]), "learning_rate" not in record
        step, _, _, learning_rate, *_ = line.split(",")
        return (0, False) if number == 1 else (int(step), learning_rate == "")
    except (ValueError, KeyError, TypeError, OverflowError):
        raise DataError(
            f"{path}: line {number} is not a log record ({line.strip()[:60]!r}); remove the line, or move the file "
            "away to start a new log"
        ) from None


class Meter:
    """Measures a training: its duration without evaluations, its speed, and its data wait."""

    def __init__(self, seconds: float) -> None:
        """Starts the clock at `seconds`, the duration of the run before it was resumed."""
        self._start = time.perf_counter() - seconds
        self._last_read = time.perf_counter()
        self._images, self._waited = 0, 0.0

    def time_loading(self, batches: Iterator[BatchType]) -> Iterator[BatchType]:
        """Yields the batches; the time until each is available counts as data wait."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self._waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def add_wait(self, seconds: float) -> None:
        """Adds data wait that `time_loading` has not seen."""
        self._waited += seconds

    def count(self, images: int) -> float:
        """Adds trained images; gives the duration of the training so far in seconds."""
        self._images += images
        return time.perf_counter() - self._start

    def peek(self) -> tuple[float, float]:
        """(images per second, fraction of the time spent waiting for data) since the latest `read`."""
        elapsed = max(time.perf_counter() - self._last_read, 1e-9)
        return self._images / elapsed, self._waited / elapsed

    def read(self) -> tuple[float, float]:
        """The same as `peek`, and the next measurement begins."""
        measured = self.peek()
        self._last_read = time.perf_counter()
        self._images, self._waited = 0, 0.0
        return measured

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stops the clock inside the context, for example during an evaluation."""
        start = time.perf_counter()
        yield
        pause = time.perf_counter() - start
        self._start += pause
        self._last_read += pause


def usable_cores() -> int:
    """Number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def data_wait_advice(data_wait: float, workers: int, cores: int, cache: str) -> str | None:
    """What to change if a training waits for data more than a fifth of the time; None if it waits less.

    Args:
        data_wait: fraction of the time spent waiting for data.
        workers: data loader workers, `data.workers`.
        cores: CPU cores for this process and its workers.
        cache: `data.cache`.
    """
    if data_wait <= HIGH_DATA_WAIT:
        return None
    problem = f"training waits for data {data_wait:.0%} of the time"
    if workers < cores:
        # In units of the step time: one worker loads a batch in `loading`, and the model computes for `computing`.
        loading, computing = workers or data_wait, max(1 - data_wait, 0.01)
        enough = min(max(math.ceil(loading / computing), workers + 1), cores)
        return f"{problem}; raise data.workers from {workers} to {enough} ({cores} CPU cores are available)"
    problem += f", and {workers} workers already use all {cores} CPU cores"
    if cache == "none":
        return f"{problem}; set data.cache=memory or data.cache=disk, or store smaller images"
    return f"{problem}; store smaller images, or turn off slow augmentations"
