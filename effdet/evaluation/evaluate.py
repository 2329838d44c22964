"""Runs a model over a data set and hands its outputs to the evaluator of its task; `EVALUATE` has a row per task.

The metrics themselves are in `coco.py` and `accuracy.py`; choosing recipe, data and folder is in
`evaluate_checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

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
from effdet.errors import NotFiniteError, WeightsError
from effdet.evaluation.accuracy import AccuracyEvaluator, not_finite
from effdet.evaluation.coco import CocoEvaluator
from effdet.runtimes.runtime import Runtime
from effdet.types import PostprocessOptions, Task


class Evaluator(Protocol):
    """Collects the predictions of a data set and computes metrics of them."""

    label_map: LabelMap
    settings: dict[str, Any]  # how the predictions were made, see `CocoEvaluator`; empty for classifiers

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

    def card_values(self) -> dict[str, Any]:
        """Fields of the model card that follow from the predictions, such as the best confidence threshold."""

    def results(self) -> list[dict[str, Any]]:
        """The predictions as rows of predictions.json."""

    def write(self, folder: Path, metrics: Mapping[str, float], weights: str | None = None) -> None:
        """Write metrics.json, predictions.json, analysis.json and the other files of the task.

        Args:
            folder: of the evaluation.
            metrics: what `metrics` gives.
            weights: name of the weights, for the report; None if that is not known.
        """


def evaluate(
    runtime: Runtime,
    table: ImageTable,
    config: Config,
    processes: Processes = SINGLE,
) -> Evaluator:
    """An evaluator with the predictions of a model on all images of a table.

    Of several processes each predicts a fraction of the batches, and the evaluator of the main one gets all results.

    Args:
        runtime: what runs the model.
        table: images with boxes for a detector, with classes for a classifier; labels are those of the model.
        config: a recipe of the model's task. Of it `eval.batch_size`, `data.workers`, `model.image_size` (null for the
            model's own) and for detectors `postprocess` are used.
        processes: those that evaluate together.

    Raises:
        ConfigError: an exported file is fixed to another image size or to other options than the recipe's.
        DataError: an image cannot be read.
        WeightsError: an output of the model is NaN or Inf.
    """
    evaluator = EVALUATE[runtime.card.task](runtime, table, config, processes)
    for state in processes.gather(evaluator.state())[1:]:
        evaluator.merge(state)
    return evaluator


def _evaluate_detector(
    runtime: Runtime, table: Annotations, config: DetectionConfig, processes: Processes
) -> CocoEvaluator:
    """Detections of this process's batches, boxes in pixels of the original images."""
    options = PostprocessOptions(**config.postprocess.model_dump())
    evaluator = CocoEvaluator(table, options)
    spec: Any = runtime.card.spec
    size = config.model.image_size or runtime.image_size
    dataset = DetectionDataset(table, size, spec.fill_color, spec.antialias, spec.letterbox, augment=None, seed=0)
    for batch in _batches(runtime, dataset, config, processes):
        try:
            results = runtime.detections(batch.images, options)
        except NotFiniteError as error:
            file = str(table.file_names[batch.indices[error.image]])
            raise WeightsError(not_finite(file, "outputs")) from None
        for target, detections in zip(batch.targets, results, strict=True):
            boxes = undo_letterbox(detections.boxes, target.scale, target.size)
            evaluator.add(target.index, replace(detections, boxes=boxes))
    return evaluator


def _evaluate_classifier(
    runtime: Runtime, table: ImageLabels, config: ClassificationConfig, processes: Processes
) -> AccuracyEvaluator:
    """The most probable classes of this process's batches."""
    spec: Any = runtime.card.spec
    evaluator = AccuracyEvaluator(table.label_map, table.file_names)
    size = config.model.image_size or runtime.image_size
    dataset = ClassificationDataset(table, size, spec.crop, spec.interpolation, None, None, 1, seed=0)
    for batch in _batches(runtime, dataset, config, processes):
        evaluator.add(batch.indices, runtime.logits(batch.images), batch.labels)
    return evaluator


EVALUATE: dict[Task, Callable[..., Evaluator]] = {
    "detection": _evaluate_detector,
    "classification": _evaluate_classifier,
}


def _batches(
    runtime: Runtime, dataset: ImageDataset[Any, Any], config: Config, processes: Processes
) -> Generator[Any, None, None]:
    """The batches of this process."""
    batch_size, workers, pin_memory = config.eval.batch_size, config.data.workers, runtime.device.type == "cuda"
    return evaluation_batches(dataset, batch_size, workers, pin_memory, processes.rank, processes.size)
