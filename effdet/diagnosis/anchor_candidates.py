"""What the anchors of other settings reach: one candidate, and the best scale and aspects of an input size.

Which candidate to suggest is decided in `anchor_suggestion.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from effdet.diagnosis.anchor_grid import POSITIVE_IOU, best_overlaps, make_grid, match
from effdet.diagnosis.anchors import Objects
from effdet.models import EfficientDetSpec
from effdet.models.anchors import OCTAVES, aspects_of_ratios

FEWEST_IN_CLASS = 10  # objects of a class that counts in the mean of the classes
MOST_OBJECTS = 20_000  # that candidates are compared with, evenly chosen from each class
SCALES = tuple(2 ** (step / 6) for step in range(-9, 10))  # factors of the anchor scale
RATIOS = tuple(2 ** (step / 2) for step in range(-6, 7))  # width / height, from which aspects are chosen
NEAR = 0.01  # mean recall ceilings of scales that differ by less are equal
EQUAL = 0.005  # the same for aspects


@dataclass(frozen=True)
class Candidate:
    """Settings of a detector and what its anchors reach.

    Attributes:
        spec: the detector with these settings.
        recall_ceiling: fraction of the objects with an anchor of IoU 0.5 or more.
        class_mean: mean of that fraction over the classes, as AP is a mean over the classes.
        best_iou: mean over the classes of the mean highest IoU of an object.
        positives: mean number of positive anchors of an object; None until it is shown, since counting is slower.
        multiply_adds: of the network for one image, relative to the present settings.
    """

    spec: EfficientDetSpec
    recall_ceiling: float
    class_mean: float
    best_iou: float
    positives: float | None = None
    multiply_adds: float = 1.0


class Sample:
    """Objects that candidates are compared with: all, or evenly chosen ones of each class where there are many."""

    def __init__(self, objects: Objects) -> None:
        counts = np.bincount(objects.labels, minlength=len(objects.names))
        most = max(MOST_OBJECTS // int(np.count_nonzero(counts)), FEWEST_IN_CLASS)
        rows = [_evenly(np.flatnonzero(objects.labels == label), most) for label in np.flatnonzero(counts)]
        self.objects = objects.chosen(np.sort(np.concatenate(rows)))
        labels = self.objects.labels
        sampled = np.bincount(labels, minlength=len(counts))
        counted = counts >= FEWEST_IN_CLASS
        counted = counted if counted.any() else counts > 0
        # Weights with which an object counts among all objects, and in the mean over the classes; each sums to 1.
        self.weights: NDArray[np.float64] = counts[labels] / sampled[labels] / len(objects)
        self.class_weights: NDArray[np.float64] = counted[labels] / sampled[labels] / np.count_nonzero(counted)

    def __len__(self) -> int:
        return len(self.objects)

    def candidate(self, spec: EfficientDetSpec) -> Candidate:
        """What the anchors of a detector reach."""
        boxes = self.objects.at_input(spec.image_size, spec.letterbox)
        grid = make_grid(spec.image_size, spec.max_level, spec.anchor_scale, spec.anchor_aspects)
        return self._measured(spec, best_overlaps(boxes, grid).max(axis=1))

    def with_positives(self, candidate: Candidate) -> Candidate:
        """The candidate with its mean number of positive anchors."""
        spec = candidate.spec
        boxes = self.objects.at_input(spec.image_size, spec.letterbox)
        grid = make_grid(spec.image_size, spec.max_level, spec.anchor_scale, spec.anchor_aspects)
        counts = match(boxes, self.objects.image, grid).positives.sum(axis=1)
        return replace(candidate, positives=float(self.weights @ counts))

    def best_anchors(self, spec: EfficientDetSpec) -> list[Candidate]:
        """The best other scale, the best other aspects and the best of both, at the input size of a spec.

        All scales of `SCALES` and all sets of as many `RATIOS` as there are aspects are compared. Among equal scales
        the one nearest to the present is the best, among equal aspects the one with the highest mean IoU. With more
        aspects than `RATIOS`, the scale alone is compared.
        """
        boxes = self.objects.at_input(spec.image_size, spec.letterbox)
        count = len(spec.anchor_aspects)
        shapes = tuple((round(across, 3), round(down, 3)) for across, down in aspects_of_ratios(RATIOS))
        sets = list(itertools.combinations(range(len(shapes)), count))
        scaled, both = [], []
        for factor in sorted(SCALES, key=lambda factor: abs(np.log(factor))):
            scale = spec.anchor_scale if factor == 1 else float(f"{spec.anchor_scale * factor:.2g}")
            grid = make_grid(spec.image_size, spec.max_level, scale, (*spec.anchor_aspects, *shapes))
            overlaps = best_overlaps(boxes, grid).reshape(len(boxes), OCTAVES, -1).max(axis=1)
            own, others = overlaps[:, :count], np.ascontiguousarray(overlaps[:, count:].T)
            other = replace(spec, anchor_scale=scale)
            scaled.append(self._measured(other, own.max(axis=1)))
            with_sets = [
                self._measured(
                    replace(other, anchor_aspects=tuple(shapes[i] for i in chosen)), others[list(chosen)].max(0)
                )
                for chosen in sets
            ]
            if with_sets:
                both.append(_best(with_sets))
        best_scale = next(each for each in scaled if each.class_mean >= _highest(scaled) - NEAR)
        return [best_scale, *([both[0], _best(both)] if both else [])]

    def _measured(self, spec: EfficientDetSpec, best: NDArray[np.float32]) -> Candidate:
        """A candidate with the highest IoU of each object, [N]."""
        covered = best >= POSITIVE_IOU
        return Candidate(
            spec, float(self.weights @ covered), float(self.class_weights @ covered), float(self.class_weights @ best)
        )


def _best(candidates: list[Candidate]) -> Candidate:
    """The candidate of highest mean IoU among those that reach as many objects as the best."""
    highest = _highest(candidates)
    near = [each for each in candidates if each.class_mean >= highest - EQUAL]
    return max(near, key=lambda candidate: candidate.best_iou)


def _highest(candidates: Iterable[Candidate]) -> float:
    return max(candidate.class_mean for candidate in candidates)


def _evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most that many of some rows, at equal distances."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
