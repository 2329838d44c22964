"""What the detections of a model say against the labels of a data set: which are missing, too many, or misnamed.

How detections look at labels is in `views.py`. The evidence becomes a probability in `error_probability.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.diagnosis.review.error_probability import fit_logistic, sigmoid
from effdet.diagnosis.review.views import FEWEST_EXAMPLES, SAME_PLACE, Support, Views, overlap_matrix, support_of
from effdet.evaluation.matching import Objects

_BORDER = 0.2  # of a box's size: from a border so far away, nearness falls to 1/e


class Evidence(NamedTuple):
    """The candidates of one kind of error, and how simulated errors of the kind look.

    Attributes:
        rows: [C] row of the detection for missed labels, of the object for others.
        values: [C] evidence; higher is more suspicious.
        simulated: [S] evidence of simulated errors, -inf for those that are no candidates.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float64]
    simulated: NDArray[np.float64]


def missed_evidence(objects: Objects, views: Views, support: Support, sizes: NDArray[np.float64]) -> Evidence:
    """Confident detections where no label is. A simulated error is the removal of a label.

    The evidence is the logit of the fraction of such detections that have a label. It comes from a regression on their
    confidence, their IoU with the nearest other label, how near the border of the image they are (people often leave
    out what it cuts off), and how completely the rest of the image is labelled.

    Args:
        objects: the labels.
        views: the detections.
        support: the detections that speak for each label.
        sizes: [I, 2] (H, W) of the images.
    """
    rows = np.flatnonzero(views.distinct & ~views.speaks & ~views.ignored)
    removed = support.place[support.place >= 0]
    examples = np.concatenate([removed, rows])
    is_labelled = np.arange(len(examples)) < len(removed)
    images = views.images[examples]
    features = [
        views.confidences[examples],
        np.where(is_labelled, views.others[examples], views.overlaps[examples]),
        _border_nearness(views.boxes[examples], sizes[images]),
    ]
    values = features[0]
    if min(len(rows), len(removed)) >= FEWEST_EXAMPLES:
        values = _regression(features, is_labelled)
        values = _regression([*features, _completeness(values, is_labelled, images, len(sizes))], is_labelled)
    simulated = np.full(np.count_nonzero(~objects.crowd), -np.inf)
    hidden = values[: len(removed)]
    simulated[: len(removed)] = np.where(views.others[removed] < SAME_PLACE, hidden, -np.inf)
    return Evidence(rows, values[len(removed) :], simulated)


def misnamed_evidence(
    objects: Objects, views: Views, support: Support, num_classes: int, rng: np.random.Generator
) -> Evidence:
    """Labels at whose place another class is detected. A simulated error is a label with a random other class."""
    labels = np.flatnonzero(~objects.crowd)
    rows, values = _contradicted(objects, views, support)
    if num_classes < 2:
        return Evidence(rows, values, np.empty(0))
    wrong = objects.labels.copy()
    wrong[labels] = (wrong[labels] + rng.integers(1, num_classes, len(labels))) % num_classes
    mistaken = objects._replace(labels=wrong)
    suspects, simulated = _contradicted(mistaken, views, support_of(mistaken, views))
    missing = np.full(len(labels) - len(suspects), -np.inf)
    return Evidence(rows, values, np.concatenate([simulated, missing]))


def spurious_evidence(
    objects: Objects,
    views: Views,
    support: Support,
    usual: NDArray[np.float64],
    sizes: NDArray[np.float64],
    rng: np.random.Generator,
) -> Evidence:
    """Labels of objects that are usually detected, but for which no detection speaks. Simulated: labels elsewhere.

    Args:
        objects: the labels.
        views: the detections.
        support: the detections that speak for each label.
        usual: as `usually_detected` gives it.
        sizes: [I, 2] (H, W) of the images.
        rng: moves the labels.
    """
    rows = np.flatnonzero(~objects.crowd)
    absent = views.absent[objects.labels]
    best = np.maximum(_confidence_of(views, support.own, absent), _confidence_of(views, support.other, absent))
    moved, apart = _moved(objects, rows, sizes, rng)
    speaking = absent[rows]
    starts = np.searchsorted(views.images, np.arange(len(sizes) + 1))
    for number, (row, box) in enumerate(zip(rows.tolist(), moved, strict=True)):
        here = slice(int(starts[objects.images[row]]), int(starts[objects.images[row] + 1]))
        overlaps = overlap_matrix(views.boxes[here], box[None])[:, 0]
        speaks = (overlaps >= SAME_PLACE) & (overlaps > views.overlaps[here])
        speaking[number] = views.confidences[here][speaks].max(initial=speaking[number])
    return Evidence(rows, usual[rows] - best[rows], (usual[rows] - speaking)[apart])


def usually_detected(objects: Objects, support: Support, num_classes: int) -> NDArray[np.float64]:
    """Logit of the fraction of labels of the same class and size for which a detection speaks, [N]; 0 for crowds."""
    rows = np.flatnonzero(~objects.crowd)
    logits = np.zeros(len(objects.labels))
    if not len(rows):
        return logits
    sizes = np.log(np.maximum(objects.box_areas[rows], 1.0))
    sizes = (sizes - sizes.mean()) / max(float(sizes.std()), 1e-6)
    classes = objects.labels[rows, None] == np.arange(num_classes)
    features = np.column_stack([np.ones(len(rows)), sizes, sizes**2, classes])
    is_detected = ((support.own >= 0) | (support.other >= 0))[rows]
    logits[rows] = features @ fit_logistic(features, is_detected, np.array([1e-3, 1.0, 1.0, *[1.0] * num_classes]))
    return logits


def _regression(features: list[NDArray[np.float64]], target: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Logits [E] of a regression of `target` on features, of which the first is a confidence.

    They are the confidences if these would count against the target.
    """
    columns = np.column_stack([*features, np.ones(len(target))])
    weights = fit_logistic(columns, target, np.array([*[1.0] * len(features), 1e-3]))
    logits: NDArray[np.float64] = columns @ weights if weights[0] > 0 else features[0]
    return logits


def _border_nearness(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 for boxes that reach the border of their image, towards 0 for those that are far from it, [E].

    Args:
        boxes: [E, 4] xyxy.
        sizes: [E, 2] (H, W) of the image of each.
    """
    distance = np.minimum(boxes[:, :2], sizes[:, ::-1] - boxes[:, 2:]).min(axis=1)
    extent = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1))
    nearness: NDArray[np.float64] = np.exp(-np.maximum(distance, 0) / np.maximum(_BORDER * extent, 1e-6))
    return nearness


def _completeness(
    logits: NDArray[np.float64], is_labelled: NDArray[np.bool_], images: NDArray[np.int64], num_images: int
) -> NDArray[np.float64]:
    """How much more often than expected the other detections of the same image have a label, in logits, [E].

    It is the offset of the image in a regression with such offsets, N(0, 1) a priori: one step of Newton's method from
    0. The detection itself is left out, so that it does not matter whether its label was removed.

    Args:
        logits: [E] of the expected fraction with a label.
        is_labelled: [E] whether a detection has one.
        images: [E] image of each detection.
        num_images: number of images.
    """
    expected = sigmoid(logits)
    excess, variance = is_labelled - expected, expected * (1 - expected)
    of_image = (np.bincount(images, values, num_images)[images] - values for values in (excess, variance))
    excess_of_others, variance_of_others = of_image
    offsets: NDArray[np.float64] = excess_of_others / (variance_of_others + 1)
    return offsets


def _contradicted(objects: Objects, views: Views, support: Support) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Objects at whose place another class is detected, [C], and by how much more confidently than their own, [C]."""
    rows = np.flatnonzero(support.other >= 0)
    own = _confidence_of(views, support.own[rows], views.absent[objects.labels[rows]])
    return rows, views.confidences[support.other[rows]] - own


def _moved(
    objects: Objects, rows: NDArray[np.int64], sizes: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Labels at random places of their images, [R, 4], and which of them are not at the place of a label, [R]."""
    boxes = objects.boxes[rows]
    extents = boxes[:, 2:] - boxes[:, :2]
    space = np.maximum(sizes[objects.images[rows]][:, ::-1] - extents, 0)
    corners = rng.random(space.shape) * space
    moved = np.concatenate([corners, corners + extents], axis=1)
    starts = np.searchsorted(objects.images[rows], np.arange(len(sizes) + 1))
    apart = np.empty(len(rows), bool)
    for number, image in enumerate(objects.images[rows].tolist()):
        here = boxes[starts[image] : starts[image + 1]]
        apart[number] = overlap_matrix(moved[number][None], here).max() < SAME_PLACE
    return moved, apart


def _confidence_of(views: Views, detections: NDArray[np.int64], absent: NDArray[np.float64]) -> NDArray[np.float64]:
    """The confidence of each detection, or `absent` where it is -1."""
    known = np.append(views.confidences, 0.0)[detections]
    return np.where(detections >= 0, known, absent)
