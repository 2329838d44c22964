"""The progress of a run on the screen: a live bar in a terminal, one line per record in a file.

Files with the same numbers are written by `logs.py`; what is printed when a run ends is in `ending.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn
from rich.text import Text

from effdet.report.curves import HIGH_DATA_WAIT

_MIN_STEPS, _MIN_SECONDS = 20, 30  # either is enough to estimate the data wait of a run
# Seconds after which the progress is shown before the next record is due: in a file, and in a terminal.
_LINE_EVERY, _BAR_EVERY = 60.0, 2.0


class ProgressBar:
    """Steps, epochs, remaining time and metrics: a bar in a terminal, lines in a file.

    Prints one advice if the run waits too long for data, as soon as enough steps show it. The first record does not
    count, because it contains the start of the workers.
    """

    def __init__(
        self,
        console: Console,
        weights: Mapping[str, float],
        total_steps: int,
        epochs: int,
        step: int,
        evaluations: Sequence[float] = (),
        evaluations_left: Callable[[int], int] = lambda step: 0,
        advise: Callable[[float], str | None] | None = None,
    ) -> None:
        """A bar that starts at a step.

        Args:
            console: where it is shown.
            weights: of the terms of the loss, by name.
            total_steps: steps of the run.
            epochs: epochs of the run.
            step: completed steps.
            evaluations: seconds of the evaluations so far; the list grows while the run goes on.
            evaluations_left: how many evaluations follow after a step.
            advise: gives the advice for a fraction of the time spent waiting for data, see `data_wait_advice`.
        """
        self.console, self.weights, self.advise = console, weights, advise
        self.total_steps, self.epochs = total_steps, epochs
        self.evaluations, self.evaluations_left = evaluations, evaluations_left
        self._started: tuple[int, float] | None = None  # (step, seconds) after the first step, which starts the workers
        self._now = (step, 0.0)
        self._shown: float | None = None  # when metrics were shown last
        self._first: dict[str, float] | None = None  # the record from which the data wait is averaged
        self._waited = 0.0  # seconds since then
        self._latest: dict[str, float] | None = None
        self._bar = Progress(
            BarColumn(bar_width=None), TextColumn("{task.description}", markup=False), console=console, expand=True
        )
        self._task = self._bar.add_task(f"step {step} of {total_steps}", total=total_steps, completed=step)
        self._metrics = Text("computing the first step")
        self._live = Live(Group(self._bar, self._metrics), console=console) if console.is_terminal else None

    def __enter__(self) -> ProgressBar:
        if self._live is not None:
            self._live.start()
        else:
            self.console.print(self._metrics)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def advance(self, step: int, epoch: int, seconds: float) -> None:
        """Moves the bar.

        Args:
            step: completed steps.
            epoch: the epoch of the newest one.
            seconds: duration of the training so far, without evaluations.
        """
        self._now = step, seconds
        self._started = self._started or self._now
        self._bar.update(self._task, completed=step, description=self._place(step, epoch))

    def is_due(self) -> bool:
        """Whether metrics should be shown before the next record: after the first step, and then at times."""
        every = _BAR_EVERY if self.console.is_terminal else _LINE_EVERY
        return self._shown is None or time.perf_counter() - self._shown >= every

    def remaining_seconds(self) -> float | None:
        """Estimated seconds until the end with the evaluations; None as long as there is only the first step."""
        (first, started), (step, now) = self._started or self._now, self._now
        if step == first:
            return None
        evaluation = sum(self.evaluations) / len(self.evaluations) if self.evaluations else 0.0
        return (self.total_steps - step) * (now - started) / (step - first) + self.evaluations_left(step) * evaluation

    def show(self, metrics: Mapping[str, float]) -> None:
        """Shows the metrics of the newest steps; of a record with `show_record`."""
        self._shown = time.perf_counter()
        text = metrics_text(metrics, self.weights)
        if self._live is not None:
            self._metrics.plain = text
        else:
            self.console.print(f"{self._place(int(metrics['step']), int(metrics['epoch']))}  {text}")

    def show_record(self, record: dict[str, float]) -> None:
        """Shows a record of the log, and prints the advice on the data wait once there is one."""
        self.show(record)
        self._check_data_wait(record)

    def _place(self, step: int, epoch: int) -> str:
        """Where the run is, and how long it will still last."""
        left = None if step >= self.total_steps else self.remaining_seconds()
        ending = "" if left is None else f", ETA {duration_text(left, rough=True)}"
        return f"step {step} of {self.total_steps}, epoch {epoch} of {self.epochs}{ending}"

    def _check_data_wait(self, record: dict[str, float]) -> None:
        """Averages the data wait over enough steps, and prints the advice if there is one."""
        if self.advise is None:
            return
        first, latest, self._latest = self._first, self._latest, record
        if first is None or latest is None:
            self._first = record
            return
        self._waited += record["data_wait"] * (record["seconds"] - latest["seconds"])
        steps, seconds = record["step"] - first["step"], record["seconds"] - first["seconds"]
        if steps < _MIN_STEPS and seconds < _MIN_SECONDS:
            return
        advice = self.advise(self._waited / max(seconds, 1e-9))
        if advice is not None:
            self.console.print(advice, style="yellow")
            self.advise = None
        self._first, self._waited = record, 0.0


def metrics_text(metrics: Mapping[str, float], weights: Mapping[str, float]) -> str:
    """Losses, learning rate and speed in a line. The terms of the loss are weighted, so that they add up to it.

    Args:
        metrics: a record of the log, whose terms are unweighted.
        weights: of the terms by name, in the order in which they are shown.
    """
    digits = 3 if abs(metrics["loss"]) >= 0.1 else 5
    terms = [
        f"{name.removesuffix('_loss')} {weight * metrics[name]:.{digits}f}"
        for name, weight in weights.items()
        if name in metrics
    ]
    loss = f"loss {metrics['loss']:.{digits}f}" + (f" = {' + '.join(terms)}" if terms else "")
    speed = f"lr {metrics['learning_rate']:.2e}  {metrics['images_per_second']:.1f} images/s"
    wait = metrics["data_wait"]
    return f"{loss}  {speed}" + (f"  data wait {wait:.0%}" if wait > HIGH_DATA_WAIT else "")


def duration_text(seconds: float, rough: bool = False) -> str:
    """A duration in its two largest units: "45 s", "12 min 3 s", "3 h 20 min", "2 d 4 h".

    Args:
        seconds: the duration.
        rough: whether seconds are left out from two minutes on.
    """
    whole = max(math.floor(seconds + 0.5), 0)
    if rough and whole >= 120:
        whole = 60 * math.floor(whole / 60 + 0.5)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        units = ((days, "d"), (hours % 24, "h"))
    elif hours:
        units = ((hours, "h"), (minutes % 60, "min"))
    elif minutes:
        units = ((minutes, "min"), (whole % 60, "s"))
    else:
        return f"{whole} s"
    return " ".join(f"{count} {unit}" for count, unit in units if count)
