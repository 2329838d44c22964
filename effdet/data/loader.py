"""Samples to batches: the order of a run, and the processes that load ahead.

What a sample is stands in `data/dataset.py`.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate

from effdet.data.dataset import DetectionDataset, Sample
from effdet.errors import DataError
from effdet.structures import Batch, Target

Keys = list[tuple[int, int]]  # (epoch, row) of every sample of a batch


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
    dataset: DetectionDataset,
    batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    workers: int,
    pin_memory: bool,
) -> Generator[Batch, None, None]:
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
        DataError: an image is missing, broken, or of another size than annotated.
    """
    return _batches(dataset, TrainSampler(len(dataset), batch_size, seed, start_step, total_steps), workers, pin_memory)


def evaluation_batches(
    dataset: DetectionDataset, batch_size: int, workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    """All images once, in the order of the table; the last batch may be smaller. See `train_batches`."""
    rows = range(len(dataset))
    keys = [[(0, row) for row in rows[first : first + batch_size]] for first in rows[::batch_size]]
    return _batches(dataset, keys, workers, pin_memory)


def _batches(
    dataset: DetectionDataset, keys: Iterable[Keys], workers: int, pin_memory: bool
) -> Generator[Batch, None, None]:
    loader = DataLoader(
        dataset,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # else the loader draws from the global stream and a resumed run goes another way
    )
    # The iterator is held by this loop alone: when the loop is left, however, it goes and ends its processes.
    for packed in loader:
        if isinstance(packed, DataError):
            raise packed
        images, targets = packed
        yield Batch(images, tuple(_unpack(target) for target in targets))


# A tensor that crosses a process boundary holds an open file; arrays go by value. So targets, which are many and small,
# travel as arrays, and only the images as a tensor in shared memory.
_PackedTarget = tuple[NDArray[np.float32], NDArray[np.int64], int, tuple[int, int], tuple[float, float]]
_PackedBatch = tuple[Tensor, list[_PackedTarget]]


def _collate(samples: list[Sample | DataError]) -> _PackedBatch | DataError:
    images, targets = [], []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        image, target = sample
        images.append(image.permute(1, 2, 0))
        targets.append((target.boxes.numpy(), target.labels.numpy(), target.index, target.size, target.scale))
    # Stacked as they lie in memory, [B, H, W, 3], and seen as [B, 3, H, W]: the channels_last layout without a copy.
    return default_collate(images).permute(0, 3, 1, 2), targets


def _unpack(packed: _PackedTarget) -> Target:
    boxes, labels, index, size, scale = packed
    return Target(torch.from_numpy(boxes), torch.from_numpy(labels), index, size, scale)


def _start_worker(worker: int) -> None:
    """Settle a loader process: one thread, and Ctrl-C left to the main process."""
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
