"""AP of predictions as flat columns: with classes, over all objects as one class, and of some classes alone.

How predictions are changed before they are scored is in `spoiled.py` and `class_order.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.evaluation.coco import CocoEvaluator
from effdet.structures import Detections

CLASSLESS_NMS_IOU = 0.5  # boxes of several classes around one object are one prediction without classes


class Predictions(NamedTuple):
    """Predicted boxes of a table's images, sorted by the row of the image.

    Attributes:
        images: [M] int64, row of the image.
        boxes: [M, 4] float64, xyxy in pixels of the original image.
        scores: [M] float64.
        labels: [M] int64 in 0..K-1.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    labels: NDArray[np.int64]

    def select(self, kept: NDArray[Any]) -> Predictions:
        """The predictions of a mask or of indices."""
        return Predictions(*(column[kept] for column in self))


def predictions_of(evaluator: CocoEvaluator) -> Predictions:
    """All detections of an evaluator."""
    state = evaluator.state()
    rows = sorted(state)
    counts = [len(state[row][1]) for row in rows]
    boxes, scores, labels = (
        np.concatenate([np.empty((0, *shape)), *(state[row][column] for row in rows)])
        for column, shape in enumerate(((4,), (), ()))
    )
    return Predictions(np.repeat(np.array(rows, np.int64), counts), boxes, scores, labels.astype(np.int64))


def truth_as_predictions(table: Annotations) -> Predictions:
    """The objects of a table, crowds left out, as predictions with the score 1."""
    kept = ~table.crowd
    boxes = table.boxes[kept].astype(np.float64)
    return Predictions(table.image_of_label()[kept], boxes, np.ones(len(boxes)), table.labels[kept])


def in_images(predictions: Predictions, rows: NDArray[np.int64], length: int) -> Predictions:
    """The predictions of some images of a table of `length` images, for the table of these images alone."""
    place = np.full(length, -1, np.int64)
    place[rows] = np.arange(len(rows))
    moved = predictions._replace(images=place[predictions.images])
    return by_image(moved.select(moved.images >= 0))


def by_image(predictions: Predictions) -> Predictions:
    """The predictions sorted by the row of the image."""
    return predictions.select(np.argsort(predictions.images, kind="stable"))


def average_precision(table: Annotations, predictions: Predictions) -> float:
    """COCO's AP; -1 if the table has no object."""
    evaluator = CocoEvaluator(table)
    bounds = np.searchsorted(predictions.images, np.arange(len(table) + 1))
    boxes = torch.from_numpy(predictions.boxes.astype(np.float32))
    scores = torch.from_numpy(predictions.scores.astype(np.float32))
    labels = torch.from_numpy(predictions.labels)
    for row in np.flatnonzero(np.diff(bounds)).tolist():
        own = slice(bounds[row], bounds[row + 1])
        evaluator.add(row, Detections(boxes[own], scores[own], labels[own]))
    return evaluator.metrics()["AP"]


def of_classes(
    table: Annotations, predictions: Predictions, classes: NDArray[np.bool_]
) -> tuple[Annotations, Predictions]:
    """Table and predictions with the objects of some classes alone, a mask [K]; AP is then the mean over these."""
    return table.select(classes[table.labels]), predictions.select(classes[predictions.labels])


def without_classes(table: Annotations, predictions: Predictions) -> tuple[Annotations, Predictions]:
    """Table and predictions of one class, and of boxes around one object only that of the highest score."""
    boxes, scores = torch.from_numpy(predictions.boxes), torch.from_numpy(predictions.scores)
    kept = batched_nms(boxes, scores, torch.from_numpy(predictions.images), CLASSLESS_NMS_IOU).numpy()
    merged = by_image(predictions.select(np.sort(kept)))
    one = LabelMap(("object",), (1,))
    return (
        replace(table, labels=np.zeros_like(table.labels), label_map=one),
        merged._replace(labels=np.zeros_like(merged.labels)),
    )


def pooled(table: Annotations, predictions: Predictions) -> tuple[Annotations, Predictions]:
    """Table and predictions of one class whose AP still counts a wrong class as an error.

    Every pair of an image and a class becomes an image of its own. So all objects weigh the same, as they do without
    classes, and the two values can be compared.
    """
    classes = len(table.label_map)
    truth = table.image_of_label() * classes + table.labels
    pairs = np.unique(np.concatenate([truth, predictions.images * classes + predictions.labels]))
    order = np.argsort(truth, kind="stable")
    row = np.searchsorted(pairs, truth[order])
    images = pairs // classes
    objects = {name: getattr(table, name)[order] for name in ("boxes", "crowd", "areas", "difficult")}
    split = replace(
        table,
        file_names=table.file_names[images],
        image_ids=np.arange(len(pairs)),
        sizes=table.sizes[images],
        offsets=np.searchsorted(row, np.arange(len(pairs) + 1)).astype(np.int64),
        labels=np.zeros(len(row), np.int64),
        label_map=LabelMap(("object",), (1,)),
        store=None,
        **objects,
    )
    moved = predictions._replace(
        images=np.searchsorted(pairs, predictions.images * classes + predictions.labels),
        labels=np.zeros_like(predictions.labels),
    )
    return split, by_image(moved)
