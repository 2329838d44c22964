"""Precision, recall and F1 over the confidence threshold, and which threshold to run a detector at.

A detection is correct if it matches an object at IoU 0.5. Which ones do is decided in `matching.py`; what a score means
as a probability is in `calibration.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.average_precision import RECALL_LEVELS, Tables
from effdet.evaluation.matching import Matches

SCORE_LEVELS: NDArray[np.float64] = np.arange(1, 1000) / 1000  # confidence thresholds that are tried
WANTED = (0.8, 0.9, 0.95)  # recall and precision for which a threshold is given
TOLERANCE = 0.025  # of the best F1; thresholds that lose less are as good
OWN_THRESHOLD_OBJECTS = 30  # a class of so many objects has the mean of its own best threshold and the overall one
_CURVE_STEP = 10  # every tenth level is in the curves
_DECIMALS = 5


class Counts(NamedTuple):
    """Detections at or above each of `SCORE_LEVELS`, by class.

    Attributes:
        correct: [K, S] int64, those that match an object.
        wrong: [K, S] int64, those that do not; detections of crowds are neither.
        objects: [K] int64, objects that count.
    """

    correct: NDArray[np.int64]
    wrong: NDArray[np.int64]
    objects: NDArray[np.int64]

    def overall(self) -> Counts:
        """All classes as one: [1, S]."""
        return Counts(*(np.asarray(column).sum(axis=0, keepdims=True) for column in self))

    def recall(self) -> NDArray[np.float64]:
        """[K, S]; NaN for classes without objects."""
        return _ratio(self.correct, self.objects[:, None])

    def precision(self) -> NDArray[np.float64]:
        """[K, S]; NaN where there is no detection."""
        return _ratio(self.correct, self.correct + self.wrong)

    def f1(self) -> NDArray[np.float64]:
        """The harmonic mean of precision and recall, 2 correct / (detections + objects): [K, S].

        NaN for classes without objects.
        """
        objects = self.objects[:, None]
        return np.where(objects > 0, _ratio(2 * self.correct, self.correct + self.wrong + objects), np.nan)


def count(matches: Matches, object_labels: NDArray[np.int64]) -> Counts:
    """Correct and wrong detections by class and confidence threshold.

    Args:
        matches: of objects of all sizes, with 0.5 as the first IoU threshold.
        object_labels: [N], the class of every object.
    """
    classes, levels = len(matches.first) - 1, len(SCORE_LEVELS)
    reached = np.searchsorted(SCORE_LEVELS, matches.scores, side="right")  # so many thresholds keep the detection
    cells = matches.labels * (levels + 1) + reached
    correct, counts = matches.correct[0, 0], ~matches.ignored[0, 0]

    def at_or_above(chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
        table = np.bincount(cells[chosen], minlength=classes * (levels + 1)).reshape(classes, levels + 1)
        return np.cumsum(table[:, :0:-1], axis=1)[:, ::-1]

    objects = np.bincount(object_labels[matches.counted[0]], minlength=classes)
    return Counts(at_or_above(correct & counts), at_or_above(~correct & counts), objects)


def best_threshold(counts: Counts) -> float | None:
    """The confidence threshold of the best F1 of all classes as one (micro average); None if nothing is correct."""
    place = _best_places(counts.overall())[0]
    return None if place < 0 else float(SCORE_LEVELS[place])


def class_thresholds(counts: Counts) -> NDArray[np.float64] | None:
    """The confidence threshold of every class: [K]; None if nothing is correct.

    The best threshold of a class with few objects is a matter of chance. So it is averaged with the overall one, as
    logits, with weight N / (N + `OWN_THRESHOLD_OBJECTS`) for a class of N objects.
    """
    overall = best_threshold(counts)
    if overall is None:
        return None
    places = _best_places(counts)
    own = np.where(places < 0, overall, SCORE_LEVELS[places])
    weights = counts.objects / (counts.objects + OWN_THRESHOLD_OBJECTS)
    mean = weights * _logit(own) + (1 - weights) * _logit(np.float64(overall))
    return np.round(1 / (1 + np.exp(-mean)), 3)


def threshold_for_recall(counts: Counts, wanted: float) -> float | None:
    """The highest confidence threshold with at least the wanted recall over all classes; None if there is none."""
    enough = np.flatnonzero(counts.overall().recall()[0] >= wanted)
    return float(SCORE_LEVELS[enough[-1]]) if len(enough) else None


def threshold_for_precision(counts: Counts, wanted: float) -> float | None:
    """The lowest confidence threshold with at least the wanted precision over all classes; None if there is none."""
    enough = np.flatnonzero(counts.overall().precision()[0] >= wanted)
    return float(SCORE_LEVELS[enough[0]]) if len(enough) else None


def operating_point(counts: Counts, threshold: float | None) -> dict[str, float | None]:
    """Score, F1, precision and recall of all classes as one at a threshold; all None without a threshold."""
    overall = counts.overall()
    columns = {"F1": overall.f1(), "precision": overall.precision(), "recall": overall.recall()}
    if threshold is None:
        return dict.fromkeys(("score", *columns))
    place = _place(np.float64(threshold))
    return {"score": threshold, **{name: _plain(values[0, place]) for name, values in columns.items()}}


def thresholds(counts: Counts) -> dict[str, Any]:
    """The best threshold, and those for the recalls and precisions of `WANTED`, as plain containers."""
    searches = {"recall": threshold_for_recall, "precision": threshold_for_precision}
    wanted = {
        name: [{"wanted": value, **operating_point(counts, search(counts, value))} for value in WANTED]
        for name, search in searches.items()
    }
    return {"best": operating_point(counts, best_threshold(counts)), **wanted}


def class_operating_points(counts: Counts) -> list[dict[str, float | None]]:
    """For each class its threshold and its F1, precision and recall there, as plain containers; K of them."""
    chosen = class_thresholds(counts)
    if chosen is None:
        return [dict.fromkeys(("threshold", "F1", "precision", "recall")) for _ in counts.objects]
    classes, places = np.arange(len(chosen)), _place(chosen)
    columns = {"F1": counts.f1(), "precision": counts.precision(), "recall": counts.recall()}
    rows = {name: values[classes, places] for name, values in columns.items()}
    return [
        {"threshold": float(chosen[label]), **{name: _plain(values[label]) for name, values in rows.items()}}
        for label in classes.tolist()
    ]


def curves(counts: Counts, tables: Tables) -> dict[str, Any]:
    """Precision over recall, and F1, precision and recall over confidence, as plain containers.

    `precision["all"]` is the mean over the classes with objects, as in AP50; over confidence "all" takes all classes as
    one. What cannot be measured is None.
    """
    levels = slice(_CURVE_STEP - 1, None, _CURVE_STEP)
    present = counts.objects > 0
    precision = tables.precision[0, :, 0]  # of objects of all sizes at IoU 0.5
    f1, overall = counts.f1(), counts.overall()

    def by_class(values: NDArray[np.float64]) -> list[list[float | None] | None]:
        return [_plain_row(row) if measured else None for row, measured in zip(values, present.tolist(), strict=True)]

    mean = precision[present].mean(axis=0) if present.any() else np.full(len(RECALL_LEVELS), np.nan)
    return {
        "recall": RECALL_LEVELS.round(2).tolist(),
        "precision": {"all": _plain_row(mean), "classes": by_class(precision)},
        "score": SCORE_LEVELS[levels].tolist(),
        "F1": {"all": _plain_row(overall.f1()[0, levels]), "classes": by_class(f1[:, levels])},
        "precision_at": {"all": _plain_row(overall.precision()[0, levels])},
        "recall_at": {"all": _plain_row(overall.recall()[0, levels])},
    }


def _best_places(counts: Counts) -> NDArray[np.int64]:
    """For each row the place in `SCORE_LEVELS` of its best threshold, -1 without a correct detection: [K].

    The peak of F1 over a few images is at a place that other images do not have. So this is the middle of the
    thresholds around the peak that lose less than `TOLERANCE`.
    """
    f1 = np.nan_to_num(counts.f1())
    peaks = f1.argmax(axis=1)
    highest = f1[np.arange(len(f1)), peaks]
    places = np.arange(f1.shape[1])
    worse = f1 < (1 - TOLERANCE) * highest[:, None]
    first = np.where(worse & (places < peaks[:, None]), places, -1).max(axis=1) + 1
    last = np.where(worse & (places > peaks[:, None]), places, len(places)).min(axis=1) - 1
    return np.where(highest > 0, (first + last) // 2, -1)


def _place(threshold: NDArray[np.float64] | np.float64) -> NDArray[np.int64]:
    """The place in `SCORE_LEVELS` of a threshold of three decimals."""
    return np.rint(threshold * 1000).astype(np.int64) - 1


def _logit(values: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    return np.log(values / (1 - values))


def _ratio(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> NDArray[np.float64]:
    """NaN where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    result = np.full(shape, np.nan)
    np.divide(numerator, denominator, out=result, where=np.broadcast_to(denominator > 0, shape))
    return result


def _plain(value: np.float64) -> float | None:
    """A number for JSON; None for NaN."""
    return None if np.isnan(value) else round(float(value), _DECIMALS)


def _plain_row(values: NDArray[np.float64]) -> list[float | None]:
    return [_plain(value) for value in values]
