"""The losses of a step, part by part: what a task computes in training, and a replay without the task's data.

The losses themselves are in `effdet/losses.py`; who goes backward from them is the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from effdet.config import DetectionLossConfig
from effdet.distributed import SINGLE, Processes
from effdet.losses import ClassificationLoss, DetectionLoss, Losses, weights_of_classes
from effdet.structures import Batch
from effdet.training.tasks.task import Forward


def detection_loss(config: DetectionLossConfig, class_names: Sequence[str]) -> DetectionLoss:
    """The loss of a recipe for the classes of its data.

    Raises:
        ConfigError: the recipe weighs a class that the data does not have.
    """
    weights = weights_of_classes(config.class_weights, class_names)
    return DetectionLoss(**config.model_dump(exclude={"class_weights"}), class_weights=weights)


def detector_losses(
    loss: DetectionLoss,
    anchors: Tensor,
    forward: Forward,
    batch: Batch,
    parts: int,
    step: int,
    processes: Processes = SINGLE,
) -> Iterator[Losses]:
    """Class and box losses, part by part, normalised by the positives of the whole batch.

    Args:
        loss: makes losses of outputs.
        anchors: [A, 4] xyxy, of the batch's image size.
        forward: calls the network.
        batch: this process's share of the batch, on its device.
        parts: in how many parts it is computed.
        step: steps done before this one.
        processes: those that share the batch.
    """
    pieces = batch.split(parts)
    assignments = [loss.assign(anchors, piece.targets) for piece in pieces]
    num_positives = processes.all_reduce_sum(
        torch.tensor(float(sum(map(len, assignments))), device=batch.images.device)
    )
    num_positives = loss.smoothed(num_positives, step)
    for piece, assignment in zip(pieces, assignments, strict=True):
        yield loss(forward(piece.images), assignment, num_positives)


def classifier_losses(
    loss: ClassificationLoss,
    forward: Forward,
    images: Tensor,
    targets: Tensor,
    parts: int,
    processes: Processes = SINGLE,
) -> Iterator[Losses]:
    """Cross-entropy, part by part, normalised by the images of the whole batch.

    Args:
        loss: makes losses of logits.
        forward: calls the network.
        images: [B, 3, H, W], this process's share of the batch, mixed already.
        targets: [B, K], share of every class in each image.
        parts: in how many parts they are computed.
        processes: those that share the batch.
    """
    count, total = min(parts, len(images)), len(images) * processes.size
    for piece, target in zip(images.tensor_split(count), targets.tensor_split(count), strict=True):
        yield loss(forward(piece), target, total)
