"""Running a network over a data set and handing what it finds to the evaluator.

The metrics themselves are in `coco.py` and `accuracy.py`. Networks compute in float32 here whatever they were trained
in, so that their numbers are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from effdet.data.annotations import Annotations
from effdet.data.classification_dataset import ClassificationDataset
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.labels import ImageLabels
from effdet.data.letterbox import undo_letterbox
from effdet.data.loader import evaluation_batches
from effdet.distributed import SINGLE, Processes
from effdet.errors import WeightsError
from effdet.evaluation.accuracy import AccuracyEvaluator
from effdet.evaluation.coco import CocoEvaluator
from effdet.models import EfficientDet, EfficientNet
from effdet.postprocess import postprocess
from effdet.structures import Outputs


class Evaluator(Protocol):
    """What an evaluation gives."""

    def metrics(self) -> dict[str, float]:
        """Its numbers by name."""

    def write(self, folder: Path, metrics: dict[str, float]) -> None:
        """Writes the numbers and what they are of."""


@torch.inference_mode()
def evaluate_detector(
    model: EfficientDet,
    annotations: Annotations,
    options: dict[str, Any],
    batch_size: int,
    workers: int,
    processes: Processes = SINGLE,
) -> CocoEvaluator:
    """An evaluator with the detections of all images, boxes in pixels of the original images.

    Over several processes each takes its share of the batches, and the main one's evaluator gets all results.

    Args:
        model: the detector; it is put into evaluation mode.
        annotations: the images and their objects, with the labels of the model.
        options: keyword arguments of `postprocess`.
        batch_size: images per forward pass.
        workers: processes that load images.
        processes: those that evaluate together.

    Raises:
        DataError: an image cannot be read.
        WeightsError: the network's outputs are not finite.
    """
    model.eval()
    evaluator = CocoEvaluator(annotations)
    dataset = DetectionDataset(annotations, model.image_size, model.spec.fill_color, augment=None, seed=0)
    pin_memory = model.anchors.is_cuda
    for batch in evaluation_batches(dataset, batch_size, workers, pin_memory, processes.rank, processes.size):
        outputs = model(batch.images.to(model.anchors.device, non_blocking=True))
        _check_finite(outputs, [annotations.file_names[target.index] for target in batch.targets])
        for target, detections in zip(batch.targets, postprocess(outputs, **options), strict=True):
            boxes = undo_letterbox(detections.boxes, target.scale, target.size)
            evaluator.add(target.index, replace(detections, boxes=boxes))
    for found in processes.gather(evaluator.collected())[1:]:
        evaluator.take(found)
    return evaluator


def _check_finite(outputs: Outputs, files: Sequence[str]) -> None:
    """Does nothing if all outputs are finite, as their sums tell; else raises an error with the first image's name."""
    finite = (outputs.class_logits.sum((1, 2)) + outputs.box_deltas.sum((1, 2))).isfinite()
    if not finite.all():
        raise WeightsError(
            f"{files[int(finite.int().argmin())]}: the network's outputs of this image are not finite;"
            " its weights are damaged or its training has diverged, use an earlier checkpoint"
        )


@torch.inference_mode()
def evaluate_classifier(
    model: EfficientNet, labels: ImageLabels, batch_size: int, workers: int, processes: Processes = SINGLE
) -> AccuracyEvaluator:
    """An evaluator with the most probable classes of all images, resized and cropped as the weights want it.

    Over several processes each takes its share of the batches, and the main one's evaluator gets all results.

    Args:
        model: the classifier; it is put into evaluation mode.
        labels: the images and their classes, with the labels of the model.
        batch_size: images per forward pass.
        workers: processes that load images.
        processes: those that evaluate together.

    Raises:
        DataError: an image cannot be read.
        WeightsError: the network's logits are not finite.
    """
    model.eval()
    evaluator = AccuracyEvaluator(labels.label_map, labels.file_names)
    spec = model.spec
    dataset = ClassificationDataset(labels, spec.image_size, spec.crop, spec.interpolation, None, None, 1, seed=0)
    pin_memory = model.mean.is_cuda
    for batch in evaluation_batches(dataset, batch_size, workers, pin_memory, processes.rank, processes.size):
        logits = model(batch.images.to(model.mean.device, non_blocking=True))
        evaluator.add(batch.indices, logits, batch.labels)
    for answers in processes.gather(evaluator.collected())[1:]:
        evaluator.take(answers)
    return evaluator
