"""Samples to batches: the order of a run, and the processes that load ahead.

What a sample is stands with the data sets, in `data/dataset.py` and `data/classify.py`.
"""

from __future__ import annotations

import functools
import signal
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from effdet.errors import DataError

Keys = list[tuple[int, int]]  # (epoch, row) of every sample of a batch
BatchType = TypeVar("BatchType", covariant=True)


class BatchSource(Protocol[BatchType]):
    """What the loader asks of a data set, whose samples are tuples that begin with an image, uint8 [3, H, W].

    A tensor that crosses a process boundary holds an open file; arrays go by value. So only the images travel as a
    tensor in shared memory, and what belongs to them, which is many and small, is packed as arrays and plain values.
    """

    def __len__(self) -> int:
        """Rows of the table."""

    def __getitem__(self, key: tuple[int, int]) -> Any:
        """Sample of (epoch, row); or the DataError that says what is wrong with the file."""

    def pack(self, samples: list[Any]) -> Any:
        """All of the samples but their images, without tensors."""

    def unpack(self, images: Tensor, packed: Any) -> BatchType:
        """Batch of images [B, 3, H, W] and of what `pack` gave for them."""


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Batches of an epoch: full ones only, and a single smaller one where the data set is smaller than a batch."""
    return max(num_images // batch_size, 1)


class TrainSampler(Sampler[Keys]):
    """The batches of a whole run, from `start_step` on, each a list of (epoch, row).

    The order of an epoch is a function of the seed and the epoch alone, so a run that starts later continues the same
    sequence. What does not fill a batch at the end of an epoch is left out, other images each time.

    Attributes:
        num_images: rows of the table.
        batch_size: images of a batch.
        seed: seed of the order.
        start_step: first batch that is given, counted from the beginning of the run.
        total_steps: batches of the whole run.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int, start_step: int, total_steps: int) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.seed = seed
        self.start_step = start_step
        self.total_steps = total_steps

    def __len__(self) -> int:
        return max(self.total_steps - self.start_step, 0)

    def __iter__(self) -> Iterator[Keys]:
        steps = steps_per_epoch(self.num_images, self.batch_size)
        current, order = -1, []
        for step in range(self.start_step, self.total_steps):
            epoch, position = divmod(step, steps)
            if epoch != current:
                current, order = epoch, epoch_order(self.num_images, self.seed, epoch).tolist()
            first = position * self.batch_size
            yield [(epoch, index) for index in order[first : first + self.batch_size]]


def epoch_order(num_images: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order of the rows in an epoch, [I]."""
    # The spawn key keeps this stream apart from those of the samples, which are seeded with (seed, epoch, row).
    sequence = np.random.SeedSequence([seed, epoch], spawn_key=(1,))
    return np.random.Generator(np.random.PCG64(sequence)).permutation(num_images)


def train_batches(
    dataset: BatchSource[BatchType],
    batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    workers: int,
    pin_memory: bool,
) -> Generator[BatchType, None, None]:
    """The batches of a run from `start_step` on, the same for any number of workers.

    Args:
        dataset: where the samples come from.
        batch_size: images of a batch.
        seed: seed of the order of the images.
        start_step: first batch, counted from the beginning of the run.
        total_steps: batches of the whole run.
        workers: processes that load ahead, for the whole run; 0 loads in this one.
        pin_memory: whether the images come in page-locked memory, for the way to a GPU.

    Raises:
        DataError: an image is missing, broken, or not as annotated.
    """
    return _batches(dataset, TrainSampler(len(dataset), batch_size, seed, start_step, total_steps), workers, pin_memory)


def evaluation_batches(
    dataset: BatchSource[BatchType], batch_size: int, workers: int, pin_memory: bool
) -> Generator[BatchType, None, None]:
    """All images once, in the order of the table; the last batch may be smaller. See `train_batches`."""
    rows = range(len(dataset))
    keys = [[(0, row) for row in rows[first : first + batch_size]] for first in rows[::batch_size]]
    return _batches(dataset, keys, workers, pin_memory)


def _batches(
    dataset: BatchSource[BatchType], keys: Iterable[Keys], workers: int, pin_memory: bool
) -> Generator[BatchType, None, None]:
    loader = DataLoader(
        cast("Dataset[Any]", dataset),
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=functools.partial(_collate, dataset),
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else the loader draws from the global stream and a resumed run goes another way
    )
    # The iterator is held by this loop alone: when the loop is left, however, it goes and ends its processes.
    for loaded in loader:
        if isinstance(loaded, DataError):
            raise loaded
        yield dataset.unpack(*loaded)


def _collate(dataset: BatchSource[BatchType], samples: list[Any]) -> tuple[Tensor, Any] | DataError:
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
    # Stacked as they lie in memory, [B, H, W, 3], and seen as [B, 3, H, W]: the channels_last layout without a copy.
    images = default_collate([image.permute(1, 2, 0) for image, *_ in samples]).permute(0, 3, 1, 2)
    return images, dataset.pack(samples)


def _start_worker(worker: int) -> None:
    """Settle a loader process: one thread, and Ctrl-C left to the main process."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
