"""The class that each predicted class stands for: numbers shifted by one, or any other order.

A mapping is an array [K]: the true label of every predicted label. Boxes are not changed here, see `box_faults.py`.
Classifiers have the same checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.boxes import pairwise_iou
from effdet.data.annotations import Annotations
from effdet.diagnosis.doctor.verdict import Check
from effdet.evaluation.accuracy import AccuracyEvaluator
from effdet.evaluation.confusion_file import confusion_matrix
from effdet.evaluation.matching import Predictions

MATCH_IOU = 0.5
FEWEST_MOVED = 3  # objects that must have boxes of another class before another order of the classes is tried
_MOST_NAMED = 6  # classes in a sentence


def class_checks(
    score: Callable[[NDArray[np.int64], NDArray[np.bool_]], float],
    counts: NDArray[np.int64],
    objects: NDArray[np.int64],
    names: Sequence[str],
    before: float,
) -> Iterator[Check]:
    """Labels shifted by one in both directions, and the best order of the classes.

    Args:
        score: the metric with a mapping, of some true classes alone, a mask [K].
        counts: see `confusion`.
        objects: of each class, [K].
        names: of the classes, K names.
        before: the metric.
    """
    classes = len(names)
    for offset, word in ((-1, "high"), (1, "low")):
        mapping = shift(classes, offset)
        yield Check(
            f"labels {offset:+d}",
            score(mapping, np.ones(classes, np.bool_)),
            before,
            f"the predicted labels are one too {word}, {describe(mapping, names)}",
            "count the classes from 0 in the order of the category ids, without a class for the background",
        )
        if classes == 2:  # the other direction and the other order are the same
            return
    mapping = best_mapping(counts, objects)
    moved = _moved(mapping, counts)
    if not moved.any():
        yield Check("classes in their best order (the one they have)", before, before, "", "")
        return
    # With many classes, those in their place would hide the others; so the metric is that of the classes that move.
    yield Check(
        f"classes in another order ({int(moved.sum())} of {classes})",
        score(mapping, moved),
        score(np.arange(classes), moved),
        f"the predicted classes are in the wrong order, {describe(mapping, names)}",
        "give the class names in the order of the labels that the model was trained with",
    )


def accuracy_checks(evaluator: AccuracyEvaluator, accuracy: float) -> list[Check]:
    """Labels shifted or in another order; the metric is top-1 accuracy of the images of the classes concerned."""
    names = evaluator.label_map.names
    if len(names) < 2:
        return []
    true, predicted, images = evaluator.confusion()

    def score(mapping: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
        own = chosen[true]
        return float(images[own & (mapping[predicted] == true)].sum() / max(images[own].sum(), 1))

    counts = confusion_matrix(true, predicted, images, len(names))
    return list(class_checks(score, counts, counts.sum(axis=1), names, accuracy))


def _moved(mapping: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The true classes, [K], that a mapping gives to other predicted ones; none if too few objects say so."""
    predicted = np.flatnonzero(mapping != np.arange(len(mapping)))
    moved = np.zeros(len(mapping), np.bool_)
    if counts[mapping[predicted], predicted].sum() >= FEWEST_MOVED:
        moved[mapping[predicted]] = True
    return moved


def shift(classes: int, offset: int) -> NDArray[np.int64]:
    """The mapping that adds `offset` to the labels of K `classes`; those beyond an end go to the other one."""
    return (np.arange(classes) + offset) % classes


def confusion(table: Annotations, predictions: Predictions) -> NDArray[np.int64]:
    """Objects by true label and by the label of the best box around them, [K, K].

    The best box is the one of the highest score among those with an IoU of at least 0.5. Crowds are left out.
    """
    counts = np.zeros((len(table.label_map), len(table.label_map)), np.int64)
    order = np.argsort(predictions.images, kind="stable")
    bounds = np.searchsorted(predictions.images[order], np.arange(len(table) + 1))
    for row in range(len(table)):
        own, objects = order[bounds[row] : bounds[row + 1]], table.rows(row)
        plain = ~table.crowd[objects]
        if not len(own) or not plain.any():
            continue
        boxes = torch.from_numpy(table.boxes[objects][plain].astype(np.float64))
        overlaps = pairwise_iou(boxes, torch.from_numpy(predictions.boxes[own])).numpy() >= MATCH_IOU
        best = np.where(overlaps, predictions.scores[own], -np.inf).argmax(axis=1)
        hit = overlaps.any(axis=1)
        np.add.at(counts, (table.labels[objects][plain][hit], predictions.labels[own][best[hit]]), 1)
    return counts


def best_mapping(counts: NDArray[np.int64], objects: NDArray[np.int64]) -> NDArray[np.int64]:
    """The mapping, one to one, under which most objects of each class have a box of their class.

    Pairs are chosen in descending order of the fraction of the objects of the true class; where two are equal, a class
    stays itself. Predicted classes that fit none stay themselves if that class is free.

    Args:
        counts: see `confusion`.
        objects: of each class, [K].
    """
    classes = len(counts)
    true, predicted = np.nonzero(counts)
    fraction = counts[true, predicted] / np.maximum(objects[true], 1)
    mapping = np.full(classes, -1, np.int64)
    free = np.ones(classes, np.bool_)
    for entry in np.lexsort((true != predicted, -fraction)).tolist():
        if free[true[entry]] and mapping[predicted[entry]] < 0:
            mapping[predicted[entry]] = true[entry]
            free[true[entry]] = False
    for label in np.flatnonzero(mapping < 0).tolist():
        if free[label]:
            mapping[label] = label
            free[label] = False
    mapping[mapping < 0] = np.flatnonzero(free)
    return mapping


def describe(mapping: NDArray[np.int64], names: Sequence[str]) -> str:
    """A mapping by the names of the classes that change, such as "cat stands for dog, dog stands for cat"."""
    moved = np.flatnonzero(mapping != np.arange(len(mapping))).tolist()
    texts = [f"{names[label]} stands for {names[mapping[label]]}" for label in moved[:_MOST_NAMED]]
    return ", ".join(texts) + (f" and {len(moved) - _MOST_NAMED} more" if len(moved) > _MOST_NAMED else "")
