"""AP at an IoU of 0.5 by the rules of Pascal VOC: those of 2007, at 11 levels of recall, and those since 2010.

COCO's rules are in `matching.py` and `average_precision.py`.

Source: `VOCevaldet.m` and `VOCap.m` of the development kits of VOC 2007 and 2012. A detection is compared with the
object of its class that it overlaps most, even if a better detection has that object already.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.average_precision import mean_of_measured
from effdet.evaluation.matching import Objects, Predictions, candidates

MEANINGS = {
    "AP50_VOC2007": "AP of VOC 2007, IoU 0.50, 11 levels of recall",
    "AP50_VOC2010": "AP of VOC 2010 and later, IoU 0.50",
}
METRIC_NAMES = tuple(MEANINGS)
IOU_THRESHOLD = 0.5
RECALL_LEVELS: NDArray[np.float64] = np.linspace(0.0, 1.0, 11)


def voc_metrics(
    objects: Objects,
    predictions: Predictions,
    difficult: NDArray[np.bool_],
    num_images: int,
    num_classes: int,
) -> dict[str, float]:
    """The metrics of `METRIC_NAMES` as fractions: means over the classes that have objects; -1 if none has.

    Args:
        objects: those of the data set, corners as VOC's files write them: both are pixels inside of the object.
        predictions: all detections, corners written in the same way.
        difficult: [N] bool. Difficult objects and crowds are not counted, nor are the detections that match them.
        num_images: rows of images are below this number.
        num_classes: K.
    """
    per_class = voc_class_metrics(objects, predictions, difficult, num_images, num_classes)
    return {name: mean_of_measured(values) for name, values in per_class.items()}


def voc_class_metrics(
    objects: Objects,
    predictions: Predictions,
    difficult: NDArray[np.bool_],
    num_images: int,
    num_classes: int,
) -> dict[str, NDArray[np.float64]]:
    """The metrics of `METRIC_NAMES` of every class, [K] each; -1 for classes without objects. See `voc_metrics`."""
    counted = ~(difficult | objects.crowd)
    totals = np.bincount(objects.labels[counted], minlength=num_classes)
    order = np.lexsort((-predictions.scores, predictions.labels))
    correct, ignored = _outcomes(objects, predictions, counted, order, num_images)
    bounds = np.searchsorted(predictions.labels[order], np.arange(num_classes + 1))
    values = np.full((len(METRIC_NAMES), num_classes), -1.0)
    for label in np.flatnonzero(totals).tolist():
        own = slice(bounds[label], bounds[label + 1])
        hits = np.cumsum(correct[own])
        detections = np.cumsum(~ignored[own])
        recalls = hits / totals[label]
        precisions = hits / np.maximum(detections, 1)
        values[:, label] = _eleven_point_ap(recalls, precisions), _area_ap(recalls, precisions)
    return dict(zip(METRIC_NAMES, values, strict=True))


def _outcomes(
    objects: Objects,
    predictions: Predictions,
    counted: NDArray[np.bool_],
    order: NDArray[np.int64],
    num_images: int,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections, in the order given, are correct [D], and which count neither as correct nor as wrong [D]."""
    matched = np.full(len(order), -1, np.int64)
    for detections, rows in candidates(objects, predictions, order, num_images):
        overlaps = _overlaps(predictions.boxes[order[detections]], objects.boxes[rows])
        # The first object of those with the highest IoU.
        sorting = np.lexsort((np.arange(len(rows)), -overlaps, detections))
        first = sorting[np.flatnonzero(np.r_[True, detections[1:] != detections[:-1]])]
        reached = first[overlaps[first] >= IOU_THRESHOLD]
        matched[detections[reached]] = rows[reached]
    ignored = (matched >= 0) & ~counted[matched] if len(counted) else np.zeros(len(order), np.bool_)
    places = np.flatnonzero((matched >= 0) & ~ignored)
    correct = np.zeros(len(order), np.bool_)
    correct[places[np.unique(matched[places], return_index=True)[1]]] = True
    return correct, ignored


def _overlaps(boxes: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes [P, 4] and the others [P, 4], pair by pair, whose last pixels count too: [P]."""
    common = _pixels(np.maximum(boxes[:, :2], others[:, :2]), np.minimum(boxes[:, 2:], others[:, 2:]))
    areas = _pixels(boxes[:, :2], boxes[:, 2:]) + _pixels(others[:, :2], others[:, 2:])
    return np.divide(common, areas - common, out=np.zeros_like(common), where=common > 0)


def _pixels(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """Pixels from a corner to another, both included; 0 if there are none: [P]."""
    sides: NDArray[np.float64] = np.maximum(end - start + 1, 0.0)
    return sides[:, 0] * sides[:, 1]


def _eleven_point_ap(recalls: NDArray[np.float64], precisions: NDArray[np.float64]) -> float:
    """The mean of the highest precisions at each of `RECALL_LEVELS` or a higher recall."""
    highest = np.append(np.maximum.accumulate(precisions[::-1])[::-1], 0.0)
    return float(highest[np.searchsorted(recalls, RECALL_LEVELS)].mean())


def _area_ap(recalls: NDArray[np.float64], precisions: NDArray[np.float64]) -> float:
    """The area below the curve of the highest precision at each recall or a higher one."""
    highest = np.maximum.accumulate(precisions[::-1])[::-1]
    return float((np.diff(recalls, prepend=0.0) * highest).sum())
