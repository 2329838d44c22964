"""What a classifier's predictions show besides its accuracy: intervals, classes, calibration, the worst images.

The predictions are collected in `accuracy.py`, which writes the result as analysis.json; `effdet/report/run_page.py`
draws it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.label_map import LabelMap

LEVEL, RESAMPLES = 0.95, 1000  # of the intervals
_QUANTILE = 1.959964  # of the normal distribution, for that level
_FEWEST_IMAGES = 5  # of a class, for an interval of its accuracy
_LEVELS = 101  # of the score, in curves
_BINS = 10  # of the score, in the calibration
_MOST_OF_CLASS, _MOST_WORST = 12, 72  # images
_DECIMALS = 5
_MOST_CELLS = 2_000_000  # of resampled counts at a time

Labels = NDArray[np.int64]
Fractions = NDArray[np.float64]


def analyze_accuracy(
    label_map: LabelMap,
    rows: Labels,
    file_names: Sequence[str],
    labels: Labels,
    best: Labels,
    scores: NDArray[np.float32],
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    """The analysis of a classifier as plain values for analysis.json.

    Args:
        label_map: the K classes.
        rows: [I], row of each image in the data set.
        file_names: I names.
        labels: [I], true classes.
        best: [I, T], the most probable classes, best first.
        scores: [I, T], their probabilities.
        metrics: those of `AccuracyEvaluator.metrics`.
    """
    right = best[:, 0] == labels
    entries = confusion_entries(labels, best[:, 0], len(label_map))
    top = scores[:, 0].astype(np.float64)
    return {
        "task": "classification",
        "weights": None,
        "images": len(labels),
        "metrics": dict(metrics),
        "intervals": _intervals(labels, best, len(label_map)) if len(labels) else None,
        "classes": _classes(label_map, labels, best[:, 0], entries),
        "curves": _coverage(top, right),
        "confusion": {"names": list(label_map.names), "entries": [list(entry) for entry in entries]},
        "calibration": _calibration(top, right) if len(labels) else None,
        "worst": _worst(rows, file_names, labels, best, scores),
    }


def confusion_entries(labels: Labels, predicted: Labels, classes: int) -> list[tuple[int, int, int]]:
    """(true label, predicted label, images) of the entries of the confusion matrix that are not zero, sorted."""
    pairs, counts = np.unique(labels * classes + predicted, return_counts=True)
    return list(zip((pairs // classes).tolist(), (pairs % classes).tolist(), counts.tolist(), strict=True))


def _intervals(labels: Labels, best: Labels, classes: int) -> dict[str, Any]:
    """Percentile intervals of the metrics, with the images drawn again with replacement.

    Images that agree in class and correctness are interchangeable, so their counts are drawn, which is the same.
    """
    hits = best == labels[:, None]
    kind = np.where(hits[:, 0], 0, np.where(hits.any(axis=1), 1, 2))  # the best class is true, one of the others, none
    cells, counts = np.unique(labels * 3 + kind, return_counts=True)
    rng, images = np.random.default_rng(0), len(labels)
    values = []
    for _ in range(-(-RESAMPLES * len(cells) // _MOST_CELLS)):
        size = -(-RESAMPLES // -(-RESAMPLES * len(cells) // _MOST_CELLS))
        values.append(_resampled(rng.multinomial(images, counts / images, size), cells, classes))
    drawn = np.concatenate(values)[:RESAMPLES]
    ends = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).T.round(_DECIMALS).tolist()
    return {
        "level": LEVEL,
        "resamples": RESAMPLES,
        **dict(zip(("top1", "top5", "mean_class_accuracy"), ends, strict=True)),
    }


def _resampled(drawn: Labels, cells: Labels, classes: int) -> Fractions:
    """The three metrics of resampled data sets, [R, 3].

    Args:
        drawn: [R, C], images of each cell in each resample.
        cells: [C], 3 times the label plus 0 for a correct best class, 1 for a correct other one, 2 for none.
        classes: K.
    """
    images = drawn.sum(axis=1)
    top1 = drawn[:, cells % 3 == 0].sum(axis=1) / images
    top5 = drawn[:, cells % 3 <= 1].sum(axis=1) / images
    labels = np.unique(cells // 3)
    starts = np.searchsorted(cells // 3, labels)
    of_class = np.add.reduceat(drawn, starts, axis=1)
    right = np.add.reduceat(np.where(cells % 3 == 0, drawn, 0), starts, axis=1)
    present = of_class > 0
    means = np.where(present, right / np.maximum(of_class, 1), 0).sum(axis=1) / present.sum(axis=1)
    return np.stack([top1, top5, means], axis=1)


def _classes(
    label_map: LabelMap, labels: Labels, predicted: Labels, entries: Sequence[tuple[int, int, int]]
) -> list[dict[str, Any]]:
    classes = len(label_map)
    images, called = (np.bincount(each, minlength=classes).tolist() for each in (labels, predicted))
    hits = np.bincount(labels[labels == predicted], minlength=classes).tolist()
    instead: dict[int, tuple[int, int]] = {}  # true label -> images and label of the commonest confusion
    for true, guess, count in entries:
        if true != guess and count > instead.get(true, (0, 0))[0]:
            instead[true] = (count, guess)
    return [
        {
            "name": label_map.names[label],
            "category_id": label_map.category_ids[label],
            "images": images[label],
            "accuracy": _ratio(hits[label], images[label]),
            "precision": _ratio(hits[label], called[label]),
            "F1": _ratio(2 * hits[label], images[label] + called[label]) if images[label] else None,
            "interval": wilson_interval(hits[label], images[label]) if images[label] >= _FEWEST_IMAGES else None,
            "confused_with": label_map.names[instead[label][1]] if label in instead else None,
        }
        for label in range(classes)
    ]


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, _DECIMALS) if whole else None


def wilson_interval(hits: int, images: int) -> list[float]:
    """The 95% interval of a fraction by E. B. Wilson (1927): hits of images, of which there is at least one."""
    fraction, square = hits / images, _QUANTILE**2
    middle = (fraction + square / (2 * images)) / (1 + square / images)
    half = _QUANTILE / (1 + square / images) * math.sqrt(fraction * (1 - fraction) / images + square / (4 * images**2))
    return [round(max(middle - half, 0.0), _DECIMALS), round(min(middle + half, 1.0), _DECIMALS)]


def _coverage(scores: Fractions, right: NDArray[np.bool_]) -> dict[str, Any]:
    """For score levels in 0..1: the fraction of images with such a score or a higher one, and the accuracy on them."""
    order = np.argsort(scores, kind="stable")
    levels = np.linspace(0, 1, _LEVELS).round(2)
    below = np.searchsorted(scores[order], levels, side="left")  # images under each level
    hits = np.concatenate([right[order][::-1].cumsum()[::-1], [0]])[below]
    above = len(scores) - below
    coverage = (above / len(scores)).round(_DECIMALS).tolist() if len(scores) else [0.0] * _LEVELS
    pairs = zip(hits.tolist(), above.tolist(), strict=True)
    return {"score": levels.tolist(), "coverage": coverage, "accuracy": [_ratio(*pair) for pair in pairs]}


def _calibration(scores: Fractions, right: NDArray[np.bool_]) -> dict[str, Any]:
    """Mean score and accuracy in bins of the best score, and their mean distance (expected calibration error)."""
    bins = np.minimum((scores * _BINS).astype(np.int64), _BINS - 1)
    counts = np.bincount(bins, minlength=_BINS)
    sums, hits = (np.bincount(bins, weights=each, minlength=_BINS) for each in (scores, right.astype(np.float64)))
    error = float(np.abs(sums - hits).sum() / len(scores))
    rows = zip(counts.tolist(), sums.tolist(), hits.tolist(), strict=True)
    return {
        "bins": [
            {
                "low": number / _BINS,
                "high": (number + 1) / _BINS,
                "count": count,
                "score": round(total / count, _DECIMALS) if count else None,
                "precision": round(hit / count, _DECIMALS) if count else None,
            }
            for number, (count, total, hit) in enumerate(rows)
        ],
        "error": round(error, _DECIMALS),
        "temperature": None,  # needs all logits of an image, of which only the best classes are stored
        "error_with_temperature": None,
    }


def _worst(
    rows: Labels, file_names: Sequence[str], labels: Labels, best: Labels, scores: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """The wrong predictions with the highest scores, few of each true class."""
    wrong = np.flatnonzero(best[:, 0] != labels)
    order = wrong[np.argsort(-scores[wrong, 0], kind="stable")].tolist()
    listed: dict[int, int] = {}
    worst = []
    for image in order:
        true = int(labels[image])
        listed[true] = listed.get(true, 0) + 1
        if listed[true] > _MOST_OF_CLASS:
            continue
        predictions = zip(best[image].tolist(), scores[image].astype(np.float64).round(_DECIMALS).tolist(), strict=True)
        worst.append(
            {
                "file_name": str(file_names[image]),
                "index": int(rows[image]),
                "true": true,
                "predictions": [{"label": label, "score": score} for label, score in predictions],
            }
        )
        if len(worst) == _MOST_WORST:
            break
    return worst
