"""How the detections of a model look at the labels of a data set: which detection speaks for which object.

A detection speaks for the object that it overlaps most, whatever the classes, if their IoU is at least 0.5. What is
suspicious of that is in `evidence.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.diagnosis.review.error_probability import fit_logistic
from effdet.evaluation.matching import Objects, Predictions

SAME_PLACE = 0.5  # IoU from which a detection and a box are of the same object
LOWEST_SCORE = 0.05  # detections below say nothing
FEWEST_EXAMPLES = 20  # of each kind for a regression
_LARGEST_LOGIT = 12.0


class Views(NamedTuple):
    """Detections as they look at the objects: D detections by image and descending score.

    Attributes:
        images, labels, boxes, scores: [D], [D], [D, 4], [D] of the detections.
        confidences: [D] logit of the probability that the detection is correct, measured by class.
        nearest: [D] row of the object with the highest IoU; -1 if none overlaps.
        overlaps: [D] that IoU.
        others: [D] the highest IoU with any other object.
        distinct: [D] whether no better detection of any class is at the same place.
        ignored: [D] whether most of the detection is inside of a crowd.
        absent: [K] the confidence where no detection of a class is, that of one with the lowest score.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    confidences: NDArray[np.float64]
    nearest: NDArray[np.int64]
    overlaps: NDArray[np.float64]
    others: NDArray[np.float64]
    distinct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    absent: NDArray[np.float64]

    @property
    def speaks(self) -> NDArray[np.bool_]:
        """Whether each detection speaks for its nearest object, [D]."""
        return self.overlaps >= SAME_PLACE


class Support(NamedTuple):
    """The detections that speak for each object: N objects.

    Attributes:
        own: [N] the best detection of the object's class; -1 for none.
        other: [N] the best `distinct` one of any other class; -1 for none.
        place: [N] the best `distinct` one of any class; -1 for none.
    """

    own: NDArray[np.int64]
    other: NDArray[np.int64]
    place: NDArray[np.int64]


def view(objects: Objects, predictions: Predictions, num_images: int, num_classes: int) -> Views:
    """Compares all detections of at least `LOWEST_SCORE` with the objects of their images, crowds aside."""
    order = np.lexsort((-predictions.scores, predictions.images))
    order = order[predictions.scores[order] >= LOWEST_SCORE]
    images, boxes = predictions.images[order], predictions.boxes[order]
    labels, scores = predictions.labels[order], predictions.scores[order]
    nearest, overlaps, others = np.full(len(order), -1), np.zeros(len(order)), np.zeros(len(order))
    distinct, ignored = np.ones(len(order), bool), np.zeros(len(order), bool)
    by_image = np.argsort(objects.images, kind="stable")
    ends = np.arange(num_images + 1)
    starts, object_starts = np.searchsorted(images, ends), np.searchsorted(objects.images[by_image], ends)
    for image in np.unique(images).tolist():
        rows = slice(int(starts[image]), int(starts[image + 1]))
        here = by_image[object_starts[image] : object_starts[image + 1]]
        own, crowds = here[~objects.crowd[here]], here[objects.crowd[here]]
        distinct[rows] = _distinct(overlap_matrix(boxes[rows], boxes[rows]))
        if len(crowds):
            ignored[rows] = (overlap_matrix(boxes[rows], objects.boxes[crowds], True) >= SAME_PLACE).any(axis=1)
        if len(own):
            matrix = overlap_matrix(boxes[rows], objects.boxes[own])
            best = matrix.argmax(axis=1)
            number = np.arange(len(best))
            overlaps[rows] = matrix[number, best]
            nearest[rows] = np.where(overlaps[rows] > 0, own[best], -1)
            matrix[number, best] = 0
            others[rows] = matrix.max(axis=1)
    nothing = np.zeros(num_classes)
    views = Views(images, labels, boxes, scores, scores, nearest, overlaps, others, distinct, ignored, nothing)
    confidences, absent = _calibrated(objects, views)
    return views._replace(confidences=confidences, absent=absent)


def support_of(objects: Objects, views: Views) -> Support:
    """The best detections that speak for each object."""
    own, other, place = (np.full(len(objects.labels), -1) for _ in range(3))
    rows = np.flatnonzero(views.speaks)
    rows = rows[np.argsort(views.confidences[rows], kind="stable")]  # the best one is written last
    same = views.labels[rows] == objects.labels[views.nearest[rows]]
    own[views.nearest[rows[same]]] = rows[same]
    distinct = views.distinct[rows]
    other[views.nearest[rows[~same & distinct]]] = rows[~same & distinct]
    place[views.nearest[rows[distinct]]] = rows[distinct]
    return Support(own, other, place)


def overlap_matrix(
    boxes: NDArray[np.float64], others: NDArray[np.float64], as_crowds: bool = False
) -> NDArray[np.float64]:
    """IoU of each of D boxes with each of N others, [D, N]; with `as_crowds` the fraction of the box inside."""
    left, top, right, bottom = boxes.T[:, :, None]
    other_left, other_top, other_right, other_bottom = others.T[:, None]
    width = np.minimum(right, other_right) - np.maximum(left, other_left)
    height = np.minimum(bottom, other_bottom) - np.maximum(top, other_top)
    common = np.maximum(width, 0) * np.maximum(height, 0)
    whole = (right - left) * (bottom - top)
    if not as_crowds:
        whole = whole + (other_right - other_left) * (other_bottom - other_top) - common
    overlaps: NDArray[np.float64] = np.divide(common, whole, out=np.zeros_like(common), where=common > 0)
    return overlaps


def _distinct(overlaps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which detections of an image, best first, NMS across classes keeps; [D] of IoU [D, D]."""
    kept = np.ones(len(overlaps), bool)
    for row in range(len(overlaps)):
        if kept[row]:
            kept[row + 1 :] &= overlaps[row, row + 1 :] < SAME_PLACE
    return kept


def _calibrated(objects: Objects, views: Views) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Logit of the probability that each detection is the best one of an object of its class, [D]; and for no score.

    A regression on the logit of the score, with an offset for each class that is small where a class is rare. The
    second value is that of a detection of each class with the lowest score, [K].
    """
    num_classes = len(views.absent)
    scores = np.append(views.scores, np.full(num_classes, LOWEST_SCORE))
    labels = np.append(views.labels, np.arange(num_classes))
    logits, count = _logit(scores), len(views.scores)
    right = np.zeros(count, bool)
    same = np.flatnonzero(views.speaks & (views.labels == np.append(objects.labels, -1)[views.nearest]))
    best = np.unique(views.nearest[same], return_index=True)[1]  # scores fall within an image
    right[same[best]] = True
    if min(np.count_nonzero(right), np.count_nonzero(~right)) >= FEWEST_EXAMPLES:
        features = np.column_stack([logits, np.ones(len(logits)), labels[:, None] == np.arange(num_classes)])
        weights = fit_logistic(features[:count], right, np.array([1e-3, 1e-3, *[1.0] * num_classes]))
        logits = features @ weights if weights[0] > 0 else logits
    return logits[:count], logits[count:]


def _logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(scores, 1e-6, 1 - 1e-6)
    return np.clip(np.log(clipped / (1 - clipped)), -_LARGEST_LOGIT, _LARGEST_LOGIT)
