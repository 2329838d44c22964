"""The batches of a run as a function of its seed and the step: which rows, at which input size.

What a recipe asks for is turned into an order in `sampling.py`; the samples themselves are made by the data sets.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.errors import ConfigError

SIDE_STEP = 32  # sides of rectangular and scaled inputs are multiples of it
SMALLEST_SIDE = 64
SHARD_WINDOW = 8  # shards that are read at a time


class Key(NamedTuple):
    """What a data set is asked for.

    Attributes:
        epoch: counted from 0.
        row: of the table.
        size: (H, W) of the sample; None for the data set's own.
        copy: how often the row was drawn before in this epoch.
    """

    epoch: int
    row: int
    size: tuple[int, int] | None = None
    copy: int = 0

    def rng(self, seed: int) -> np.random.Generator:
        """Source of all that is random in the sample."""
        copy = [self.copy] if self.copy else []
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, self.epoch, self.row, *copy])))


@dataclass(frozen=True, eq=False)
class TrainOrder:
    """The batches of a run: a function of the seed and the step alone.

    So a run that starts later continues the same sequence, and every process knows the batches of all. An epoch has
    full batches only, or a single smaller one if it has fewer samples than a batch. Samples that do not fill a last
    batch are left out, other rows each epoch.

    Attributes:
        num_images: rows of the table.
        batch_size: samples of a batch, over all processes.
        seed: seed of the order.
        repeats: [I], how often a row is drawn in an epoch on average; None draws each once. A row is drawn as often as
            the number says, rounded down or up, and every epoch has the same number of samples.
        sizes: (H, W) of the input sizes that batches have, the configured one first; empty leaves the size to the data
            set.
        size_of_row: [I] int64, which of `sizes` a row has, the same in a whole batch; rows left over are batched at the
            first size. None for the first everywhere.
        scales: range of the factor of the sizes that is drawn for every step; None for none. It needs `sizes`.
        shards: [I], number from 0 of the file that holds a row; only a few neighbouring files are then read at a time.
            None for files of their own.
    """

    num_images: int
    batch_size: int
    seed: int
    repeats: NDArray[np.float64] | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    size_of_row: NDArray[np.int64] | None = None
    scales: tuple[float, float] | None = None
    shards: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        assert self.sizes or (self.scales is None and self.size_of_row is None)
        columns = self.repeats, self.shards, self.size_of_row
        assert all(column is None or len(column) == self.num_images for column in columns)

    @cached_property
    def num_samples(self) -> int:
        """Samples of an epoch, before those that do not fill a batch are left out."""
        if self._draws is None:
            return self.num_images
        certain, probability = self._draws
        return int(certain.sum()) + round(float(probability.sum()))

    @cached_property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return steps_per_epoch(self.num_samples, self.batch_size)

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows that are ever drawn, in ascending order."""
        return np.arange(self.num_images) if self.repeats is None else np.flatnonzero(self.repeats)

    def batches(self, start_step: int, total_steps: int) -> Iterator[list[Key]]:
        """The batches of the steps from `start_step` to before `total_steps`, counted from the beginning of the run."""
        current = -1
        for step in range(start_step, total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, (rows, groups) = epoch, self._epoch(epoch)
                copies = _occurrence(rows)
            size = self._size(step, int(groups[position]))
            drawn = zip(rows[position].tolist(), copies[position].tolist(), strict=True)
            yield [Key(epoch, row, size, copy) for row, copy in drawn]

    def smallest_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of the smallest samples; without `sizes` samples have `image_size`."""
        used = (
            set(self.sizes[:1]) if self.size_of_row is None else {self.sizes[index] for index in set(self.size_of_row)}
        )
        height, width = min(used or {image_size}, key=lambda size: size[0] * size[1])
        if self.scales is None:
            return height, width
        return _scaled_side(height, self.scales[0]), _scaled_side(width, self.scales[0])

    def check_processes(self, world_size: int) -> None:
        """Does nothing if every batch can be divided equally among processes.

        Raises:
            ConfigError: it cannot.
        """
        batch = min(self.batch_size, self.num_samples)
        if batch % world_size == 0:
            return
        if self.num_samples < world_size:
            raise ConfigError(
                f"{world_size} processes cannot share the {self.num_samples} training images; start fewer processes"
            )
        lower = batch // world_size * world_size
        if batch < self.batch_size:
            raise ConfigError(
                f"train.batch_size={self.batch_size} is more than an epoch's {batch} samples, which {world_size} "
                f"processes cannot share equally; set train.batch_size={lower}"
            )
        near = " or ".join(str(size) for size in (lower, lower + world_size) if 0 < size <= self.num_samples)
        raise ConfigError(
            f"train.batch_size={batch} is the batch of all processes together, and {world_size} processes cannot share "
            f"it equally; set train.batch_size to {near}"
        )

    @cached_property
    def _draws(self) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """[I] certain draws of a row, and [I] probability of one more, which add up to a whole number of samples.

        The probabilities are adjusted to a whole sum, each within 0..1.
        """
        if self.repeats is None:
            return None
        certain = np.floor(self.repeats)
        probability = self.repeats - certain
        total = float(probability.sum())
        rounded = round(total)
        if rounded < total:
            probability *= rounded / total
        elif rounded > total:
            uncertain = np.flatnonzero(probability)
            lacking, count = 1 - probability[uncertain], len(uncertain)
            probability[uncertain] = 1 - lacking * (count - rounded) / (count - total)
        return certain.astype(np.int64), probability

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of all batches of an epoch, [S, B], and the index of the size of each, [S]."""
        # The spawn key keeps this stream apart from those of the samples, which are seeded with (seed, epoch, row).
        rng = _stream(self.seed, epoch, 1)
        rows = self._samples(rng)
        rows = rows[rng.permutation(len(rows))]
        windows = None
        if self.shards is not None:
            shuffled = _stream(self.seed, epoch, 4).permutation(self.shards.max() + 1)
            windows = shuffled[self.shards] // SHARD_WINDOW
            rows = rows[np.argsort(windows[rows], kind="stable")]
        count = min(self.batch_size, len(rows))
        if self.size_of_row is None or len(self.sizes) == 1:
            batches = rows[: self.steps_per_epoch * count].reshape(-1, count)
            return batches, np.zeros(len(batches), np.int64)
        groups = _full_groups(self.size_of_row[rows], count)
        by_group, num_first = np.argsort(groups, kind="stable"), np.count_nonzero(groups == 0)
        kept = np.concatenate([by_group[: num_first - num_first % count], by_group[num_first:]])
        batches, groups = rows[kept].reshape(-1, count), groups[kept[::count]]
        order = rng.permutation(len(batches))
        if windows is not None:
            order = order[np.argsort(windows[batches[order]].max(axis=1), kind="stable")]
        return batches[order], groups[order]

    def _samples(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of an epoch's samples, [N], in no order.

        The uncertain ones are drawn by systematic resampling: the probabilities are laid end to end in a random order,
        and points at distance 1 from a random start select rows.
        """
        if self._draws is None:
            return np.arange(self.num_images)
        certain, probability = self._draws
        uncertain = rng.permutation(np.flatnonzero(probability))
        points = np.arange(round(float(probability.sum()))) + rng.random()
        hit = np.searchsorted(np.cumsum(probability[uncertain]), points, side="right")
        drawn = uncertain[np.minimum(hit, len(uncertain) - 1)]
        return np.concatenate([np.repeat(np.arange(self.num_images), certain), drawn])

    def _size(self, step: int, index: int) -> tuple[int, int] | None:
        """(H, W) of a step's samples, from the index of its size."""
        if not self.sizes or self.scales is None:
            return self.sizes[index] if self.sizes else None
        height, width = self.sizes[index]
        factor = _stream(self.seed, step, 3).uniform(*self.scales)
        return _scaled_side(height, factor), _scaled_side(width, factor)


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Batches of an epoch: full ones only, or a single smaller one if there are fewer samples than a batch."""
    return max(num_samples // batch_size, 1)


def per_process(batch: list[Key], rank: int, world_size: int) -> list[Key]:
    """The per-process batch: equal sections in the order of the ranks; see `TrainOrder.check_processes`."""
    count = len(batch) // world_size
    return batch[rank * count : (rank + 1) * count]


def _occurrence(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the same row occurs before each position, in an array of any shape."""
    flat = rows.ravel()
    order = np.argsort(flat, kind="stable")
    begins = np.flatnonzero(np.diff(flat[order], prepend=-1))
    counts = np.empty_like(flat)
    counts[order] = np.arange(len(flat)) - np.repeat(begins, np.diff(begins, append=len(flat)))
    return counts.reshape(rows.shape)


def _full_groups(groups: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The group of every sample, [N], where those that fill no batch of `count` in theirs change to group 0."""
    order = np.argsort(groups, kind="stable")
    ordered, sizes = groups[order], np.bincount(groups)
    position = np.arange(len(groups)) - (np.cumsum(sizes) - sizes)[ordered]
    full = np.empty_like(groups)
    full[order] = np.where(position < (sizes - sizes % count)[ordered], ordered, 0)
    return full


def _scaled_side(side: int, factor: float) -> int:
    return max(round(side * factor / SIDE_STEP) * SIDE_STEP, SMALLEST_SIDE)


def _stream(seed: int, number: int, kind: int) -> np.random.Generator:
    """A source of randomness for an epoch or a step; streams of different kinds are independent."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number], spawn_key=(kind,))))
