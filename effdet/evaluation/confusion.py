"""The confusion matrix of a detector, with background as one more class: which class it predicts for which objects.

The files are written by the functions for classifiers in `accuracy.py`; why AP is lost is in `error_types.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.confusion_file import write_confusion
from effdet.evaluation.matching import IOU_THRESHOLDS, Matches, Objects, Predictions, match
from effdet.report.confusion import draw_confusion

BACKGROUND = "background"
IOU_THRESHOLD = 0.5
_HALF = IOU_THRESHOLDS.index(IOU_THRESHOLD)


class Confusion(NamedTuple):
    """The confusion matrix as its P non-zero entries, sorted by true class, then by predicted class.

    Attributes:
        rows: [P] int64, true class; K for detections without an object.
        columns: [P] int64, predicted class; K for objects without a detection.
        counts: [P] int64.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    counts: NDArray[np.int64]


def confusion(
    objects: Objects, predictions: Predictions, matches: Matches, score_threshold: float, num_classes: int
) -> Confusion:
    """The confusion matrix of the detections whose score is at least `score_threshold`, at IoU 0.5.

    Objects are given away twice. First to detections of their own class, as for AP, so that the diagonal holds the
    correct detections of AP. Then each detection that is left, in descending order of scores, gets of the objects that
    are left the one of highest IoU, whatever its class. Crowds, and detections that match one, count nowhere.

    Args:
        objects: of the data set.
        predictions: all detections.
        matches: theirs at `IOU_THRESHOLDS`, as `CocoEvaluator.matches` gives them.
        score_threshold: lowest score.
        num_classes: K.
    """
    shown = matches.scores >= score_threshold
    correct = shown & matches.correct[0, _HALF]
    matched = matches.objects[_HALF, correct]
    left_objects = matches.counted[0].copy()
    left_objects[matched] = False
    left_rows = np.flatnonzero(left_objects)
    left_detections = np.sort(matches.rows[shown & ~correct & ~matches.ignored[0, _HALF]])
    detections, found = _match_any_class(objects, predictions, left_rows, left_detections)

    background = np.full(max(len(left_detections), len(left_rows)), num_classes, np.int64)
    unmatched = predictions.labels[np.setdiff1d(left_detections, detections)]
    missed = objects.labels[np.setdiff1d(left_rows, found)]
    true = np.concatenate([objects.labels[matched], objects.labels[found], background[: len(unmatched)], missed])
    predicted = np.concatenate(
        [matches.labels[correct], predictions.labels[detections], unmatched, background[: len(missed)]]
    )
    cells, counts = np.unique(true * (num_classes + 1) + predicted, return_counts=True)
    return Confusion(cells // (num_classes + 1), cells % (num_classes + 1), counts)


def _match_any_class(
    objects: Objects, predictions: Predictions, object_rows: NDArray[np.int64], detection_rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of some detections and objects, those that match without regard to class: their rows, [Q] and [Q]."""
    columns: dict[str, NDArray[Any]] = {name: column[object_rows] for name, column in objects._asdict().items()}
    some_objects = Objects(**{**columns, "labels": np.zeros_like(object_rows)})
    columns = {name: column[detection_rows] for name, column in predictions._asdict().items()}
    some = Predictions(**{**columns, "labels": np.zeros_like(detection_rows)})
    matches = match(
        some_objects,
        some,
        num_images=1 + max(int(some_objects.images.max(initial=0)), int(some.images.max(initial=0))),
        num_classes=1,
        iou_thresholds=(IOU_THRESHOLD,),
        size_ranges=((0.0, np.inf),),
        most=max(len(detection_rows), 1),
    )
    matched = matches.correct[0, 0]
    return detection_rows[matches.rows[matched]], object_rows[matches.objects[0, matched]]


def write_detector_confusion(folder: Path, entries: Sequence[Sequence[int]], class_names: Sequence[str]) -> None:
    """Write a detector's confusion matrix as confusion.csv and confusion.png, background last.

    Args:
        folder: of the evaluation.
        entries: true class, predicted class and count of the entries of a `Confusion`, as in analysis.json.
        class_names: K names.
    """
    names = (*class_names, BACKGROUND)
    rows, columns, counts = np.array(entries, np.int64).reshape(-1, 3).T
    write_confusion(folder / "confusion.csv", rows, columns, counts, names, counted="objects")
    draw_confusion(folder / "confusion.png", rows, columns, counts, names, counted="objects")
