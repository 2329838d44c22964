"""The losses of a step on their way from a GPU to host memory; the step itself is in `step.py`."""

from __future__ import annotations

import time

import torch
from torch import Tensor


class Results:
    """A few numbers that a device computes, copied to host memory when it has finished them.

    On other devices than GPUs they are there at once.
    """

    def __init__(self, device: torch.device) -> None:
        """Begins the measurement of the computation that is queued from now on."""
        self._numbers: Tensor | None = None
        self._begun, self._begin_seconds = _event(device), time.perf_counter()
        self._done: torch.cuda.Event | None = None

    def send(self, numbers: Tensor) -> None:
        """Queues the copy of the numbers [N] and waits for nothing."""
        self._numbers = numbers
        if self._begun is not None:
            self._numbers = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True)
            self._numbers.copy_(numbers, non_blocking=True)
            self._done = _event(numbers.device)

    def read(self) -> list[float]:
        """The numbers; waits until the device has computed them."""
        assert self._numbers is not None
        if self._done is not None:
            self._done.synchronize()
        numbers: list[float] = self._numbers.tolist()
        return numbers

    def idle_seconds(self) -> float:
        """For how long a GPU has had nothing to compute since it finished them; 0 before, and on other devices."""
        if self._begun is None or self._done is None or not self._done.query():  # type: ignore[no-untyped-call]
            return 0.0
        computed: float = self._begun.elapsed_time(self._done) / 1000
        return max(time.perf_counter() - self._begin_seconds - computed, 0.0)


def _event(device: torch.device) -> torch.cuda.Event | None:
    """An event behind all that is queued on a GPU; None on other devices."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
