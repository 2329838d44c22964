"""What to change in a recipe so that the anchors reach more objects: input size, anchor scale and aspects.

The present settings stay unless a change brings a clear gain. How a candidate is measured is in `candidates.py`,
and what the anchors reach today, group by group, in `coverage.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from effdet.diagnosis.anchors.candidates import Candidate, Sample
from effdet.diagnosis.anchors.coverage import Objects, input_scales
from effdet.models import EfficientDetSpec
from effdet.models.analysis import multiply_adds
from effdet.text import count_of

GAIN = 0.1  # of the mean recall ceiling of the classes, from which on other anchors are worth it
ENOUGH = 0.8  # mean recall ceiling of the classes from which on a larger input, which costs time, is not suggested
SIZE_GAIN = 0.1  # of that mean, for which a still larger input is suggested
SAVING = 0.9  # an input without padding is worth it from this fraction of the pixels down
LOSS = 0.002  # of the recall ceiling of all objects, which a change may cost
FEWEST_OBJECTS = 50  # of a data set; fewer are too few to suggest from
SIZES = (1.25, 1.5, 2.0)  # factors of the input size
SIDE_STEP = 32  # sides of a suggested input are multiples of it, in pixels
LARGEST_AREA = 2.0  # pixels of the input for one pixel of the images; more are no use


@dataclass(frozen=True)
class Suggestion:
    """What to change, and what single changes bring.

    Attributes:
        present: the settings as they are.
        alone: the best change of each setting with the others as they are: anchor scale, aspects, an input without
            padding, a larger input. A setting without a change is left out.
        together: the suggested settings; those of `present` if no change is worth it.
        reason: why nothing is suggested; empty if something is.
        objects: number of objects.
        sampled: those of them that the candidates were compared with.
    """

    present: Candidate
    alone: tuple[Candidate, ...]
    together: Candidate
    reason: str
    objects: int
    sampled: int

    @property
    def changes(self) -> dict[str, Any]:
        """The suggested keys of the section `model` of a recipe; empty if nothing is suggested."""
        return changed_keys(self.together.spec, self.present.spec)

    def to_dict(self) -> dict[str, Any]:
        """As plain values; fractions are 0..1."""

        def row(candidate: Candidate) -> dict[str, Any]:
            columns = ("recall_ceiling", "class_mean", "best_iou", "positives", "multiply_adds")
            changes = changed_keys(candidate.spec, self.present.spec)
            return {"model": changes, **{name: getattr(candidate, name) for name in columns}}

        rows = {"present": row(self.present), "alone": [*map(row, self.alone)], "together": row(self.together)}
        return {**rows, "reason": self.reason or None, "sampled_objects": self.sampled}


def changed_keys(spec: EfficientDetSpec, present: EfficientDetSpec) -> dict[str, Any]:
    """The keys of the section `model` in which two detectors differ, with the values of the first as plain values."""
    changes: dict[str, Any] = {}
    if spec.image_size != present.image_size:
        changes["image_size"] = list(spec.image_size)
    if spec.anchor_scale != present.anchor_scale:
        changes["anchor_scale"] = spec.anchor_scale
    if spec.anchor_aspects != present.anchor_aspects:
        changes["anchor_aspects"] = [list(aspect) for aspect in spec.anchor_aspects]
    return changes


def suggest(objects: Objects, spec: EfficientDetSpec, cut_padding: bool = True) -> Suggestion:
    """Compares other settings of a detector with its own.

    At each input size the fewest changes of the anchors are chosen that come within `GAIN` of the best mean recall
    ceiling of the classes. If that mean is `ENOUGH` at the present input, it stays, else the smallest is chosen that
    comes within `SIZE_GAIN` of the best. No class loses many of its positive anchors, and the number of aspects stays,
    so that the heads keep their form and cost.

    Args:
        objects: those of the training split.
        spec: the detector.
        cut_padding: whether an input without the padding that no image needs may be suggested.
    """
    sample = Sample(objects)
    present = sample.candidate(spec)
    unpadded = unpadded_size(objects, spec) if cut_padding else None
    base = spec if unpadded is None else replace(spec, image_size=unpadded)
    sizes = [spec.image_size, *larger_sizes(objects, base)]
    by_size = [sample.best_anchors(replace(spec, image_size=size), present) for size in sizes]
    reason, together = _choose(objects, present, by_size)
    if unpadded is not None and together.spec.image_size == spec.image_size:
        reason, together = "", sample.candidate(replace(together.spec, image_size=unpadded))
    alone = by_size[0][1:3]
    if unpadded is not None:
        alone.append(sample.candidate(base))
    if len(sizes) > 1:
        larger = [sample.candidate(replace(spec, image_size=size)) for size in sizes[1:]]
        alone.append(_first_near(larger, SIZE_GAIN))
    alone = [candidate for candidate in alone if candidate.spec != spec]
    priced = _with_costs([sample.with_positives(each) for each in (present, *alone, together)])
    return Suggestion(priced[0], tuple(priced[1:-1]), priced[-1], reason, len(objects), len(sample))


def _choose(objects: Objects, present: Candidate, by_size: Sequence[Sequence[Candidate]]) -> tuple[str, Candidate]:
    """Why nothing is changed, or an empty text, and the settings to use."""
    if len(objects) < FEWEST_OBJECTS:
        few = f"{count_of(len(objects), 'object')} in the training split; at least {FEWEST_OBJECTS} are needed"
        return f"{few} to suggest other anchors", present
    allowed = [[each for each in some if each.recall_ceiling >= present.recall_ceiling - LOSS] for some in by_size]
    of_sizes = [_first_near(some, GAIN) for some in allowed if some]
    together = of_sizes[0] if of_sizes[0].class_mean >= ENOUGH else _first_near(of_sizes, SIZE_GAIN)
    if together.spec == present.spec:
        mean = f"the mean of the classes, which is {100 * present.class_mean:.1f}%"
        return f"other anchors add less than {100 * GAIN:.0f} points to {mean}", present
    return "", together


def _first_near(candidates: Sequence[Candidate], margin: float) -> Candidate:
    """The first candidate whose mean over the classes is within a margin of the best."""
    best = max(candidate.class_mean for candidate in candidates)
    return next(candidate for candidate in candidates if candidate.class_mean >= best - margin)


def unpadded_size(objects: Objects, spec: EfficientDetSpec) -> tuple[int, int] | None:
    """The input (H, W) that holds all images at their present scale, if it is clearly smaller than the present one."""
    if spec.letterbox == "stretch":
        return None
    sizes = objects.sizes[(objects.sizes > 0).all(axis=1)]
    used = np.rint(sizes * input_scales(sizes, spec.image_size, spec.letterbox)).max(axis=0)
    height, width = (
        min(math.ceil(side / SIDE_STEP) * SIDE_STEP, limit)
        for side, limit in zip(used.tolist(), spec.image_size, strict=True)
    )
    return (height, width) if height * width <= SAVING * math.prod(spec.image_size) else None


def larger_sizes(objects: Objects, spec: EfficientDetSpec) -> list[tuple[int, int]]:
    """Larger inputs (H, W) of about the same shape, ascending, none much larger than the images."""
    area = float(np.median(objects.sizes[objects.image].astype(np.float64).prod(axis=1)))
    sizes = []
    for factor in SIZES:
        height, width = (max(round(factor * side / SIDE_STEP), 1) * SIDE_STEP for side in spec.image_size)
        if height * width <= LARGEST_AREA * area:
            sizes.append((height, width))
    return sizes


def _with_costs(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates with their multiply-adds relative to the first."""
    specs = {candidate.spec.image_size: candidate.spec for candidate in candidates}
    if len(specs) == 1:
        return list(candidates)
    with torch.device("meta"):
        model = candidates[0].spec.build(1)
    costs = {size: multiply_adds(model, size) for size in specs}
    base = costs[candidates[0].spec.image_size]
    return [replace(each, multiply_adds=costs[each.spec.image_size] / base) for each in candidates]
