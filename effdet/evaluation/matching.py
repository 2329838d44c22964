"""Which detections match which objects, by the rules of the COCO detection challenge, for a whole data set at once.

The precision and recall that follow from it are in `average_precision.py`; other rules of matching are in `voc.py`.

Source: `COCOeval.evaluateImg` of pycocotools defines the rules. An object is given to the detections of its image and
class in descending order of their scores, each of which gets the object of highest IoU that is left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

IOU_THRESHOLDS: tuple[float, ...] = tuple(np.linspace(0.5, 0.95, 10).tolist())
SIZE_RANGES: dict[str, tuple[float, float]] = {  # square pixels, both ends included
    "all": (0.0, 1e10),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e10),
}
COCO_CAP = 100  # detections per image and class that COCO's metrics count
_HIGHEST_IOU = 1 - 1e-10  # asked for by a threshold of 1, so that rounding does not matter
_PAIRS_AT_ONCE = 1 << 20


class Objects(NamedTuple):
    """The objects of a data set, in any order; of equal IoU the later one is matched.

    Attributes:
        images: [N] int64, row of the image.
        labels: [N] int64 in 0..K-1.
        boxes: [N, 4] float64, xyxy in pixels of the image.
        box_areas: [N] float64, width times height.
        areas: [N] float64, by which an object is small, medium or large; the area of its mask if it has one.
        crowd: [N] bool; a crowd may match any number of detections, none of which counts.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    box_areas: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowd: NDArray[np.bool_]


class Predictions(NamedTuple):
    """All detections of a data set. Of equal scores the earlier one counts as better.

    Attributes:
        images: [D] int64, row of the image.
        labels: [D] int64 in 0..K-1.
        boxes: [D, 4] float64, xyxy in pixels of the image.
        box_areas: [D] float64, width times height.
        scores: [D] float64.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    box_areas: NDArray[np.float64]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Matches:
    """Detections by class and descending score, and whether they match an object: M of them, T thresholds, S sizes.

    Attributes:
        rows: [M] int64, rows of the `Predictions`.
        images: [M] int64, row of the image.
        labels: [M] int64.
        scores: [M] float64.
        ranks: [M] int64, place among the detections of the same image and class, from 0.
        objects: [T, M] int64, row of the matched object when objects of all sizes count; -1 for none.
        correct: [S, T, M] bool, whether the detection matches an object that counts.
        ignored: [S, T, M] bool, whether it counts neither as correct nor as wrong.
        counted: [S, N] bool, the objects that count: neither crowds nor of another size.
        first: [K + 1] int64; detections `first[k]:first[k + 1]` are of class k.
    """

    rows: NDArray[np.int64]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    ranks: NDArray[np.int64]
    objects: NDArray[np.int64]
    correct: NDArray[np.bool_]
    ignored: NDArray[np.bool_]
    counted: NDArray[np.bool_]
    first: NDArray[np.int64]


class _Pairs(NamedTuple):
    """Pairs of a detection and an object of its image and class whose IoU reaches the lowest threshold: P pairs.

    They are sorted by turn, detection, descending IoU and descending row of the object.

    Attributes:
        turns: [P], how many detections with pairs come before in the same image and class.
        detections: [P], place of the detection in `Matches`.
        objects: [P], row of the object.
        overlaps: [P], IoU; for a crowd the fraction of the detection inside of it.
    """

    turns: NDArray[np.int64]
    detections: NDArray[np.int64]
    objects: NDArray[np.int64]
    overlaps: NDArray[np.float64]


def match(
    objects: Objects,
    predictions: Predictions,
    num_images: int,
    num_classes: int,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
    size_ranges: Sequence[tuple[float, float]] = tuple(SIZE_RANGES.values()),
    most: int = COCO_CAP,
) -> Matches:
    """The matches of a data set.

    Args:
        objects: its objects.
        predictions: its detections.
        num_images: rows of images are below this number.
        num_classes: K.
        iou_thresholds: T thresholds of IoU.
        size_ranges: S ranges of areas; the first is that of `Matches.objects`.
        most: detections per image and class, best scores first; the others are left out.
    """
    order = np.argsort(-predictions.scores, kind="stable")
    order = order[np.argsort(_small(predictions.labels[order], num_classes), kind="stable")]
    ranks = _ranks(predictions.labels[order] * num_images + predictions.images[order])
    order, ranks = order[ranks < most], ranks[ranks < most]
    images, labels = predictions.images[order], predictions.labels[order]
    thresholds = np.minimum(np.asarray(iou_thresholds, np.float64), _HIGHEST_IOU)
    pairs = _pairs(objects, predictions, order, num_images, float(thresholds.min()))

    low, high = (np.asarray(ends, np.float64)[:, None] for ends in zip(*size_ranges, strict=True))
    counted = (objects.areas >= low) & (objects.areas <= high) & ~objects.crowd
    areas = predictions.box_areas[order]
    outside = (areas < low) | (areas > high)
    shape = (len(size_ranges), len(thresholds), len(order))
    correct, ignored = np.zeros(shape, bool), np.empty(shape, bool)
    matched = np.full(shape[1:], -1, np.int64)

    def match_size(number: int) -> None:
        """Fills what belongs to one range of sizes."""
        ignored[number] = outside[number]
        for threshold, detection, row in _greedy(pairs, counted[number], objects.crowd, thresholds):
            correct[number, threshold, detection] = counts = counted[number, row]
            ignored[number, threshold, detection] = ~counts
            if number == 0:
                matched[threshold, detection] = row

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(match_size, range(len(size_ranges))))
    return Matches(
        rows=order,
        images=images,
        labels=labels,
        scores=predictions.scores[order],
        ranks=ranks,
        objects=matched,
        correct=correct,
        ignored=ignored,
        counted=counted,
        first=np.searchsorted(labels, np.arange(num_classes + 1)),
    )


def overlaps_between(
    objects: Objects, rows: NDArray[np.int64], predictions: Predictions, detections: NDArray[np.int64]
) -> NDArray[np.float64]:
    """IoU of the objects [P] and the detections [P] in these rows, pair by pair, as in `overlaps_of`: [P]."""
    return overlaps_of(
        predictions.boxes[detections],
        predictions.box_areas[detections],
        objects.boxes[rows],
        objects.box_areas[rows],
        objects.crowd[rows],
    )


def overlaps_of(
    boxes: NDArray[np.float64],
    areas: NDArray[np.float64],
    others: NDArray[np.float64],
    other_areas: NDArray[np.float64],
    crowd: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """IoU of boxes [P, 4] and the others [P, 4], pair by pair; for a crowd the fraction of the box inside of it: [P].

    Rounds like pycocotools, so that an IoU of exactly 0.5 is one here too.
    """
    width = np.minimum(boxes[:, 2], others[:, 2]) - np.maximum(boxes[:, 0], others[:, 0])
    height = np.minimum(boxes[:, 3], others[:, 3]) - np.maximum(boxes[:, 1], others[:, 1])
    common = np.where((width > 0) & (height > 0), width * height, 0.0)
    union = np.where(crowd, areas, areas + other_areas - common)
    return np.divide(common, union, out=np.zeros_like(common), where=common > 0)


def _small(values: NDArray[np.int64], bound: int) -> NDArray[np.integer]:
    """The same numbers in a type of 16 bits if they fit, which numpy sorts in linear time."""
    return values.astype(np.uint16) if bound <= 1 << 16 else values


def _ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often the group of each entry has occurred before: [M]."""
    order = np.argsort(groups, kind="stable")
    grouped = groups[order]
    starts = np.flatnonzero(np.r_[True, grouped[1:] != grouped[:-1]]) if len(groups) else np.empty(0, np.int64)
    ranks = np.empty(len(groups), np.int64)
    ranks[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return ranks


def candidates(
    objects: Objects, predictions: Predictions, order: NDArray[np.int64], num_images: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of a detection and an object of its image and class, about `_PAIRS_AT_ONCE` at a time.

    Of the detections `order`, [M] rows, are used. A pair is a place in `order` and a row of the objects, [P] each; all
    pairs of a detection stand together, rows ascending.
    """
    object_groups = objects.labels * num_images + objects.images
    by_group = np.argsort(object_groups, kind="stable")
    sorted_groups = object_groups[by_group]
    groups = predictions.labels[order] * num_images + predictions.images[order]
    start, stop = (np.searchsorted(sorted_groups, groups, side) for side in ("left", "right"))
    places = np.flatnonzero(stop > start)
    for chunk in _chunks((stop - start)[places]):
        chosen = places[chunk]
        counts = (stop - start)[chosen]
        detections = np.repeat(chosen, counts)
        within = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
        yield detections, by_group[np.repeat(start[chosen], counts) + within]


def _pairs(
    objects: Objects, predictions: Predictions, order: NDArray[np.int64], num_images: int, lowest: float
) -> _Pairs:
    """All pairs whose IoU is at least `lowest`."""
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))]
    for detections, rows in candidates(objects, predictions, order, num_images):
        overlaps = overlaps_between(objects, rows, predictions, order[detections])
        reached = overlaps >= lowest
        found.append((detections[reached], rows[reached], overlaps[reached]))
    detections, rows, overlaps = map(np.concatenate, zip(*found, strict=True))
    groups = predictions.labels[order] * num_images + predictions.images[order]
    with_pairs, place = np.unique(detections, return_inverse=True)  # detections of a group stay in their order
    turns = _ranks(groups[with_pairs])[place]
    sorting = np.lexsort((-rows, -overlaps, detections, turns))
    return _Pairs(turns[sorting], detections[sorting], rows[sorting], overlaps[sorting])


def _chunks(counts: NDArray[np.int64]) -> Iterator[slice]:
    """Slices of detections with about `_PAIRS_AT_ONCE` pairs each, so that memory does not grow with their number."""
    ends = np.searchsorted(np.cumsum(counts), np.arange(_PAIRS_AT_ONCE, counts.sum(), _PAIRS_AT_ONCE), "right")
    bounds = np.unique(np.r_[0, ends, len(counts)])
    for start, stop in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield slice(start, stop)


def _greedy(
    pairs: _Pairs, counted: NDArray[np.bool_], crowd: NDArray[np.bool_], thresholds: NDArray[np.float64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Matched thresholds [Q], detections [Q] and objects [Q], for the n-th detections of all images and classes.

    A detection gets an object that counts if there is one, else one that does not.
    """
    # Of the pairs of a detection that are still possible, the first one matches.
    sorting = np.argsort(2 * _runs(pairs.detections, pairs.turns) + ~counted[pairs.objects], kind="stable")
    detections, rows, overlaps = pairs.detections[sorting], pairs.objects[sorting], pairs.overlaps[sorting]
    is_taken = np.zeros((len(counted), len(thresholds)), bool)
    ends = np.searchsorted(pairs.turns, np.arange(pairs.turns[-1] + 2)) if len(pairs.turns) else np.zeros(1, np.int64)
    for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        detection, row = detections[start:stop], rows[start:stop]
        possible = overlaps[start:stop, None] >= thresholds
        possible &= ~is_taken[row] | crowd[row, None]
        starts = np.flatnonzero(np.r_[True, detection[1:] != detection[:-1]])
        number = np.where(possible, np.arange(stop - start)[:, None], stop - start)
        earliest = np.minimum.reduceat(number, starts, axis=0)
        which, threshold = np.nonzero(earliest < stop - start)
        chosen = earliest[which, threshold]
        is_taken[row[chosen], threshold] = True
        yield threshold, detection[chosen], row[chosen]


def _runs(*columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number of the run of equal entries that each place is in, from 0."""
    changes = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        changes[1:] |= column[1:] != column[:-1]
    return np.cumsum(changes)
