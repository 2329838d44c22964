"""Runs a model over a data set and hands its outputs to the evaluator of its task; `EVALUATE` has a row per task.

The metrics themselves are in `coco.py` and `accuracy.py`; choosing recipe, data and folder is in
`evaluate_checkpoint.py`. Models compute in float32 here, in whatever precision they were trained, so that their metrics
are the same everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch

from effdet.config import ClassificationConfig, Config, DetectionConfig
from effdet.data.annotations import Annotations
from effdet.data.classification_dataset import ClassificationDataset
from effdet.data.dataset import ImageDataset
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.letterbox import undo_letterbox
from effdet.data.loader import evaluation_batches
from effdet.distributed import SINGLE, Processes
from effdet.errors import WeightsError
from effdet.evaluation.accuracy import AccuracyEvaluator, not_finite
from effdet.evaluation.coco import CocoEvaluator
from effdet.models import EfficientDet, EfficientNet
from effdet.postprocess import postprocess
from effdet.structures import Outputs
from effdet.types import PostprocessOptions, Task


class Evaluator(Protocol):
    """Collects the predictions of a data set and computes metrics of them."""

    label_map: LabelMap

    def __len__(self) -> int:
        """Images of the data set."""

    def state(self) -> Any:
        """All that was added, for `merge`."""

    def merge(self, state: Any) -> None:
        """Add what the evaluator of another process has in its `state`."""

    def metrics(self) -> dict[str, float]:
        """The metrics by name, as fractions; -1 for what could not be measured."""

    def notes(self, metrics: dict[str, float]) -> list[str]:
        """What the metrics do not show, one line each."""

    def results(self) -> list[dict[str, Any]]:
        """The predictions as rows of predictions.json."""

    def write(self, folder: Path, metrics: dict[str, float]) -> None:
        """Write metrics.json, predictions.json and the other files of the task."""


@torch.inference_mode()
def evaluate(
    model: EfficientDet | EfficientNet,
    table: ImageTable,
    config: Config,
    processes: Processes = SINGLE,
) -> Evaluator:
    """An evaluator with the predictions of a model on all images of a table.

    Of several processes each predicts a fraction of the batches, and the evaluator of the main one gets all results.

    Args:
        model: a detector or a classifier; it is put into evaluation mode.
        table: images with boxes for a detector, with classes for a classifier; labels are those of the model.
        config: a recipe of the model's task. Of it `eval.batch_size`, `data.workers`, `model.image_size` (null for the
            model's own) and for detectors `postprocess` are used.
        processes: those that evaluate together.

    Raises:
        DataError: an image cannot be read.
        WeightsError: an output of the model is NaN or Inf.
    """
    model.eval()
    evaluator = EVALUATE[model.spec.task](model, table, config, processes)
    for state in processes.gather(evaluator.state())[1:]:
        evaluator.merge(state)
    return evaluator


def _evaluate_detector(
    model: EfficientDet, table: Annotations, config: DetectionConfig, processes: Processes
) -> CocoEvaluator:
    """Detections of this process's batches, boxes in pixels of the original images."""
    evaluator, options = CocoEvaluator(table), PostprocessOptions(**config.postprocess.model_dump())
    size = config.model.image_size or model.spec.image_size
    dataset = DetectionDataset(table, size, model.spec.fill_color, model.spec.antialias, augment=None, seed=0)
    for batch, outputs in _outputs(model, dataset, config, processes):
        _check_finite(outputs, [str(table.file_names[index]) for index in batch.indices])
        for target, detections in zip(batch.targets, postprocess(outputs, options), strict=True):
            boxes = undo_letterbox(detections.boxes, target.scale, target.size)
            evaluator.add(target.index, replace(detections, boxes=boxes))
    return evaluator


def _evaluate_classifier(
    model: EfficientNet, table: ImageLabels, config: ClassificationConfig, processes: Processes
) -> AccuracyEvaluator:
    """The most probable classes of this process's batches."""
    evaluator, spec = AccuracyEvaluator(table.label_map, table.file_names), model.spec
    size = config.model.image_size or spec.image_size
    dataset = ClassificationDataset(table, size, spec.crop, spec.interpolation, None, None, 1, seed=0)
    for batch, logits in _outputs(model, dataset, config, processes):
        evaluator.add(batch.indices, logits, batch.labels)
    return evaluator


EVALUATE: dict[Task, Callable[..., Evaluator]] = {
    "detection": _evaluate_detector,
    "classification": _evaluate_classifier,
}


def _outputs(
    model: EfficientDet | EfficientNet, dataset: ImageDataset[Any, Any], config: Config, processes: Processes
) -> Generator[tuple[Any, Any], None, None]:
    """The batches of this process and the outputs of the model for them."""
    device = next(model.buffers()).device
    batch_size, workers, pin_memory = config.eval.batch_size, config.data.workers, device.type == "cuda"
    for batch in evaluation_batches(dataset, batch_size, workers, pin_memory, processes.rank, processes.size):
        yield batch, model(batch.images.to(device, non_blocking=True))


def _check_finite(outputs: Outputs, files: Sequence[str]) -> None:
    """Raises an error with the name of the first image that has NaN or Inf in its outputs, as their sums show."""
    finite = (outputs.class_logits.sum((1, 2)) + outputs.box_deltas.sum((1, 2))).isfinite()
    if not finite.all():
        raise WeightsError(not_finite(files[int(finite.int().argmin())], "outputs"))
