"""Samples to batches: the processes that load ahead, what happens when one dies, and the way to the GPU.

Which samples make a batch is in `data/sampling.py`; what a sample is stands with the data sets, in `data/dataset.py`
and `data/classify.py`.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from effdet.data.sampling import Key, TrainOrder, rank_share
from effdet.errors import DataError
from effdet.structures import Batch, LabelBatch

LONGEST_WAIT = 600.0  # seconds for a batch of the loader processes
DYING = 1.0  # seconds in which a process whose connection broke is seen to end

BatchType = TypeVar("BatchType", covariant=True)
Movable = TypeVar("Movable", bound=Batch | LabelBatch)


class BatchSource(Protocol[BatchType]):
    """What the loader asks of a data set, whose samples are tuples that begin with an image, uint8 [3, H, W].

    A tensor that crosses a process boundary holds an open file; arrays go by value. So only the images travel as a
    tensor in shared memory, and what belongs to them, which is many and small, is packed as arrays and plain values.
    """

    def __len__(self) -> int:
        """Rows of the table."""

    def __getitem__(self, key: Key) -> Any:
        """Sample of a key; or the DataError that says what is wrong with the file."""

    def pack(self, samples: list[Any]) -> Any:
        """All of the samples but their images, without tensors."""

    def unpack(self, images: Tensor, packed: Any) -> BatchType:
        """Batch of images [B, 3, H, W] and of what `pack` gave for them."""


def train_batches(
    dataset: BatchSource[BatchType],
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
        dataset: where the samples come from.
        order: which samples make the batches.
        start_step: first batch, counted from the beginning of the run.
        total_steps: batches of the whole run.
        workers: processes that load ahead, for the whole run; 0 loads in this one.
        pin_memory: whether the images come in page-locked memory, for the way to a GPU.
        rank: which of `world_size` processes this is, each of which gets its part of every batch.
        world_size: processes that train together.

    Raises:
        ConfigError: the processes cannot share a batch equally.
        DataError: an image is missing, broken, or not as annotated; or a loader process dies or hangs.
    """
    order.check_processes(world_size)
    keys = (rank_share(batch, rank, world_size) for batch in order.batches(start_step, total_steps))
    return _batches(dataset, keys, workers, pin_memory)


def evaluation_batches(
    dataset: BatchSource[BatchType],
    batch_size: int,
    workers: int,
    pin_memory: bool,
    rank: int = 0,
    world_size: int = 1,
) -> Generator[BatchType, None, None]:
    """All images once, in the order of the table; the last batch may be smaller. See `train_batches`.

    Of several processes each gets every `world_size`-th batch, whole and as one process would see it, some one batch
    fewer than others or none at all.
    """
    rows = range(len(dataset))
    firsts = rows[::batch_size][rank::world_size]
    keys = [[Key(0, row) for row in rows[first : first + batch_size]] for first in firsts]
    return _batches(dataset, keys, workers, pin_memory)


def prefetch_to_device(batches: Generator[Movable, None, None], device: torch.device) -> Generator[Movable, None, None]:
    """Batches on `device`: to a GPU each is copied while the one before is computed; for others, as they come."""
    return _prefetch(batches, device) if device.type == "cuda" else batches


def _prefetch(batches: Generator[Movable, None, None], device: torch.device) -> Generator[Movable, None, None]:
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with contextlib.closing(batches):
        following = _copied(batches, device, copying)
        while following is not None:
            batch = following
            torch.cuda.current_stream(device).wait_stream(copying)
            following = _copied(batches, device, copying)
            yield batch


def _copied(batches: Iterator[Movable], device: torch.device, copying: torch.cuda.Stream) -> Movable | None:
    """The next batch on its way to the GPU."""
    batch = next(batches, None)
    if batch is None:
        return None
    # Its memory may have been that of a batch that is still computed with: what is queued so far comes first.
    copying.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(copying):
        return batch.to(device)  # type: ignore[return-value]


def _batches(
    dataset: BatchSource[BatchType], keys: Iterable[list[Key]], workers: int, pin_memory: bool
) -> Generator[BatchType, None, None]:
    # A forkserver, Linux's default from Python 3.14 on, shares no memory, and its processes die without telling us.
    forked = workers > 0 and multiprocessing.get_start_method() == "forkserver"
    loader = DataLoader(
        cast("Dataset[Any]", dataset),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=functools.partial(_collate, dataset),
        pin_memory=pin_memory,
        timeout=LONGEST_WAIT if workers else 0,
        multiprocessing_context="fork" if forked else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else the loader draws from the global stream and a resumed run goes another way
    )
    others = multiprocessing.active_children()
    iterator = iter(loader)
    processes = [process for process in multiprocessing.active_children() if process not in others]
    with _watched(processes) as waiting:
        try:
            while (loaded := _next(iterator, processes, waiting)) is not None:
                if isinstance(loaded, DataError):
                    raise loaded
                yield dataset.unpack(*loaded)
        finally:
            processes.clear()  # what ends from now on does so because it is told to
            del iterator  # the only one who holds it: it goes and ends its processes, however the loop is left


def _next(iterator: Iterator[Any], processes: Sequence[BaseProcess], waiting: threading.Event) -> Any:
    """What the loader gives next, None at its end; or the error that tells why nothing comes."""
    started = time.monotonic()
    try:
        waiting.set()
        dead = [process for process in processes if process.exitcode]
        return DataError(_death(dead)) if dead else next(iterator, None)
    except DataError as error:
        return DataError(str(error))  # without the frames of the first, which hold the iterator
    except (RuntimeError, OSError, EOFError):
        waited = time.monotonic() - started
        ended = connection.wait([process.sentinel for process in processes], DYING)
        dead = [process for process in processes if process.sentinel in ended]
        for process in dead:
            process.join()
        if dead:
            return DataError(_death(dead))
        if processes and waited >= LONGEST_WAIT:
            return DataError(
                f"the loader processes gave no batch within {LONGEST_WAIT / 60:g} minutes; see whether the disk or the "
                "network drive with the images still answers"
            )
        raise
    finally:
        waiting.clear()


@contextlib.contextmanager
def _watched(processes: Sequence[BaseProcess]) -> Iterator[threading.Event]:
    """An event to be set while this process waits for `processes`; when one of them dies then, a DataError is raised.

    PyTorch has a handler of the signal for this, which raises a RuntimeError wherever the main process is, even in the
    middle of a step; this one goes before it.
    """
    waiting = threading.Event()
    if not processes or not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    before = signal.getsignal(signal.SIGCHLD)

    def handle(number: int, frame: FrameType | None) -> None:
        dead = [process for process in processes if process.exitcode]
        if dead and waiting.is_set():
            raise DataError(_death(dead))
        if not dead and callable(before):
            before(number, frame)

    signal.signal(signal.SIGCHLD, handle)
    try:
        yield waiting
    finally:
        if signal.getsignal(signal.SIGCHLD) is handle:
            signal.signal(signal.SIGCHLD, before)


def _death(dead: Sequence[BaseProcess]) -> str:
    """Message about loader processes that died: which, how, and what to do."""
    codes = [process.exitcode or 0 for process in dead]
    how = ", ".join(
        f"{process.pid}: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        for process, code in zip(dead, codes, strict=True)
    )
    if -signal.SIGKILL in codes:
        advice = "most likely memory ran out: lower data.workers or train.batch_size"
    elif -signal.SIGBUS in codes:
        advice = "most likely shared memory ran out: lower data.workers, or give a container more with --shm-size=8g"
    else:
        advice = "data.workers=0 loads in the main process and shows where it happens"
    return f"{len(dead)} of the loader processes died (process {how}); {advice}"


def _collate(dataset: BatchSource[BatchType], samples: list[Any]) -> tuple[Tensor, Any] | DataError:
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    # Stacked as they lie in memory, [B, H, W, 3], and seen as [B, 3, H, W]: the channels_last layout without a copy.
    images = default_collate([image.permute(1, 2, 0) for image, *_ in samples]).permute(0, 3, 1, 2)
    return images, dataset.pack(samples)


def _start_worker(worker: int) -> None:
    """Settle a loader process: one thread, and the signals to all of a group left to the main process."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # elsewhere nothing tells who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_leave_when_told, args=(os.getppid(),), daemon=True).start()
    cv2.setNumThreads(0)


def _leave_when_told(parent: int) -> None:
    """Ends the process on the parent's SIGTERM, but not on that of others, after which the parent still saves."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
