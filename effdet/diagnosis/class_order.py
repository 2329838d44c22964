"""The class that each predicted class stands for: numbers shifted by one, or any other order.

A mapping is an array [K]: the true label of every predicted label. Boxes are not changed here, see `box_faults.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.boxes import pairwise_iou
from effdet.data.annotations import Annotations
from effdet.diagnosis.scoring import Predictions

MATCH_IOU = 0.5
_MOST_NAMED = 6  # classes in a sentence


def shift(classes: int, offset: int) -> NDArray[np.int64]:
    """The mapping that adds `offset` to the labels of K `classes`; those beyond an end go to the other one."""
    return (np.arange(classes) + offset) % classes


def confusion(table: Annotations, predictions: Predictions) -> NDArray[np.int64]:
    """Objects by true label and by the label of the best box around them, [K, K].

    The best box is the one of the highest score among those with an IoU of at least 0.5. Crowds are left out.
    """
    counts = np.zeros((len(table.label_map), len(table.label_map)), np.int64)
    bounds = np.searchsorted(predictions.images, np.arange(len(table) + 1))
    for row in range(len(table)):
        own, objects = slice(bounds[row], bounds[row + 1]), table.rows(row)
        plain = ~table.crowd[objects]
        if own.start == own.stop or not plain.any():
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
