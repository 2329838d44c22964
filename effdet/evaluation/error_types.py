"""Which kind of error each wrong detection is, and how much AP50 a data set loses by each kind.

Which class is predicted for which objects is in `confusion.py`; the images with the worst errors are chosen in
`worst.py`.

Source: TIDE (Bolya et al., ECCV 2020, arXiv:2008.08115) defines the kinds and how each is corrected. Its kinds overlap;
`error_types` says which one comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.average_precision import tables
from effdet.evaluation.matching import IOU_THRESHOLDS, Matches, Objects, Predictions, overlaps_between

FOREGROUND_IOU, BACKGROUND_IOU = 0.5, 0.1
KINDS = ("classification", "localization", "both", "duplicate", "background")  # of detections
MISSED = "missed"  # of objects
SPECIAL = ("false_positive", "false_negative")
CLASSIFICATION, LOCALIZATION, BOTH, DUPLICATE, BACKGROUND = range(len(KINDS))
_HALF = IOU_THRESHOLDS.index(FOREGROUND_IOU)
_PAIRS_AT_ONCE = 1 << 20


class ErrorTypes(NamedTuple):
    """The errors of M detections, in the order of a `Matches`.

    Attributes:
        kinds: [M] int64, place in `KINDS`; -1 for correct detections and those that match a crowd.
        objects: [M] int64, row of the object that the detection matches, or that explains its error; -1 for background
            and for crowds.
    """

    kinds: NDArray[np.int64]
    objects: NDArray[np.int64]


def error_types(objects: Objects, predictions: Predictions, matches: Matches) -> ErrorTypes:
    """The error of every detection that is wrong at IoU 0.5.

    If the box overlaps objects with IoU 0.5 or more, the one of highest IoU explains the error. If it is of the
    detection's class, it has a better detection already, and this one is a duplicate; else the error is one of
    classification. Otherwise an object of its class at IoU 0.1 or more makes it an error of localization, and one of
    another class an error of both. What is left is background. Crowds explain nothing.

    Args:
        objects: of the data set.
        predictions: all detections.
        matches: theirs at `IOU_THRESHOLDS`, as `CocoEvaluator.matches` gives them.
    """
    correct = matches.correct[0, _HALF]
    wrong = np.flatnonzero(~correct & ~matches.ignored[0, _HALF])
    kinds, explaining = np.full(len(correct), -1, np.int64), np.full(len(correct), -1, np.int64)
    explaining[correct] = matches.objects[_HALF, correct]
    detections, rows, overlaps = _overlapping(objects, predictions, matches, wrong)
    own = objects.labels[rows] == matches.labels[detections]
    is_near = overlaps >= FOREGROUND_IOU
    kind = np.where(is_near, np.where(own, DUPLICATE, CLASSIFICATION), np.where(own, LOCALIZATION, BOTH))
    # Of the pairs of a detection the one that explains it comes last: near ones after far ones, among far ones those of
    # its class after others, then by ascending IoU.
    order = np.lexsort((rows, own, overlaps, own & ~is_near, is_near, detections))
    detections, kind, rows = detections[order], kind[order], rows[order]
    last = np.flatnonzero(np.r_[detections[1:] != detections[:-1], True]) if len(detections) else order
    kinds[wrong] = BACKGROUND
    kinds[detections[last]] = kind[last]
    explaining[detections[last]] = rows[last]
    return ErrorTypes(kinds, explaining)


def _overlapping(
    objects: Objects, predictions: Predictions, matches: Matches, places: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Pairs of a detection and an object that counts in its image, of any class, at IoU 0.1 or more.

    Returns:
        The detection [P], a place in `matches`; the object [P], its row; their IoU [P].
    """
    by_image = np.flatnonzero(matches.counted[0])
    by_image = by_image[np.argsort(objects.images[by_image], kind="stable")]
    images = objects.images[by_image]
    start, stop = (np.searchsorted(images, matches.images[places], side) for side in ("left", "right"))
    box_columns = np.ascontiguousarray(predictions.boxes[matches.rows].T)
    object_columns = np.ascontiguousarray(objects.boxes.T)
    empty = np.empty(0, np.int64)
    pairs: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = [(empty, empty, np.empty(0))]
    for chunk in _chunks(stop - start):
        counts = (stop - start)[chunk]
        detections = np.repeat(places[chunk], counts)
        within = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = by_image[np.repeat(start[chunk], counts) + within]
        for low, high in ((0, 2), (1, 3)):  # most pairs are apart; comparing single columns is quicker than IoU
            meet = (box_columns[low][detections] < object_columns[high][rows]) & (
                object_columns[low][rows] < box_columns[high][detections]
            )
            detections, rows = detections[meet], rows[meet]
        overlaps = overlaps_between(objects, rows, predictions, matches.rows[detections])
        reached = overlaps >= BACKGROUND_IOU
        pairs.append((detections[reached], rows[reached], overlaps[reached]))
    detections, rows, overlaps = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return detections, rows, overlaps


def _chunks(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of detections with about `_PAIRS_AT_ONCE` pairs each, so that memory does not grow with their number."""
    total = int(counts.sum())
    ends = np.searchsorted(np.cumsum(counts), np.arange(_PAIRS_AT_ONCE, total, _PAIRS_AT_ONCE), "right")
    for start, stop in pairwise(np.unique(np.r_[0, ends, len(counts)]).tolist()):
        yield slice(start, stop)


def missed_objects(matches: Matches, types: ErrorTypes, score_threshold: float = 0.0) -> NDArray[np.bool_]:
    """Whether an object has neither a correct detection nor one that is wrong in its class or its box alone: [N].

    Args:
        matches: what `error_types` had.
        types: what it gave.
        score_threshold: detections of lower scores do not count.
    """
    is_explained = (types.kinds == CLASSIFICATION) | (types.kinds == LOCALIZATION) | matches.correct[0, _HALF]
    missed: NDArray[np.bool_] = matches.counted[0].copy()
    missed[types.objects[is_explained & (matches.scores >= score_threshold)]] = False
    return missed


def lost_ap(objects: Objects, matches: Matches, types: ErrorTypes) -> dict[str, float]:
    """AP50, and by how much it rises when the errors of one kind alone are corrected: `KINDS`, "missed" and `SPECIAL`.

    A wrong class or box becomes that of the object that explains the error; of all detections that are then correct for
    one object the best score stays, the others are removed. Errors of both, duplicates and background are removed.
    Missed objects no longer count, as if they had been detected with the precision of the others. "false_positive"
    removes all wrong detections, "false_negative" all objects without a correct one. A class that has no object left
    then has no correct detection either; its AP is 0. Errors hide each other, so that the numbers need not add up to 1.

    Args:
        objects: of the data set, some of which count.
        matches: what `error_types` had.
        types: what it gave.
    """
    correct, ignored, counted = matches.correct[0, _HALF], matches.ignored[0, _HALF], matches.counted[0]
    detected = np.zeros_like(counted)
    detected[types.objects[correct]] = True
    removed = {KINDS[kind]: types.kinds == kind for kind in (BOTH, DUPLICATE, BACKGROUND)}
    fixes = {
        "AP50": (correct, ignored, counted),
        "localization": (*_corrected(matches, types, LOCALIZATION), counted),
        **{name: (correct, ignored | which, counted) for name, which in removed.items()},
        MISSED: (correct, ignored, counted & ~missed_objects(matches, types)),
        "false_positive": (correct, ignored | (types.kinds >= 0), counted),
        "false_negative": (correct, ignored, detected),
    }
    columns = (np.stack(column) for column in zip(*fixes.values(), strict=True))
    values = dict(zip(fixes, _ap50(objects, matches, *columns).tolist(), strict=True))
    values["classification"] = _ap50_with_true_classes(objects, matches, types)
    base = values.pop("AP50")
    return {"AP50": base, **{name: values[name] - base for name in (*KINDS, MISSED, *SPECIAL)}}


def _corrected(matches: Matches, types: ErrorTypes, kind: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which detections are correct [M] and which ignored [M] once the errors of a kind are corrected."""
    correct = matches.correct[0, _HALF]
    possible = np.flatnonzero(correct | (types.kinds == kind))
    possible = possible[np.lexsort((matches.rows[possible], -matches.scores[possible]))]
    _, best = np.unique(types.objects[possible], return_index=True)
    fixed = np.zeros_like(correct)
    fixed[possible[best]] = True
    ignored = matches.ignored[0, _HALF].copy()
    ignored[possible] |= ~fixed[possible]
    return fixed, ignored


def _ap50_with_true_classes(objects: Objects, matches: Matches, types: ErrorTypes) -> float:
    """AP50 once the errors of classification are corrected, which sorts the detections into other classes."""
    correct, ignored = _corrected(matches, types, CLASSIFICATION)
    labels = np.where(types.kinds == CLASSIFICATION, objects.labels[types.objects], matches.labels)
    order = np.lexsort((matches.rows, -matches.scores, labels))
    first = np.searchsorted(labels[order], np.arange(len(matches.first)))
    moved = replace(matches, rows=matches.rows[order], first=first, ranks=matches.ranks[order])
    return float(_ap50(objects, moved, correct[None, order], ignored[None, order], matches.counted[:1])[0])


def _ap50(
    objects: Objects,
    matches: Matches,
    correct: NDArray[np.bool_],
    ignored: NDArray[np.bool_],
    counted: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """COCO's AP50 of F variants of what is correct [F, M] and ignored [F, M] and of which objects count [F, N]: [F]."""
    variants = replace(matches, correct=correct[:, None], ignored=ignored[:, None], counted=counted)
    precision = tables(variants, objects.labels, caps=()).precision[:, :, 0].mean(axis=-1)
    present = np.bincount(objects.labels[matches.counted[0]], minlength=precision.shape[1]) > 0
    mean: NDArray[np.float64] = np.maximum(precision[:, present], 0.0).mean(axis=-1)
    return mean


def errors_analysis(
    objects: Objects, matches: Matches, types: ErrorTypes, score_threshold: float
) -> dict[str, Any] | None:
    """Lost AP50 by kind of error, and how many errors there are from a score on; None without objects.

    AP needs detections of all scores, and its losses count them all. The counts are those that a user of the threshold
    meets.

    Args:
        objects: of the data set.
        matches: what `error_types` had.
        types: what it gave.
        score_threshold: lowest score of detections that are counted.
    """
    if not matches.counted[0].any():
        return None
    shown = matches.scores >= score_threshold
    correct = shown & matches.correct[0, _HALF]
    numbers = np.bincount(types.kinds[shown & (types.kinds >= 0)], minlength=len(KINDS)).tolist()
    counts = {
        **dict(zip(KINDS, numbers, strict=True)),
        MISSED: int(np.count_nonzero(missed_objects(matches, types, score_threshold))),
        "false_positive": sum(numbers),
        "false_negative": int(np.count_nonzero(matches.counted[0]) - np.count_nonzero(correct)),
    }
    return {**lost_ap(objects, matches, types), "score_threshold": score_threshold, "counts": counts}
