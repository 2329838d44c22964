"""What the anchors of other settings reach: one candidate, and the best scale and aspects of an input size.

Which candidate to suggest is decided in `suggestion.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from effdet.diagnosis.anchors.coverage import Objects
from effdet.diagnosis.anchors.grid import POSITIVE_IOU, best_overlaps, count_overlapping, make_grid, match
from effdet.models import EfficientDetSpec
from effdet.models.anchors import OCTAVES, aspects_of_ratios

FEWEST_IN_CLASS = 10  # objects of a class that counts in the mean of the classes
MOST_OBJECTS = 8000  # that candidates are compared with, evenly chosen from each class
SCALES = tuple(2 ** (step / 6) for step in range(-7, 8))  # factors of the anchor scale
RATIOS = tuple(2 ** (step / 2) for step in range(-6, 7))  # width / height, from which aspects are chosen
NEAR = 0.01  # mean recall ceilings of scales that differ by less are equal
EQUAL = 0.005  # the same for aspects
KEPT = 0.85  # fraction of the positive anchors of each class that a change must keep


@dataclass(frozen=True)
class Candidate:
    """Settings of a detector and what its anchors reach.

    Attributes:
        spec: the detector with these settings.
        recall_ceiling: fraction of the objects with an anchor of IoU 0.5 or more.
        class_mean: mean of that fraction over the classes, as AP is a mean over the classes.
        best_iou: mean over the classes of the mean highest IoU of an object.
        by_class: [K] mean number of anchors of IoU 0.5 or more of an object of each class.
        positives: mean number of positive anchors of an object; None until it is shown, since counting is slower.
        multiply_adds: of the network for one image, relative to the present settings.
    """

    spec: EfficientDetSpec
    recall_ceiling: float
    class_mean: float
    best_iou: float
    by_class: NDArray[np.float64] = field(compare=False)
    positives: float | None = None
    multiply_adds: float = 1.0

    def keeps_positives_of(self, other: Candidate) -> bool:
        """Whether every class has nearly as many positives as with other settings; fewer cost AP."""
        return bool((self.by_class >= KEPT * other.by_class).all())


class Sample:
    """Objects that candidates are compared with: all, or evenly chosen ones of each class where there are many.

    Attributes:
        objects: the objects.
        weights: [N] weight with which each counts among all objects; they sum to 1.
        class_weights: [N] the same in the mean over the classes.
    """

    def __init__(self, objects: Objects) -> None:
        counts = np.bincount(objects.labels, minlength=len(objects.names))
        most = max(MOST_OBJECTS // int(np.count_nonzero(counts)), FEWEST_IN_CLASS)
        rows = [_evenly(np.flatnonzero(objects.labels == label), most) for label in np.flatnonzero(counts)]
        self.objects = objects.chosen(np.sort(np.concatenate(rows)))
        labels = self.objects.labels
        sampled = np.bincount(labels, minlength=len(counts))
        counted = counts >= FEWEST_IN_CLASS
        counted = counted if counted.any() else counts > 0
        self.weights: NDArray[np.float64] = counts[labels] / sampled[labels] / len(objects)
        self.class_weights: NDArray[np.float64] = counted[labels] / sampled[labels] / np.count_nonzero(counted)
        self._within_class = counted[labels] / sampled[labels]

    def __len__(self) -> int:
        return len(self.objects)

    def candidate(self, spec: EfficientDetSpec) -> Candidate:
        """What the anchors of a detector reach."""
        best, counts = self._reached(spec, spec.anchor_aspects)
        return self._measured(spec, best.max(axis=1), self._by_class(counts).sum(axis=0))

    def with_positives(self, candidate: Candidate) -> Candidate:
        """The candidate with its mean number of positive anchors."""
        spec = candidate.spec
        boxes = self.objects.at_input(spec.image_size, spec.letterbox)
        grid = make_grid(spec.image_size, spec.max_level, spec.anchor_scale, spec.anchor_aspects)
        counts = match(boxes, self.objects.image, grid).positives.sum(axis=1)
        return replace(candidate, positives=float(self.weights @ counts))

    def best_anchors(self, spec: EfficientDetSpec, present: Candidate) -> list[Candidate]:
        """The anchors of a spec, the best other scale, the best other aspects, and the best of both, in that order.

        All scales of `SCALES` and all sets of as many `RATIOS` as there are aspects are compared, as far as they keep
        the positives of the present settings. Among equal scales the one nearest to that of the spec is the best, among
        equal aspects the one with the highest mean IoU. What has no such candidate is left out. With more aspects than
        `RATIOS`, the scale alone is compared.
        """
        count = len(spec.anchor_aspects)
        shapes = tuple((round(across, 3), round(down, 3)) for across, down in aspects_of_ratios(RATIOS))
        scaled, both = [], []
        for factor in sorted(SCALES, key=lambda factor: abs(np.log(factor))):
            scale = spec.anchor_scale if factor == 1 else float(f"{spec.anchor_scale * factor:.2g}")
            other = replace(spec, anchor_scale=scale)
            best, counts = self._reached(other, (*spec.anchor_aspects, *shapes))
            by_class = self._by_class(counts)
            scaled.append(self._measured(other, best[:, :count].max(axis=1), by_class[:count].sum(axis=0)))
            of_shape = np.ascontiguousarray(best[:, count:].T)
            sets = []
            for chosen in itertools.combinations(range(len(shapes)), count):
                rows = list(chosen)
                with_set = replace(other, anchor_aspects=tuple(shapes[row] for row in rows))
                of_set = by_class[count:][rows].sum(axis=0)
                if (of_set >= KEPT * present.by_class).all():
                    sets.append(self._measured(with_set, of_shape[rows].max(axis=0), of_set))
            both.append(sets)
        kept = [each for each in scaled if each.keeps_positives_of(present)]
        nearest = [next(each for each in kept if each.class_mean >= _highest(kept) - NEAR)] if kept else []
        best_sets = [_best(sets) for sets in both if sets]
        same_scale = [_best(both[0])] if both[0] else []
        return [
            *(kept[:1] if kept[:1] == scaled[:1] else []),
            *nearest,
            *same_scale,
            *([_best(best_sets)] if best_sets else []),
        ]

    def _reached(
        self, spec: EfficientDetSpec, aspects: Sequence[tuple[float, float]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Highest IoU, and number of anchors of IoU 0.5 or more, of each object with those of each aspect, [N, S]."""
        boxes = self.objects.at_input(spec.image_size, spec.letterbox)
        grid = make_grid(spec.image_size, spec.max_level, spec.anchor_scale, aspects)
        shape = (len(boxes), OCTAVES, -1)
        best = best_overlaps(boxes, grid).reshape(shape).max(axis=1)
        return best, count_overlapping(boxes, grid).reshape(shape).sum(axis=1)

    def _by_class(self, counts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean count of the objects of each class, [S, K], from that of each object, [N, S]; 0 for rare classes."""
        labels, classes = self.objects.labels, len(self.objects.names)
        return np.stack([np.bincount(labels, column * self._within_class, classes) for column in counts.T])

    def _measured(self, spec: EfficientDetSpec, best: NDArray[np.float32], by_class: NDArray[np.float64]) -> Candidate:
        """A candidate with the highest IoU of each object, [N]."""
        covered = best >= POSITIVE_IOU
        ceilings = float(self.weights @ covered), float(self.class_weights @ covered)
        return Candidate(spec, *ceilings, float(self.class_weights @ best), by_class)


def _best(candidates: list[Candidate]) -> Candidate:
    """The candidate of highest mean IoU among those that reach as many objects as the best."""
    highest = _highest(candidates)
    near = [each for each in candidates if each.class_mean >= highest - EQUAL]
    return max(near, key=lambda candidate: candidate.best_iou)


def _highest(candidates: Sequence[Candidate]) -> float:
    return max(candidate.class_mean for candidate in candidates)


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most that many of some rows, at equal distances."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
