"""A model that is measured in a process of its own, so that memory, threads and crashes are its own.

What the process measures is in `measuring.py`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from effdet.errors import EffdetError
from effdet.inference.benchmark.inputs import Subject
from effdet.inference.benchmark.measuring import Facts, MeasuredModel, Stage
from effdet.inference.benchmark.settings import Settings


class ModelProcess:
    """The same methods as `MeasuredModel`, computed by another process; a context manager that ends the process.

    Attributes:
        subject: the model.
        facts: what is known about it.
    """

    facts: Facts

    def __init__(self, subject: Subject, image: Path, settings: Settings) -> None:
        """Starts the process, opens the model in it and runs the warm-up.

        Raises:
            EffdetError: the model cannot be opened or run.
        """
        self.subject = subject
        context = multiprocessing.get_context("spawn")
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, subject.weights, image, settings), daemon=True)
        self._process.start()
        other.close()
        try:
            self.facts = self._answer()
        except BaseException:
            self.close()
            raise

    def latency(self, runs: int | None, seconds: float) -> dict[Stage, list[float]]:
        """See `MeasuredModel`."""
        samples: dict[Stage, list[float]] = self._ask("latency", runs, seconds)
        return samples

    def throughput(self, runs: int | None, seconds: float) -> float:
        """See `MeasuredModel`."""
        rate: float = self._ask("throughput", runs, seconds)
        return rate

    def memory(self) -> tuple[int, int | None]:
        """See `MeasuredModel`."""
        growth: tuple[int, int | None] = self._ask("memory")
        return growth

    def __enter__(self) -> ModelProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, *request: Any) -> Any:
        self._connection.send(request)
        return self._answer()

    def _answer(self) -> Any:
        """What the process sends.

        Raises:
            EffdetError: it sent an error that a user can fix, or it crashed.
        """
        try:
            result, message = self._connection.recv()
        except EOFError:
            self._process.join()
            status = self._process.exitcode or 0  # below 0: a signal
            cause = "the system may have run out of memory" if status < 0 else "see the error above"
            raise EffdetError(
                f"{self.subject.name}: its process ended with exit status {status} while it was measured; {cause}"
            ) from None
        if message is not None:
            raise EffdetError(message if self.subject.name in message else f"{self.subject.name}: {message}")
        return result


def _serve(connection: Connection, weights: str, image: Path, settings: Settings) -> None:
    """Opens the model and measures what it is asked for, until the other end is closed."""
    try:
        _use_threads(settings.threads)
        model = MeasuredModel(weights, image, settings)
        connection.send((model.facts, None))
        methods: dict[str, Callable[..., Any]] = {
            "latency": model.latency,
            "throughput": model.throughput,
            "memory": model.memory,
        }
        while True:
            method, *arguments = connection.recv()
            connection.send((methods[method](*arguments), None))
    except (EOFError, KeyboardInterrupt, BrokenPipeError):  # the benchmark is over, or was interrupted
        return
    except EffdetError as error:
        connection.send((None, str(error)))


def _use_threads(threads: int | None) -> None:
    """Limits the CPU threads of PyTorch and of OpenCV; those of another runtime are limited when it opens the file."""
    if threads is not None:
        import torch

        from effdet.opencv import cv2

        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
