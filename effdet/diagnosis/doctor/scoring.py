"""AP of predictions as flat columns: of all classes, of some, over all objects pooled, and without classes.

How predictions are changed before they are scored is in `undoing.py` and `class_order.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from effdet.data.annotations import Annotations
from effdet.evaluation.average_precision import mean_of_measured, tables
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import SIZE_RANGES, Objects, Predictions, match

CLASSLESS_NMS_IOU = 0.5  # boxes of several classes around one object are one prediction without classes


def average_precision(table: Annotations, predictions: Predictions, classes: NDArray[np.bool_] | None = None) -> float:
    """COCO's AP, of some classes alone if a mask [K] is given; -1 if there is no object."""
    truth = CocoEvaluator(table).truth()
    values = _class_precisions(truth, predictions, len(table), len(table.label_map))
    return mean_of_measured(values if classes is None else values[classes])


def pooled_precision(table: Annotations, predictions: Predictions) -> float:
    """AP over all objects, whatever their class, where a wrong class is still an error.

    All objects weigh the same, as they do without classes, so that the two values can be compared.
    """
    classes = len(table.label_map)
    truth = CocoEvaluator(table).truth()
    # Every pair of an image and a class is an image of its own.
    truth = truth._replace(images=truth.images * classes + truth.labels, labels=np.zeros_like(truth.labels))
    own = predictions._replace(
        images=predictions.images * classes + predictions.labels, labels=np.zeros_like(predictions.labels)
    )
    return mean_of_measured(_class_precisions(truth, own, len(table) * classes, 1))


def classless_precision(table: Annotations, predictions: Predictions) -> float:
    """AP with all classes merged; of boxes around one object only that of the highest score counts."""
    boxes, scores = torch.from_numpy(predictions.boxes), torch.from_numpy(predictions.scores)
    kept = batched_nms(boxes, scores, torch.from_numpy(predictions.images), CLASSLESS_NMS_IOU).sort().values
    merged = select(predictions, kept.numpy())._replace(labels=np.zeros(len(kept), np.int64))
    truth = CocoEvaluator(table).truth()
    return mean_of_measured(
        _class_precisions(truth._replace(labels=np.zeros_like(truth.labels)), merged, len(table), 1)
    )


def truth_as_predictions(table: Annotations) -> Predictions:
    """The objects of a table, crowds left out, as predictions with the score 1."""
    truth = CocoEvaluator(table).truth()
    every = Predictions(truth.images, truth.labels, truth.boxes, truth.box_areas, np.ones(len(truth.labels)))
    return select(every, np.flatnonzero(truth.crowd == 0))


def select(predictions: Predictions, kept: NDArray[Any]) -> Predictions:
    """The predictions of a mask [D] or of indices."""
    return Predictions(*(column[kept] for column in predictions))


def with_boxes(predictions: Predictions, boxes: NDArray[np.float64]) -> Predictions:
    """Predictions with other boxes [D, 4]; those without area are left out."""
    sides = boxes[:, 2:] - boxes[:, :2]
    return select(
        predictions._replace(boxes=boxes, box_areas=sides.prod(axis=1)), np.asarray(np.all(sides > 0, axis=1))
    )


def in_images(predictions: Predictions, rows: NDArray[np.int64], length: int) -> Predictions:
    """The predictions of some images of a table of `length` images, for the table of these images alone."""
    place = np.full(length, -1, np.int64)
    place[rows] = np.arange(len(rows))
    moved = predictions._replace(images=place[predictions.images])
    return select(moved, np.flatnonzero(moved.images >= 0))


def _class_precisions(truth: Objects, predictions: Predictions, images: int, classes: int) -> NDArray[np.float64]:
    """AP of every class, [K]; -1 for those without objects."""
    matches = match(truth, predictions, images, classes, size_ranges=[SIZE_RANGES["all"]])
    precision = tables(matches, truth.labels, caps=()).precision[0]
    return np.array([mean_of_measured(own) for own in precision])
