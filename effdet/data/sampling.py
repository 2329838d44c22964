"""From a recipe to the order of training: how often rows are drawn, and at which input size.

The order itself is in `train_order.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from effdet.config import ClassificationConfig, DetectionConfig
from effdet.data.annotations import Annotations
from effdet.data.labels import ImageLabels
from effdet.data.train_order import SIDE_STEP, SMALLEST_SIDE, TrainOrder
from effdet.errors import ConfigError, DataError
from effdet.types import Letterbox

# Of the configured side: the shapes of films, cameras, telephones.
SIDE_FRACTIONS = (1 / 2, 9 / 16, 2 / 3, 3 / 4, 7 / 8)


def detection_order(
    config: DetectionConfig, table: Annotations, image_size: tuple[int, int], mode: Letterbox
) -> TrainOrder:
    """The order of a detector's recipe, for a network of the input size `image_size` (H, W) that images fit by `mode`.

    Raises:
        ConfigError: the recipe wants rectangular batches of images that are stretched.
        DataError: the table lacks the images that the recipe asks for.
    """
    data, scales = config.data, config.augment.multi_scale
    sizes: tuple[tuple[int, int], ...] = () if scales is None else (image_size,)
    size_of_row = None
    if data.rectangular:
        if mode == "stretch":
            raise ConfigError(
                "data.rectangular is set, but images are stretched to the input (model.letterbox is 'stretch') "
                "and have no padding to save; leave data.rectangular out"
            )
        sizes, size_of_row = batch_sizes(table.sizes, image_size)
    return TrainOrder(
        len(table),
        config.train.batch_size,
        config.seed,
        repeats=repeat_factors(table, data.repeat_threshold, data.background_fraction),
        sizes=sizes,
        size_of_row=size_of_row,
        scales=scales,
        shards=table.shards,
    )


def classification_order(config: ClassificationConfig, table: ImageLabels) -> TrainOrder:
    """The order of a classifier's recipe: every image once in an epoch."""
    return TrainOrder(len(table), config.train.batch_size, config.seed, shards=table.shards)


def repeat_factors(
    table: Annotations, threshold: float | None, background_fraction: float | None
) -> NDArray[np.float64] | None:
    """How often each image is drawn in an epoch on average, [I]; None if each is drawn once.

    Repeat-factor sampling draws images with rare classes more often. Source: LVIS, arXiv:1908.03195, section 3: with
    f_c the fraction of images that show class c, its factor is max(1, sqrt(threshold / f_c)), and that of an image is
    the largest of its classes. Crowd regions count as no objects, as in training.

    Args:
        table: the images and their boxes.
        threshold: fraction of images below which a class is rare; None for no repeats.
        background_fraction: fraction of images without objects among an epoch's samples, below 1; None leaves it as in
            the data.

    Raises:
        DataError: a background fraction is given, but the table has no images without objects, or no others.
    """
    if threshold is None and background_fraction is None:
        return None
    num_images = len(table)
    image_of = np.repeat(np.arange(num_images), np.diff(table.offsets))[~table.crowd]
    labels = table.labels[~table.crowd]
    factors = np.ones(num_images)
    if threshold is not None:
        num_classes = len(table.label_map)
        pairs = np.unique(image_of * num_classes + labels)  # every class once per image
        frequency = np.bincount(pairs % num_classes, minlength=num_classes) / num_images
        of_class = np.sqrt(np.maximum(threshold / np.maximum(frequency, 1 / num_images), 1))
        np.maximum.at(factors, image_of, of_class[labels])
    if background_fraction is not None:
        background = np.bincount(image_of, minlength=num_images) == 0
        if background.all() or (background_fraction > 0 and not background.any()):
            kind = "only images" if background.all() else "no images"
            raise DataError(
                f"{table.source}: data.background_fraction={background_fraction:g} is set, but the training "
                f"split has {kind} without objects; leave it out"
            )
        total = factors[~background].sum() * background_fraction / (1 - background_fraction)
        factors[background] = total / max(np.count_nonzero(background), 1)
    return factors


def batch_sizes(
    sizes: NDArray[np.int32], image_size: tuple[int, int]
) -> tuple[tuple[tuple[int, int], ...], NDArray[np.int64]]:
    """A few input sizes that hold the images at the scale of the letterbox into `image_size` with less padding.

    The side that an image fills stays; the other shrinks to the smallest of `SIDE_FRACTIONS` that the image needs, in
    multiples of 32.

    Args:
        sizes: [I, 2] (H, W) of the images; 0 if unknown, which gives the configured size.
        image_size: (H, W) that is configured.

    Returns:
        (H, W) of each input size, the configured one first; and which of them each image has, [I].
    """
    known: NDArray[np.bool_] = np.all(sizes > 0, axis=1)
    sides = np.where(known[:, None], sizes, 1).astype(np.float64)
    limits = np.array(image_size)
    needed = sides * (limits / sides).min(axis=1, keepdims=True)  # [I, 2], the letterboxed image
    inputs = [image_size]
    size_of_row = np.zeros(len(sizes), np.int64)
    for axis in (0, 1):
        rounded = {
            max(math.ceil(fraction * image_size[axis] / SIDE_STEP) * SIDE_STEP, SMALLEST_SIDE)
            for fraction in SIDE_FRACTIONS
        }
        shorter = sorted(side for side in rounded if side < image_size[axis])
        shrunk = np.searchsorted(shorter, needed[:, axis] - 0.01)  # a tolerance for rounding
        fits = known & (shrunk < len(shorter))
        size_of_row[fits] = len(inputs) + shrunk[fits]
        inputs += [(side, image_size[1]) if axis == 0 else (image_size[0], side) for side in shorter]
    return tuple(inputs), size_of_row
