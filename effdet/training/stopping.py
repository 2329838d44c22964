"""When a training stops before its end: Ctrl-C, SIGTERM, or the time limit.

What is saved then is decided in `engine.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Generator, Iterator
from types import FrameType
from typing import Literal, TypeVar

from effdet.distributed import Processes
from effdet.errors import DataError

BatchType = TypeVar("BatchType")
LONGEST_WAIT = 20.0  # seconds for a batch after the request to stop
Ending = Literal["finished", "interrupted", "terminated", "out of time"]
REASONS: tuple[Ending, ...] = ("terminated", "interrupted", "out of time")  # the first wins where processes differ


class StopRequest:
    """Whether, and why, a training should stop after the current step."""

    def __init__(self, max_hours: float | None) -> None:
        self._deadline = None if max_hours is None else time.monotonic() + 3600 * max_hours
        self._reason: Ending | None = None
        self._waits_for_batch = self._ends_at_once = False

    @property
    def reason(self) -> Ending | None:
        """Why this process was asked to stop; None if it was not."""
        if self._reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self._reason = "out of time"
        return self._reason

    def agreed(self, processes: Processes) -> Ending | None:
        """Why all processes should stop; all of them must call this."""
        urgency = 0 if self.reason is None else len(REASONS) - REASONS.index(self.reason)
        highest = processes.all_reduce_max(urgency)
        return REASONS[len(REASONS) - highest] if highest else None

    def batches(self, batches: Generator[BatchType, None, None]) -> Generator[BatchType, None, None]:
        """The batches; after a signal the loader has `LONGEST_WAIT` seconds for the next one.

        Raises:
            DataError: it gave none.
        """
        with contextlib.closing(batches):
            while True:
                self._waits_for_batch = True
                try:
                    batch = next(batches, None)
                finally:
                    self._waits_for_batch = False
                if batch is None:
                    return
                yield batch

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the first signal: the current step finishes and is saved. A second Ctrl-C ends the run at once."""
        if number == signal.SIGINT and self._reason == "interrupted":
            if self._ends_at_once:  # what ends it must not be interrupted
                return
            self._ends_at_once = True
            raise KeyboardInterrupt
        if self._reason is None and _HAS_TIMER:
            signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)
        self._reason = "interrupted" if number == signal.SIGINT else "terminated"
        if os.environ.get("RANK", "0") == "0":  # set by torchrun
            again = ", Ctrl-C again to stop at once" if number == signal.SIGINT else ""
            # Directly, because a print must not be interrupted by another one.
            os.write(2, f"stopping after this step{again}\n".encode())

    def give_up(self, number: int, frame: FrameType | None) -> None:
        """Ends the wait for a batch; in a step or an evaluation nothing happens.

        Raises:
            DataError: the run waits for a batch.
        """
        if self._waits_for_batch:
            raise DataError(
                f"the loader gave no batch within {LONGEST_WAIT:g} seconds after the signal to stop; check whether the "
                "disk or the network drive with the images still responds"
            )
        signal.setitimer(signal.ITIMER_REAL, LONGEST_WAIT)


_HAS_TIMER = hasattr(signal, "setitimer")  # Windows has none


@contextlib.contextmanager
def stop_request(max_hours: float | None) -> Iterator[StopRequest]:
    """Turns Ctrl-C, SIGTERM and a time limit into a request while the context lasts."""
    request = StopRequest(max_hours)
    before = {number: signal.signal(number, request.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    if _HAS_TIMER:
        before[signal.SIGALRM] = signal.signal(signal.SIGALRM, request.give_up)
    try:
        yield request
    finally:
        if _HAS_TIMER:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
