"""Checks that need only truth and predictions: classes shifted or permuted, boxes in another convention or scale.

Checks that run the model are in `model_checks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.diagnosis.doctor.box_faults import BOX_FAULTS, USUAL_INPUTS, BoxFault
from effdet.diagnosis.doctor.class_order import class_checks, confusion
from effdet.diagnosis.doctor.scoring import (
    average_precision,
    classless_precision,
    in_images,
    pooled_precision,
    truth_as_predictions,
    with_boxes,
)
from effdet.diagnosis.doctor.verdict import JUMP_FACTOR, JUMP_MARGIN, Check, first_jump
from effdet.evaluation.matching import Predictions
from effdet.text import count_of

MOST_IMAGES = 500  # that are looked at; evenly spaced among those with objects
PERFECT = 0.999  # AP of the truth as predictions
_TRIED_IMAGES = 30  # for the choice of an unknown input size

Size = tuple[int, int]


def sample(table: Annotations, predictions: Predictions, most: int = MOST_IMAGES) -> tuple[Annotations, Predictions]:
    """At most so many of the images that have objects, evenly spaced, and their predictions; all if none has any."""
    rows = np.flatnonzero(np.diff(table.offsets) > 0)
    if not len(rows):
        return table, predictions
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]
    return table.subset(rows), in_images(predictions, rows, len(table))


def plain_fault(table: Annotations, predictions: Predictions) -> str | None:
    """What is wrong without any measurement, in one sentence: no objects, or no predictions; None if there are some."""
    if not (~table.crowd).any():
        return (
            f"{table.source.name}: the validation images have no objects, so there is nothing to detect; check "
            "data.val and the annotations with `effdet check`"
        )
    if not len(predictions.scores):
        return (
            f"there are no predictions for {count_of(len(table), 'image')} with objects; lower "
            "postprocess.score_threshold, and check that the predictions are of these images"
        )
    return None


def prediction_checks(table: Annotations, predictions: Predictions, image_size: Size | None = None) -> Iterator[Check]:
    """All checks of predictions, from the certain to the speculative, on at most `MOST_IMAGES` images.

    Args:
        table: the truth, with at least one object that is no crowd.
        predictions: of its images.
        image_size: (H, W) of the network input; None if it is unknown.
    """
    table, predictions = sample(table, predictions)
    ap = average_precision(table, predictions)
    checks = list(_class_checks(table, predictions, ap))
    yield from checks
    changed = dict(_undone_faults(table, predictions, image_size))
    for fault in BOX_FAULTS:
        if fault.by_size and not (table.sizes > 0).all():
            yield Check(fault.undone, None, ap, fault.cause, fault.remedy)
        elif fault in changed:
            checks.append(Check(fault.undone, average_precision(table, changed[fault]), ap, fault.cause, fault.remedy))
            yield checks[-1]
    if first_jump(checks) is None:
        yield from _two_faults(table, predictions, changed, ap)
    if len(table.label_map) > 1:
        yield _without_classes(table, predictions)


def truth_check(table: Annotations) -> str | None:
    """What is wrong with the evaluation if the truth as predictions does not have AP 1; None if it has."""
    ap = average_precision(table, truth_as_predictions(table))
    if ap >= PERFECT or ap < 0:
        return None
    return (
        f"the annotated boxes themselves, given as predictions, have AP {ap:.1%} instead of 100%, so no model can "
        "reach more: images have over 100 objects of a class, or boxes without area; run `effdet check`"
    )


def _class_checks(table: Annotations, predictions: Predictions, ap: float) -> Iterator[Check]:
    """Labels shifted by one in both directions, and the best order of the classes."""
    classes = len(table.label_map)
    if classes < 2:
        return

    def score(mapping: NDArray[np.int64], chosen: NDArray[np.bool_]) -> float:
        mapped = predictions._replace(labels=mapping[predictions.labels])
        return average_precision(table, mapped, chosen)

    objects = np.bincount(table.labels[~table.crowd], minlength=classes)
    yield from class_checks(score, confusion(table, predictions), objects, table.label_map.names, ap)


def _undone_faults(
    table: Annotations, predictions: Predictions, image_size: Size | None
) -> Iterator[tuple[BoxFault, Predictions]]:
    """Predictions with each of `BOX_FAULTS` undone.

    Those that need the size of the images are left out where it is unknown, and those that change nothing, such as the
    padding of images that have the aspect of the input.
    """
    sized = bool((table.sizes > 0).all())
    for fault in BOX_FAULTS:
        if fault.by_size and not sized:
            continue
        size = image_size or (_likely_input(table, predictions, fault) if fault.by_input else (1, 1))
        changed = undone(table, predictions, fault, size)
        if len(changed.boxes) < len(predictions.boxes) or not np.allclose(changed.boxes, predictions.boxes):
            yield fault, changed


def _two_faults(
    table: Annotations, predictions: Predictions, changed: Mapping[BoxFault, Predictions], ap: float
) -> Iterator[Check]:
    """A fault of the boxes and one of the classes undone together: the box fault by AP without classes."""
    if len(table.label_map) < 2 or not changed:
        return
    before = classless_precision(table, predictions)
    values = {fault: classless_precision(table, own) for fault, own in changed.items()}
    fault = max(values, key=lambda fault: values[fault])
    if values[fault] < max(before * JUMP_FACTOR, before + JUMP_MARGIN):
        return
    for check in _class_checks(table, changed[fault], ap):
        yield replace(
            check,
            change=f"{fault.undone}, and {check.change}",
            cause=f"{fault.cause}, and {check.cause}",
            remedy=f"{fault.remedy}, and {check.remedy}",
        )


def undone(table: Annotations, predictions: Predictions, fault: BoxFault, size: Size) -> Predictions:
    """Predictions with a fault undone; boxes that have no area then are left out."""
    sizes = table.sizes[predictions.images].astype(np.float64)
    return with_boxes(predictions, fault.undo(predictions.boxes, sizes, size))


def _likely_input(table: Annotations, predictions: Predictions, fault: BoxFault) -> Size:
    """The usual input size with which undoing a fault gives most objects a box, of any class."""
    few, own = sample(table, predictions, _TRIED_IMAGES)
    hits = [_matched(few, undone(few, own, fault, size)) for size in USUAL_INPUTS]
    return USUAL_INPUTS[int(np.argmax(hits))]


def _matched(table: Annotations, predictions: Predictions) -> int:
    """Objects with a box around them, whatever its class."""
    return int(confusion(table, predictions).sum())


def image_checks(table: Annotations, predictions: Predictions, ap: float) -> Iterator[Check]:
    """Predictions given to the image before or after theirs, in the order of the table."""
    if len(table) < 3:
        return
    for offset, word in ((1, "next"), (-1, "previous")):
        moved = predictions._replace(images=(predictions.images + offset) % len(table))
        yield Check(
            f"predictions given to the {word} image",
            average_precision(*sample(table, moved)),
            ap,
            f"predictions belong to the {word} image",
            "join predictions to images by their ids or file names, not by their position",
        )


def _without_classes(table: Annotations, predictions: Predictions) -> Check:
    """All classes merged, compared with all objects pooled."""
    return Check(
        "without classes",
        classless_precision(table, predictions),
        pooled_precision(table, predictions),
        "objects are detected, but in no order of the classes do their classes fit",
        "compare the class names of the training and the validation annotations, then train longer",
        "without classes",
        last=True,
    )
