"""Which samples a run takes: what one is asked for by, and the batches of a run as a function of its seed and the step.

What a sample is stands with the data sets, in `data/dataset.py` and `data/classify.py`; loading is in `data/loader.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.config import DetectionConfig
from effdet.data.annotations import Annotations
from effdet.errors import ConfigError, DataError

SIDE_STEP = 32  # sides of rectangular and scaled inputs are multiples of it
SMALLEST_SIDE = 64
SIDE_SHARES = (1 / 2, 9 / 16, 2 / 3, 3 / 4, 7 / 8)  # of the configured side: the shapes of films, cameras, telephones
SHARD_WINDOW = 8  # shards that are read at a time

Size = tuple[int, int]


class Key(NamedTuple):
    """What a data set is asked for.

    Attributes:
        epoch: counted from 0.
        row: of the table.
        size: (H, W) of the sample; None for the data set's own.
        copy: how often the epoch has taken the row before.
    """

    epoch: int
    row: int
    size: tuple[int, int] | None = None
    copy: int = 0

    def rng(self, seed: int) -> np.random.Generator:
        """Source of all that is random in the sample."""
        copy = [self.copy] if self.copy else []
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, self.epoch, self.row, *copy])))


class Shapes(NamedTuple):
    """The input sizes of a run, and who has which.

    Attributes:
        sizes: (H, W) of each shape, the configured one first.
        groups: [I] int64, shape of every row.
    """

    sizes: tuple[Size, ...]
    groups: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainOrder:
    """The batches of a run: which rows at which size, a function of the seed and the step alone.

    So a run that starts later continues the same sequence, and every process knows the batches of all. An epoch has
    full batches only, or a single smaller one where it has fewer samples than a batch. What does not fill a batch at
    its end is left out, other rows each time.

    Attributes:
        num_images: rows of the table.
        batch_size: samples of a batch, over all processes.
        seed: seed of the order.
        repeats: [I], how often a row is taken in an epoch on average; None takes each once. A row is taken as often
            as the number says, rounded down or up, and every epoch has the same number of samples.
        shapes: input size of every row, of which a batch has one; rows left over join in batches of the first size.
            None leaves the size to the data set.
        scales: range of the factor of the sizes that is drawn for every step; None for none. It needs `shapes`.
        shards: [I], number from 0 of the file that holds a row; only a few neighbouring files are then read at a time.
            None for files of their own.
    """

    num_images: int
    batch_size: int
    seed: int
    repeats: NDArray[np.float64] | None = None
    shapes: Shapes | None = None
    scales: tuple[float, float] | None = None
    shards: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        assert self.scales is None or self.shapes is not None
        columns = self.repeats, self.shards, None if self.shapes is None else self.shapes.groups
        assert all(column is None or len(column) == self.num_images for column in columns)

    @cached_property
    def num_samples(self) -> int:
        """Samples of an epoch, before what does not fill a batch is left out."""
        if self._taken is None:
            return self.num_images
        whole, rest = self._taken
        return int(whole.sum()) + round(float(rest.sum()))

    @cached_property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return steps_per_epoch(self.num_samples, self.batch_size)

    def batches(self, start_step: int, total_steps: int) -> Iterator[list[Key]]:
        """The batches of the steps from `start_step` to before `total_steps`, counted from the beginning of the run."""
        current = -1
        for step in range(start_step, total_steps):
            epoch, position = divmod(step, self.steps_per_epoch)
            if epoch != current:
                current, (rows, groups) = epoch, self._epoch(epoch)
                copies = _occurrence(rows)
            size = self._size(step, int(groups[position]))
            taken = zip(rows[position].tolist(), copies[position].tolist(), strict=True)
            yield [Key(epoch, row, size, copy) for row, copy in taken]

    def smallest_size(self, image_size: Size) -> Size:
        """(H, W) of the smallest samples, where those of no shape or scale of their own are of `image_size`."""
        sizes = [image_size] if self.shapes is None else [self.shapes.sizes[group] for group in set(self.shapes.groups)]
        height, width = min(sizes, key=lambda size: size[0] * size[1])
        if self.scales is None:
            return height, width
        return _scaled_side(height, self.scales[0]), _scaled_side(width, self.scales[0])

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Rows that are ever taken, in rising order."""
        return np.arange(self.num_images) if self.repeats is None else np.flatnonzero(self.repeats)

    def check_processes(self, world_size: int) -> None:
        """Sees that processes can share every batch equally.

        Raises:
            ConfigError: they cannot.
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
    def _taken(self) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """[I] times that a row is taken for certain, and [I] probability of once more, which add up to whole samples.

        What the sum lacks to a whole number is spread over the probabilities, none of which leaves 0..1.
        """
        if self.repeats is None:
            return None
        whole = np.floor(self.repeats)
        rest = self.repeats - whole
        total = float(rest.sum())
        wanted = round(total)
        if wanted < total:
            rest *= wanted / total
        elif wanted > total:
            uncertain = np.flatnonzero(rest)
            rest[uncertain] = 1 - (1 - rest[uncertain]) * (len(uncertain) - wanted) / (len(uncertain) - total)
        return whole.astype(np.int64), rest

    def _epoch(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of all batches of an epoch, [S, B], and the shape of each, [S]."""
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
        if self.shapes is None or len(self.shapes.sizes) == 1:
            batches = rows[: self.steps_per_epoch * count].reshape(-1, count)
            return batches, np.zeros(len(batches), np.int64)
        groups = _full_groups(self.shapes.groups[rows], count)
        by_group, num_first = np.argsort(groups, kind="stable"), np.count_nonzero(groups == 0)
        kept = np.concatenate([by_group[: num_first - num_first % count], by_group[num_first:]])
        batches, groups = rows[kept].reshape(-1, count), groups[kept[::count]]
        order = rng.permutation(len(batches))
        if windows is not None:
            order = order[np.argsort(windows[batches[order]].max(axis=1), kind="stable")]
        return batches[order], groups[order]

    def _samples(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows of an epoch's samples, [N], in no order.

        What is left to chance is drawn by systematic resampling: points at a distance of one, from a random first one
        on, on a line along which the probabilities lie end to end, in a random order.
        """
        if self._taken is None:
            return np.arange(self.num_images)
        whole, rest = self._taken
        uncertain = rng.permutation(np.flatnonzero(rest))
        points = np.arange(round(float(rest.sum()))) + rng.random()
        hit = np.searchsorted(np.cumsum(rest[uncertain]), points, side="right")
        drawn = uncertain[np.minimum(hit, len(uncertain) - 1)]
        return np.concatenate([np.repeat(np.arange(self.num_images), whole), drawn])

    def _size(self, step: int, group: int) -> Size | None:
        """(H, W) of a step's samples."""
        if self.shapes is None or self.scales is None:
            return None if self.shapes is None else self.shapes.sizes[group]
        height, width = self.shapes.sizes[group]
        factor = _stream(self.seed, step, 3).uniform(*self.scales)
        return _scaled_side(height, factor), _scaled_side(width, factor)


def detection_order(config: DetectionConfig, annotations: Annotations, image_size: Size) -> TrainOrder:
    """The order of a detector's recipe, for a network of the input size `image_size` (H, W).

    Raises:
        DataError: the table has not the images that the recipe asks for.
    """
    data, scales = config.data, config.augment.multi_scale
    shapes = None
    if data.rectangular:
        shapes = batch_shapes(annotations.sizes, image_size)
    elif scales is not None:
        shapes = Shapes((image_size,), np.zeros(len(annotations), np.int64))
    repeats = repeat_factors(annotations, data.repeat_threshold, data.background_fraction)
    return TrainOrder(
        len(annotations), config.train.batch_size, config.seed, repeats, shapes, scales, annotations.shards
    )


def steps_per_epoch(num_samples: int, batch_size: int) -> int:
    """Batches of an epoch: full ones only, and a single smaller one where there are fewer samples than a batch."""
    return max(num_samples // batch_size, 1)


def rank_share(batch: list[Key], rank: int, world_size: int) -> list[Key]:
    """The part of one of several processes: equal parts in the order of the ranks; see `TrainOrder.check_processes`."""
    part = len(batch) // world_size
    return batch[rank * part : (rank + 1) * part]


def repeat_factors(
    annotations: Annotations, threshold: float | None, background_fraction: float | None
) -> NDArray[np.float64] | None:
    """How often each image is taken in an epoch on average, [I]; None if each is taken once.

    Repeat-factor sampling takes images with rare classes more often. Source: LVIS, arXiv:1908.03195, section 3: with
    f_c the share of images that show class c, its factor is max(1, sqrt(threshold / f_c)), and that of an image is the
    largest of its classes. Crowd regions count as no objects, as in training.

    Args:
        annotations: the table.
        threshold: share of images below which a class is rare; None for no repeats.
        background_fraction: share of an epoch's samples that images without objects make up, below 1; None takes them
            as they are.

    Raises:
        DataError: a share of background is asked for, but the table has no such images, or no others.
    """
    if threshold is None and background_fraction is None:
        return None
    num_images = len(annotations)
    image_of = np.repeat(np.arange(num_images), np.diff(annotations.offsets))[~annotations.crowd]
    labels = annotations.labels[~annotations.crowd]
    factors = np.ones(num_images)
    if threshold is not None:
        num_classes = len(annotations.label_map)
        seen = np.unique(image_of * num_classes + labels)  # every class once per image
        frequency = np.bincount(seen % num_classes, minlength=num_classes) / num_images
        of_class = np.sqrt(np.maximum(threshold / np.maximum(frequency, 1 / num_images), 1))
        np.maximum.at(factors, image_of, of_class[labels])
    if background_fraction is not None:
        background = np.bincount(image_of, minlength=num_images) == 0
        if background.all() or (background_fraction > 0 and not background.any()):
            kind = "only images" if background.all() else "no images"
            raise DataError(
                f"{annotations.source}: data.background_fraction={background_fraction:g} is set, but the training "
                f"part has {kind} without objects; leave it out"
            )
        wanted = factors[~background].sum() * background_fraction / (1 - background_fraction)
        factors[background] = wanted / max(np.count_nonzero(background), 1)
    return factors


def batch_shapes(sizes: NDArray[np.int32], image_size: Size) -> Shapes:
    """A few input shapes that hold the images at the scale of the letterbox into `image_size` with less padding.

    The side that an image fills stays; the other shrinks to the smallest of a few shares of it that the image needs,
    in multiples of 32.

    Args:
        sizes: [I, 2] (H, W) of the images; those of an unknown one are 0, and it gets the configured size.
        image_size: (H, W) that is configured.
    """
    known: NDArray[np.bool_] = np.all(sizes > 0, axis=1)
    sides = np.where(known[:, None], sizes, 1).astype(np.float64)
    limits = np.array(image_size)
    needed = sides * (limits / sides).min(axis=1, keepdims=True)  # [I, 2], the letterboxed image
    shapes = [image_size]
    groups = np.zeros(len(sizes), np.int64)
    for axis in (0, 1):
        rounded = {
            max(math.ceil(share * image_size[axis] / SIDE_STEP) * SIDE_STEP, SMALLEST_SIDE) for share in SIDE_SHARES
        }
        shorter = sorted(side for side in rounded if side < image_size[axis])
        shrunk = np.searchsorted(shorter, needed[:, axis] - 0.01)  # a tolerance for the arithmetic
        fits = known & (shrunk < len(shorter))
        groups[fits] = len(shapes) + shrunk[fits]
        shapes += [(side, image_size[1]) if axis == 0 else (image_size[0], side) for side in shorter]
    return Shapes(tuple(shapes), groups)


def _occurrence(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the same row stands before each place, in an array of any shape."""
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
    place = np.arange(len(groups)) - (np.cumsum(sizes) - sizes)[ordered]
    full = np.empty_like(groups)
    full[order] = np.where(place < (sizes - sizes % count)[ordered], ordered, 0)
    return full


def _scaled_side(side: int, factor: float) -> int:
    return max(round(side * factor / SIDE_STEP) * SIDE_STEP, SMALLEST_SIDE)


def _stream(seed: int, number: int, kind: int) -> np.random.Generator:
    """A source of randomness for an epoch or a step; streams of different kinds have nothing in common."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, number], spawn_key=(kind,))))
