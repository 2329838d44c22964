"""Checks of a recipe against its data, before the first step, and of the loss of the first step.

The recipe alone is checked in `config`. Checks raise an error; what only looks wrong is a warning to print.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet.config import TrainConfig
from effdet.data.annotations import Annotations
from effdet.data.check.boxes import MANY, MIN_OBJECT_SIDE, input_sides, is_normalized, too_small
from effdet.data.formats.table import OUTSIDE, OVERHANGING
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.errors import ConfigError, DataError, TrainingError
from effdet.text import count_of
from effdet.types import Letterbox

FIRST_LOSS_FACTOR = 3.0  # measured with new heads: 0.99 to 1.01 times the expected loss, up to 2 times for classifiers


def check_num_classes(configured: int | None, num_classes: int) -> None:
    """Checks that the recipe has the number of classes of the data, or leaves it to the data.

    Raises:
        ConfigError: the recipe has another number of classes than the data set.
    """
    if configured is not None and configured != num_classes:
        raise ConfigError(
            f"the training set has {count_of(num_classes, 'class', 'classes')} but model.num_classes is {configured}; "
            "leave model.num_classes out to use the number of classes of the data"
        )


def check_micro_batches(
    train: TrainConfig, num_images: int, image_size: tuple[int, int], coarsest: tuple[int, int], processes: int = 1
) -> None:
    """Checks that every micro-batch has enough values for batch statistics in BatchNorm.

    Args:
        train: section `train` of the recipe.
        num_images: number of training images.
        image_size: (H, W) of the input in pixels.
        coarsest: (H, W) of the coarsest feature level.
        processes: number of training processes (the world size).

    Raises:
        ConfigError: a micro-batch is one image, and its coarsest feature level has one value per channel.
    """
    smallest = min(train.batch_size, num_images) // processes // train.accumulation_steps
    if smallest <= 1 and coarsest == (1, 1):
        raise ConfigError(
            f"one image of {image_size[0]} x {image_size[1]} per forward pass is too small for BatchNorm: its coarsest "
            "feature level has one value per channel; raise train.batch_size, lower train.accumulation_steps, raise "
            "model.image_size, or, with pretrained weights, set train.batch_norm=frozen"
        )


def check_boxes(table: Annotations) -> None:
    """Checks that all labels are classes of the table and all boxes are finite and not empty.

    The readers in `data.formats` give only such tables; a table that was built in another way may differ.

    Raises:
        DataError: a box has an unknown label, a NaN or Inf coordinate, or no area.
    """
    with np.errstate(invalid="ignore"):
        valid: NDArray[np.bool_] = np.all(np.isfinite(table.boxes), axis=1)
        valid &= np.all(table.boxes[:, 2:] > table.boxes[:, :2], axis=1)
    faults: dict[str, NDArray[np.bool_]] = {
        f"labels outside 0..{len(table.label_map) - 1}": (table.labels < 0) | (table.labels >= len(table.label_map)),
        "NaN or Inf coordinates, or no area": ~valid,
    }
    for fault, faulty in faults.items():
        if faulty.any():
            verb = "has" if faulty.sum() == 1 else "have"
            first = int(np.searchsorted(table.offsets, int(np.argmax(faulty)), side="right")) - 1
            raise DataError(
                f"{table.source}: {int(faulty.sum())} of {len(faulty)} boxes {verb} {fault}, the first in "
                f"{table.path(first)}; fix or remove them"
            )


def box_warnings(table: Annotations, image_size: tuple[int, int], mode: Letterbox) -> list[str]:
    """What looks wrong with the training set of a detector, one line each; crowd regions are ignored.

    Args:
        table: the training set.
        image_size: (H, W) of the model input in pixels.
        mode: how images fit it, see `letterbox`.
    """
    objects = ~table.crowd
    boxes, labels = table.boxes[objects], table.labels[objects]
    if not len(boxes):
        return [f"{table.source.name}: no image has objects, so the model can learn background only"]
    sizes = np.repeat(table.sizes, np.diff(table.offsets), axis=0)[objects]
    warnings = [
        *_unused_classes(labels, table.label_map, "objects"),
        *_misplaced_boxes(table, boxes, sizes),
        *_small_boxes(input_sides(boxes, sizes, image_size, mode), image_size),
    ]
    return [f"{table.source.name}: {warning}" for warning in warnings]


def label_warnings(table: ImageLabels) -> list[str]:
    """What looks wrong with the training set of a classifier, one line each."""
    return [f"{table.source.name}: {warning}" for warning in _unused_classes(table.labels, table.label_map, "images")]


def check_first_loss(name: str, loss: float, expected: float) -> None:
    """Checks that the loss of the first step is about that of a head that has learned nothing yet.

    Args:
        name: name of the loss, such as class_loss.
        loss: the loss of the first step.
        expected: the loss with the initial outputs of a new head.

    Raises:
        TrainingError: the loss is more than `FIRST_LOSS_FACTOR` times larger or smaller than expected.
    """
    if not expected / FIRST_LOSS_FACTOR <= loss <= expected * FIRST_LOSS_FACTOR:
        raise TrainingError(
            f"step 1: the {name.replace('_', ' ')} is {loss:.4g}, but a newly initialized head should have "
            f"{expected:.4g} on this batch; the features that reach the head are too large, or the head was not "
            "initialized: check the file in model.weights or model.backbone_weights, and look at the images with "
            "`effdet show-batch`"
        )


def _unused_classes(labels: NDArray[np.int64], label_map: LabelMap, what: str) -> list[str]:
    """A warning about classes without training examples, if there are any; `what` is "objects" or "images"."""
    counts = np.bincount(labels, minlength=len(label_map))
    unused = [label_map.names[label] for label in np.flatnonzero(counts == 0)]
    if not unused:
        return []
    names = ", ".join(unused[:10]) + (", ..." if len(unused) > 10 else "")
    only = f"all {what} are of class {label_map.names[int(labels[0])]}, and " if np.count_nonzero(counts) == 1 else ""
    verb = "has" if len(unused) == 1 else "have"
    return [f"{only}{len(unused)} of {len(label_map)} classes {verb} no {what} to train on: {names}"]


def _misplaced_boxes(table: Annotations, boxes: NDArray[np.float32], sizes: NDArray[np.int32]) -> list[str]:
    """A warning about boxes [N, 4] xyxy that look as if they were written in another convention than the format's."""
    if is_normalized(boxes, sizes):
        return ["all box coordinates lie within 0..1; they are read as pixels, but look normalized by the image size"]
    misplaced, dropped = (
        sum(table.repairs.get(what, 0) for what in kinds) for kinds in ((OUTSIDE, OVERHANGING), (OUTSIDE,))
    )
    fraction = misplaced / (len(table.boxes) + dropped)
    if fraction <= MANY:
        return []
    return [
        f"{fraction:.0%} of the boxes extend beyond their images; they may be for images of another size, or have x2 "
        "and y2 where the format expects width and height"
    ]


def _small_boxes(sides: NDArray[np.float64], image_size: tuple[int, int]) -> list[str]:
    """A warning if most boxes are tiny by their `sides` [N, 2] in the input."""
    known = np.isfinite(sides).all(axis=1)
    fraction = float(too_small(sides[known]).mean()) if known.any() else 0.0
    if fraction <= MANY:
        return []
    height, width = image_size
    return [
        f"{fraction:.0%} of the objects are smaller than {MIN_OBJECT_SIDE} x {MIN_OBJECT_SIDE} pixels in an input of "
        f"{height} x {width}, too small to be detected; raise model.image_size, or cut the images into tiles"
    ]
