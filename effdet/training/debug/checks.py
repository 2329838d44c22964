"""What is wrong with a recipe once its data is known, said before the first step; and with the first loss."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.config import TrainConfig
from effdet.data.annotations import Annotations
from effdet.data.formats.table import OUTSIDE, OVERHANGING
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.distributed import Processes
from effdet.errors import ConfigError, DataError, TrainingError
from effdet.training.tasks.task import AnyBatch, Task

SMALLEST_SIDE = 4  # pixels of the input: what is smaller is hardly found; the finest features have one value for 8
FIRST_LOSS_FACTOR = 3.0  # of networks that start anew the loss was found within 0.99 and 1.01 times, of classifiers 2


def check_classes(wanted: int | None, num_classes: int) -> None:
    """Does nothing if the recipe leaves the class count to the data, or both agree.

    Raises:
        ConfigError: the recipe asks for another number of classes than the data set has.
    """
    if wanted is not None and wanted != num_classes:
        raise ConfigError(
            f"the training set has {num_classes} classes but model.num_classes is {wanted}; "
            "leave model.num_classes out to take as many as the data has"
        )


def check_parts(
    train: TrainConfig, num_images: int, image_size: tuple[int, int], coarsest: tuple[int, int], processes: int = 1
) -> None:
    """Does nothing if every part of a batch has values enough for norms that take their statistics from it.

    Args:
        train: the recipe.
        num_images: images to train on.
        image_size: (H, W) of the input.
        coarsest: (H, W) of the coarsest features.
        processes: how many share a batch.

    Raises:
        ConfigError: a part is a single image whose coarsest features are a single pixel.
    """
    smallest = min(train.batch_size, num_images) // processes // train.accumulation_steps
    if smallest <= 1 and coarsest == (1, 1):
        raise ConfigError(
            f"one image of {image_size[0]} x {image_size[1]} at a time is too little for batch norm, whose coarsest "
            "level has a single value then; raise train.batch_size, lower train.accumulation_steps, enlarge "
            "model.image_size, or, of trained weights, set train.batch_norm=frozen"
        )


def check_boxes(table: Annotations) -> None:
    """Does nothing if all labels are classes of the table and all boxes have an area, as those of our readers do.

    Raises:
        DataError: some do not.
    """
    with np.errstate(invalid="ignore"):
        sound: NDArray[np.bool_] = np.all(np.isfinite(table.boxes), axis=1)
        sound &= np.all(table.boxes[:, 2:] > table.boxes[:, :2], axis=1)
    faults: dict[str, NDArray[np.bool_]] = {
        f"labels outside 0..{len(table.label_map) - 1}": (table.labels < 0) | (table.labels >= len(table.label_map)),
        "coordinates that are no numbers, or no area": ~sound,
    }
    for what, faulty in faults.items():
        if faulty.any():
            first = int(np.searchsorted(table.offsets, int(np.argmax(faulty)), side="right")) - 1
            raise DataError(
                f"{table.source}: {int(faulty.sum())} of {len(faulty)} boxes have {what}, the first in "
                f"{table.path(first)}; correct or drop them"
            )


def notes_on_boxes(table: Annotations, image_size: tuple[int, int]) -> list[str]:
    """What looks wrong with a training set, each in one line; crowd regions do not count.

    Args:
        table: the training set.
        image_size: (H, W) of the network input.
    """
    objects = ~table.crowd
    boxes, labels = table.boxes[objects], table.labels[objects]
    if not len(boxes):
        return [f"{table.source.name}: no image has an object, so that nothing but background can be learned"]
    sizes = np.repeat(table.sizes, np.diff(table.offsets), axis=0)[objects]
    notes = [
        *_unused_classes(labels, table.label_map, "objects"),
        *_misplaced_boxes(table, boxes, sizes),
        *_small_boxes(boxes, sizes, image_size),
    ]
    return [f"{table.source.name}: {note}" for note in notes]


def notes_on_labels(table: ImageLabels) -> list[str]:
    """What looks wrong with a classifier's training set, each in one line."""
    return [f"{table.source.name}: {note}" for note in _unused_classes(table.labels, table.label_map, "images")]


def check_first_loss(name: str, loss: float, expected: float) -> None:
    """Does nothing if the loss of the first step is about that of a network that knows nothing yet.

    Args:
        name: which loss it is, such as class_loss.
        loss: what it is.
        expected: what it is with the outputs that a new head starts from.

    Raises:
        TrainingError: it is more than `FIRST_LOSS_FACTOR` times as large or as small.
    """
    if not expected / FIRST_LOSS_FACTOR <= loss <= expected * FIRST_LOSS_FACTOR:
        raise TrainingError(
            f"step 1: the {name.replace('_', ' ')} is {loss:.4g}, but a network whose head starts anew has "
            f"{expected:.4g} on this batch; the features that reach the head are too large, or the head was not reset: "
            "check the file of model.weights or model.backbone_weights, and see the images with `effdet show-batch`"
        )


@torch.no_grad()
def untrained_loss(task: Task, batch: AnyBatch, processes: Processes) -> float:
    """The first loss of a task, as `Task.first_loss` names it, of a network that knows nothing; all processes must ask.

    Args:
        task: whose loss it is.
        batch: the first batch, or this process's share of it, on its device.
        processes: those that share the batch.
    """
    assert task.first_loss is not None
    # Image by image, so that it needs less memory than the step.
    losses = [part[task.first_loss] for part in task.losses(task.untrained, batch, len(batch.images), 0, 0)]
    return float(processes.all_reduce_sum(torch.stack(losses).sum()))


def _unused_classes(labels: NDArray[np.int64], label_map: LabelMap, what: str) -> list[str]:
    """A line on the classes without anything to learn from, if there are such."""
    counts = np.bincount(labels, minlength=len(label_map))
    unused = [label_map.names[label] for label in np.flatnonzero(counts == 0)]
    if not unused:
        return []
    names = ", ".join(unused[:10]) + (", ..." if len(unused) > 10 else "")
    whose = (
        f"all {what} are of the class {label_map.names[int(labels[0])]}, and " if np.count_nonzero(counts) == 1 else ""
    )
    return [f"{whose}{len(unused)} of {len(label_map)} classes have no {what} to train on: {names}"]


def _misplaced_boxes(table: Annotations, boxes: NDArray[np.float32], sizes: NDArray[np.int32]) -> list[str]:
    """A line on boxes [N, 4] that seem to be written another way than the format has them."""
    if boxes.max() <= 1 and sizes.max() > 1:
        return ["all box coordinates lie within 0..1; they are read as pixels, but seem to be shares of the image"]
    misplaced, dropped = (
        sum(table.repairs.get(what, 0) for what in kinds) for kinds in ((OUTSIDE, OVERHANGING), (OUTSIDE,))
    )
    share = misplaced / (len(table.boxes) + dropped)
    if share <= 0.5:
        return []
    return [
        f"{share:.0%} of the boxes reach beyond their images; they seem to be made for images of another size, or to "
        "hold corners where the format has width and height"
    ]


def _small_boxes(boxes: NDArray[np.float32], sizes: NDArray[np.int32], image_size: tuple[int, int]) -> list[str]:
    """A line on boxes [N, 4] of images of `sizes` [N, 2] if most are tiny in the letterbox."""
    known = (sizes > 0).all(axis=1)
    if not known.any():
        return []
    scale = (np.array(image_size) / sizes[known]).min(axis=1)
    sides = (boxes[known, 2:] - boxes[known, :2]) * scale[:, None]
    share = float((sides.prod(axis=1) < SMALLEST_SIDE**2).mean())
    if share <= 0.5:
        return []
    height, width = image_size
    return [
        f"{share:.0%} of the objects are smaller than {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels in an input of "
        f"{height} x {width}, too small to be found; raise model.image_size, or cut the images into tiles"
    ]
