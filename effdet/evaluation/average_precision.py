"""Precision and recall of matched detections, and the average precision (AP) and recall (AR) of COCO.

Which detections match is decided in `matching.py`.

Source: `COCOeval.accumulate` and `summarize` of pycocotools, whose rounding this code repeats.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.matching import IOU_THRESHOLDS, SIZE_RANGES, Matches

RECALL_LEVELS: NDArray[np.float64] = np.linspace(0.0, 1.0, 101)
NEAR_ZERO = 0.05  # AP up to which an evaluation needs an explanation
AR_CAPS = (1, 10)  # detections per image and class of AR1 and AR10
MEANINGS = {
    "AP": "average precision, IoU 0.50 to 0.95",
    "AP50": "average precision, IoU 0.50",
    "AP75": "average precision, IoU 0.75",
    "APs": "AP of small objects, area below 32\u00b2 pixels",
    "APm": "AP of medium objects, 32\u00b2 to 96\u00b2",
    "APl": "AP of large objects, above 96\u00b2",
    "AR1": "average recall, 1 detection per image and class",
    "AR10": "average recall, 10 detections",
    "AR100": "average recall, 100 detections",
    "ARs": "AR100 of small objects",
    "ARm": "AR100 of medium objects",
    "ARl": "AR100 of large objects",
}
METRIC_NAMES = tuple(MEANINGS)


class Tables(NamedTuple):
    """Precision and recall by IoU threshold T, class K and size S; -1 where a class has no object of a size.

    Attributes:
        precision: [S, K, T, 101], the highest precision at a recall of at least each of `RECALL_LEVELS`.
        recall: [S, K, T], recall of all detections.
        recall_capped: cap -> [S, K, T], recall of so many detections per image and class.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    recall_capped: dict[int, NDArray[np.float64]]


def tables(matches: Matches, object_labels: NDArray[np.int64], caps: Iterable[int] = AR_CAPS) -> Tables:
    """Precision and recall of matched detections.

    Args:
        matches: what `match` gives.
        object_labels: [N], the class of every object.
        caps: numbers of detections per image and class for which recall is computed too.
    """
    sizes, thresholds, _ = matches.correct.shape
    classes = len(matches.first) - 1
    objects = np.stack([np.bincount(object_labels[counted], minlength=classes) for counted in matches.counted])
    precision = np.full((sizes, classes, thresholds, len(RECALL_LEVELS)), -1.0)
    recall = np.full((sizes, classes, thresholds), -1.0)
    capped = {cap: recall.copy() for cap in caps}
    for size in range(sizes):
        present = np.flatnonzero(objects[size])
        for threshold in range(thresholds):
            correct = np.flatnonzero(matches.correct[size, threshold])
            # Counts before and at each correct detection, those of earlier classes included.
            counting = np.cumsum(~matches.ignored[size, threshold], dtype=np.int64)
            before = np.r_[0, counting][matches.first]
            bounds = np.searchsorted(correct, matches.first)
            for label in present.tolist():
                own = slice(bounds[label], bounds[label + 1])
                hits = np.arange(1, bounds[label + 1] - bounds[label] + 1, dtype=np.float64)
                wrong = (counting[correct[own]] - before[label]) - hits
                recalls = hits / objects[size, label]
                recall[size, label, threshold] = recalls[-1] if len(hits) else 0.0
                for cap, values in capped.items():
                    within = np.count_nonzero(matches.ranks[correct[own]] < cap)
                    values[size, label, threshold] = within / objects[size, label]
                precision[size, label, threshold] = _at_recall_levels(recalls, hits / (wrong + hits + np.spacing(1)))
    return Tables(precision, recall, capped)


def _at_recall_levels(recalls: NDArray[np.float64], precisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The highest precision at each of `RECALL_LEVELS` or a higher recall, 0 where it is not reached: [101].

    Args:
        recalls: recall at each correct detection, ascending.
        precisions: precision there; at the wrong detections in between it is lower than before.
    """
    highest = np.maximum.accumulate(precisions[::-1])[::-1]
    places = np.searchsorted(recalls, RECALL_LEVELS, side="left")
    levels: NDArray[np.float64] = np.append(highest, 0.0)[places]
    return levels


def coco_metrics(found: Tables) -> dict[str, float]:
    """The twelve metrics of `METRIC_NAMES` as fractions, -1 if the data set has no object of a size.

    Args:
        found: of `IOU_THRESHOLDS` and `SIZE_RANGES`, with at most 100 detections per image and class.
    """
    everything, small, medium, large = range(len(SIZE_RANGES))
    half, three_quarters = IOU_THRESHOLDS.index(0.5), 5
    values = (
        *(found.precision[everything], found.precision[everything, :, half]),
        *(found.precision[everything, :, three_quarters], *(found.precision[size] for size in (small, medium, large))),
        *(*(found.recall_capped[cap][everything] for cap in AR_CAPS), found.recall[everything]),
        *(found.recall[size] for size in (small, medium, large)),
    )
    return dict(zip(METRIC_NAMES, map(mean_of_measured, values), strict=True))


def class_metrics(found: Tables) -> dict[str, NDArray[np.float64]]:
    """AP, AP50, AP75, APs, APm, APl and AR100 of every class, [K] each; -1 for classes without objects of a size."""
    everything, small, medium, large = range(len(SIZE_RANGES))

    def means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.array([mean_of_measured(row) for row in values])

    return {
        "AP": means(found.precision[everything]),
        "AP50": means(found.precision[everything, :, 0]),
        "AP75": means(found.precision[everything, :, 5]),
        "APs": means(found.precision[small]),
        "APm": means(found.precision[medium]),
        "APl": means(found.precision[large]),
        "AR100": means(found.recall[everything]),
    }


def mean_of_measured(values: NDArray[np.float64] | Sequence[float]) -> float:
    """The mean of the values that are not -1; -1 if there is none."""
    array = np.asarray(values)
    measured = array[array > -1]
    return float(measured.mean()) if len(measured) else -1.0
