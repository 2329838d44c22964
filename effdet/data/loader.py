"""Samples to batches: the loader processes, errors when one of them dies, and prefetching to the GPU.

Which samples make a batch is in `train_order.py`; the samples are made by the data sets, see `dataset.py`.
"""

from __future__ import annotations

import functools
import multiprocessing
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from effdet.data.dataset import BatchType, ImageDataset
from effdet.data.loader_processes import (
    ENDING,
    can_send_tensors,
    check_start,
    death,
    killed_after,
    lacks_descriptors,
    start_advice,
    start_worker,
    watched,
)
from effdet.data.train_order import Key, TrainOrder, per_process
from effdet.errors import DataError

LONGEST_WAIT = 600.0  # seconds for a batch of the loader processes
DYING = 1.0  # seconds within which a process whose connection broke ends


def train_batches(
    dataset: ImageDataset[Any, BatchType],
    order: TrainOrder,
    start_step: int,
    total_steps: int,
    workers: int,
    pin_memory: bool,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[BatchType, None, None]:
    """The batches of a run from `start_step` on, the same for any number of workers.

    Args:
        dataset: makes the samples.
        order: which samples make the batches.
        start_step: first batch, counted from the beginning of the run.
        total_steps: batches of the whole run.
        workers: loader processes, for the whole run; 0 loads in this one.
        pin_memory: whether the images are in page-locked memory, for copying to a GPU.
        rank: which of `world_size` processes this is; each gets its per-process batch of every batch.
        world_size: processes that train together.

    Raises:
        ConfigError: the batch cannot be divided equally among the processes.
        DataError: an image is missing, broken, or not as annotated; or a loader process dies or hangs.
    """
    order.check_processes(world_size)
    keys = (per_process(batch, rank, world_size) for batch in order.batches(start_step, total_steps))
    return _batches(dataset, keys, workers, pin_memory)


def evaluation_batches(
    dataset: ImageDataset[Any, BatchType],
    batch_size: int,
    workers: int,
    pin_memory: bool,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[BatchType, None, None]:
    """All images once, in the order of the table; the last batch may be smaller. See `train_batches`.

    Of several processes each gets every `world_size`-th batch, the same as with one process; some get one batch fewer
    than others or none at all.
    """
    rows = range(len(dataset))
    firsts = rows[::batch_size][rank::world_size]
    keys = [[Key(0, row) for row in rows[first : first + batch_size]] for first in firsts]
    return _batches(dataset, keys, workers, pin_memory)


class Prefetch(Generic[BatchType]):
    """The batches of a run on its device; on a GPU the next one is copied and prepared while a step is computed.

    Other devices get each batch as it is, when it is asked for.
    """

    def __init__(
        self,
        batches: Generator[BatchType, None, None],
        device: torch.device,
        prepare: Callable[[BatchType, int], Any] = lambda batch, _: batch,
        first_step: int = 0,
    ) -> None:
        """Nothing is loaded yet.

        Args:
            batches: in host memory, page-locked for a GPU.
            device: where they are needed.
            prepare: what else is done with a batch of a step on a GPU, beside the computation of the step before.
            first_step: step of the first batch.
        """
        self._batches, self._device, self._prepare, self._step = batches, device, prepare, first_step
        # Its few kernels go first, so that waiting for them is short.
        self._copying = _urgent_stream(device) if device.type == "cuda" else None
        self._following: Any = None
        self._error: DataError | None = None
        self._current: Any = None  # keeps its memory until another batch is asked for
        self._handed_out: torch.cuda.Event | None = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._copying is None:
            return next(self._batches)
        if self._following is None:
            self.fetch()
        if self._error is not None:
            raise self._error
        if self._following is None:
            raise StopIteration
        computing = torch.cuda.current_stream(self._device)
        computing.wait_stream(self._copying)
        self._handed_out = computing.record_event()
        self._current, self._following = self._following, None
        return self._current

    def fetch(self) -> float:
        """Copies the next batch to the GPU and prepares it, without waiting for the step that is computed there.

        Returns:
            Seconds in which no batch was there yet.
        """
        if self._copying is None or self._following is not None:
            return 0.0
        started = time.perf_counter()
        try:
            batch = next(self._batches, None)
        except DataError as error:  # belongs to the next step
            self._error = error
            batch = None
        waited = time.perf_counter() - started
        if batch is not None:
            with torch.cuda.stream(self._copying):
                # It may reuse the memory of batches before the newest one, whose computation was queued before that.
                if self._handed_out is not None:
                    self._copying.wait_event(self._handed_out)
                self._following = self._prepare(batch.to(self._device), self._step)  # type: ignore[arg-type]
            self._step += 1
        return waited

    def close(self) -> None:
        """Ends the loader processes."""
        self._batches.close()


def _urgent_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


def _batches(
    dataset: ImageDataset[Any, BatchType], keys: Iterable[list[Key]], workers: int, pin_memory: bool
) -> Generator[BatchType, None, None]:
    # A forkserver, Linux's default from Python 3.14 on, shares no memory, and its processes die without a signal.
    forked = workers > 0 and multiprocessing.get_start_method() == "forkserver"
    loader = DataLoader(
        dataset,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=functools.partial(_collate, dataset, workers == 0 or can_send_tensors()),
        pin_memory=pin_memory,
        timeout=LONGEST_WAIT if workers else 0,
        multiprocessing_context="fork" if forked else None,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else the loader draws from the global stream, and a resumed run would differ
    )
    others = multiprocessing.active_children()
    iterator = _started(loader, workers)
    processes = [process for process in multiprocessing.active_children() if process not in others]
    with watched(processes) as waiting:
        try:
            while (loaded := _next(iterator, processes, waiting)) is not None:
                if isinstance(loaded, DataError):
                    raise loaded
                images, targets = loaded
                yield dataset.unpack(_as_tensor(images), targets)
        finally:
            with killed_after(ENDING, [*processes]):
                processes.clear()  # those that end from now on were stopped by us
                del iterator  # the last reference: its processes end, however the loop is left


def _started(loader: DataLoader[Any], workers: int) -> Iterator[Any]:
    """The iterator of a loader, whose processes are started.

    Raises:
        DataError: they cannot be started.
    """
    try:
        check_start(workers)
        return iter(loader)
    except OSError as error:
        raise DataError(
            f"the {workers} loader processes cannot be started ({error.strerror}); {start_advice(error)}"
        ) from None


def _next(iterator: Iterator[Any], processes: Sequence[BaseProcess], waiting: threading.Event) -> Any:
    """The next batch of the loader, None at its end; or an error that explains why none comes."""
    started = time.monotonic()
    try:
        waiting.set()
        dead = [process for process in processes if process.exitcode]
        return DataError(death(dead)) if dead else next(iterator, None)
    except DataError as error:
        return DataError(str(error))  # without the frames of the original, which refer to the iterator
    except (RuntimeError, OSError, EOFError) as error:
        waited = time.monotonic() - started
        ended = connection.wait([process.sentinel for process in processes], DYING)
        dead = [process for process in processes if process.sentinel in ended]
        for process in dead:
            process.join()
        if dead:
            return DataError(death(dead))
        if processes and waited >= LONGEST_WAIT:
            return DataError(
                f"the loader processes gave no batch within {LONGEST_WAIT / 60:g} minutes; check whether the disk or "
                "the network drive with the images still responds"
            )
        if processes and lacks_descriptors(error):
            return DataError(
                f"too many open files with {len(processes)} loader processes; raise the limit with ulimit -n 4096, or "
                "lower data.workers"
            )
        raise
    except (KeyboardInterrupt, SystemExit):  # their tracebacks keep the iterator, so it does not end its processes
        waiting.clear()
        for process in processes:
            process.kill()
        for process in processes:
            process.join(DYING)  # while the handler of their deaths is still ours
        raise
    finally:
        waiting.clear()


def _as_tensor(images: Tensor | NDArray[Any]) -> Tensor:
    """The images of `_collate`, [B, 3, H, W]."""
    return images if isinstance(images, Tensor) else torch.from_numpy(images).permute(0, 3, 1, 2)


def _collate(
    dataset: ImageDataset[Any, BatchType], as_tensor: bool, samples: list[Any]
) -> tuple[Tensor | NDArray[Any], Any] | DataError:
    """The images and targets of a batch, or the error of an image; the images as an array where no tensor can be sent.

    An array goes through a pipe, which is slower than shared memory.
    """
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    # Stacked as they are in memory, [B, H, W, 3], and viewed as [B, 3, H, W]: channels_last without a copy.
    last = [image.permute(1, 2, 0) for image, _ in samples]
    targets = dataset.pack([target for _, target in samples])
    try:
        if as_tensor:
            return default_collate(last).permute(0, 3, 1, 2), targets
    except RuntimeError as error:  # /dev/shm is full, which has 64 MB in many containers
        if "shared memory" not in str(error):
            raise
    return np.stack([image.numpy() for image in last]), targets
