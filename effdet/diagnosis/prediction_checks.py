"""Checks that need only truth and predictions: classes shifted or permuted, boxes in another convention or scale.

`quick_diagnosis` is called after every evaluation of a detector; checks that run the model are in `model_checks.py`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.diagnosis.box_faults import BOX_FAULTS, USUAL_INPUTS, BoxFault
from effdet.diagnosis.class_order import class_checks, confusion
from effdet.diagnosis.scoring import (
    average_precision,
    classless_precision,
    in_images,
    pooled_precision,
    truth_as_predictions,
    with_boxes,
)
from effdet.diagnosis.verdict import NEAR_ZERO, Check, first_jump
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import Predictions
from effdet.text import count_of

MOST_IMAGES = 500  # that are looked at; evenly spaced among those with objects
PERFECT = 0.999  # AP of the truth as predictions
_TRIED_IMAGES = 30  # for the choice of an unknown input size

Size = tuple[int, int]


def quick_diagnosis(evaluator: CocoEvaluator, image_size: Size | None = None) -> str | None:
    """Why AP is near zero, in one sentence; None if it is not.

    Args:
        evaluator: holds the detections of all images.
        image_size: (H, W) of the network input; None if it is unknown.
    """
    ap = evaluator.metrics()["AP"]
    if ap > NEAR_ZERO:
        return None
    table, predictions = evaluator.annotations, evaluator.predicted()
    fault = plain_fault(table, predictions)
    if fault is not None:
        return fault
    jump = first_jump(list(prediction_checks(table, predictions, image_size)))
    if jump is not None:
        return jump.sentence("AP")
    return (
        f"AP is {ap:.1%}, and neither another order of the classes nor another convention or scale of the boxes raises "
        "it; `effdet doctor` on the run's folder checks the weights, the images and the training"
    )


def sample(table: Annotations, predictions: Predictions, most: int = MOST_IMAGES) -> tuple[Annotations, Predictions]:
    """At most so many of the images that have objects, evenly spaced, and their predictions; all if none has any."""
    rows = np.flatnonzero(np.diff(table.offsets) > 0)
    if not len(rows):
        return table, predictions
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(np.int64))]
    return table.subset(rows), in_images(predictions, rows, len(table))


def plain_fault(table: Annotations, predictions: Predictions) -> str | None:
    """What is wrong without any measurement, in one sentence: no objects, no predictions, or none near an object."""
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
    few, own = sample(table, predictions)
    ap = average_precision(few, own)
    yield from _class_checks(few, own, ap)
    yield from _box_checks(few, own, ap, image_size)
    yield from _image_checks(table, predictions, ap)
    yield _without_classes(few, own)


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


def _box_checks(table: Annotations, predictions: Predictions, ap: float, image_size: Size | None) -> Iterator[Check]:
    """Every fault of `BOX_FAULTS` undone; those that need the size of the images only where it is known."""
    sized = bool((table.sizes > 0).all())
    for fault in BOX_FAULTS:
        if fault.by_size and not sized:
            yield Check(fault.undone, None, ap, fault.cause, fault.remedy)
            continue
        size = image_size or (_likely_input(table, predictions, fault) if fault.by_input else (1, 1))
        changed = undone(table, predictions, fault, size)
        if len(changed.boxes) == len(predictions.boxes) and np.allclose(changed.boxes, predictions.boxes):
            continue  # such as the padding of images that have the aspect of the input
        yield Check(fault.undone, average_precision(table, changed), ap, fault.cause, fault.remedy)


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


def _image_checks(table: Annotations, predictions: Predictions, ap: float) -> Iterator[Check]:
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
