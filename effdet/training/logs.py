"""What a run tells: log.jsonl and log.csv in its folder, and a progress line in the terminal.

Both files are only ever appended to, so that a resumed run continues them.
"""

from __future__ import annotations

import contextlib
import csv
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from effdet.files import write_text

Record = dict[str, float]
BatchType = TypeVar("BatchType")


class RunLog:
    """The two log files of a run: a line of training figures or of metrics at a time.

    JSON lines hold what a record has; the CSV has all columns, empty where a record has nothing to say.
    """

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
        self.jsonl, self.table = folder / "log.jsonl", folder / "log.csv"
        self.columns = (
            *("step", "epoch", "seconds", "learning_rate"),
            *losses,
            "gradient_norm",
            *settings,
            *("images_per_second", "data_wait"),
            *metrics,
        )

    def write(self, record: Record) -> None:
        """Appends one record to both files."""
        with self.jsonl.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        new = not self.table.exists()
        with self.table.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            if new:
                writer.writeheader()
            writer.writerow(record)

    def rewind(self, step: int) -> None:
        """Drops what was logged after a step, and a line that was cut off by a kill."""
        for path in (self.jsonl, self.table):
            if path.exists():
                lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
                kept = [line for line in lines if line.endswith("\n") and _step_of(line) <= step]
                if kept != lines:
                    write_text(path, "".join(kept))


def _step_of(line: str) -> int:
    """Step of a line of either file; 0 for the header of the table."""
    if line.startswith("{"):
        return int(json.loads(line)["step"])
    first = line.partition(",")[0]
    return int(first) if first.isdecimal() else 0


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


class ProgressLine:
    """A bar with the latest figures in a terminal, a line per record where the output is a file."""

    def __init__(self, console: Console, losses: Sequence[str], total_steps: int, step: int) -> None:
        self.console, self.losses = console, losses
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
