"""The whole diagnosis of a run, of a model file, or of predictions, and the sentence that it ends with.

The checks are in the files beside this one; the rule by which one of them names the cause is in `verdict.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.diagnosis.doctor.class_order import accuracy_checks
from effdet.diagnosis.doctor.exif import exif_checks
from effdet.diagnosis.doctor.model_checks import NORM_BATCH, model_checks
from effdet.diagnosis.doctor.patient import Patient, evenly, open_patient
from effdet.diagnosis.doctor.prediction_checks import image_checks, plain_fault, prediction_checks, sample, truth_check
from effdet.diagnosis.doctor.results import id_checks, predictions_by_id, read_results, read_truth
from effdet.diagnosis.doctor.scoring import average_precision, in_images
from effdet.diagnosis.doctor.training_checks import (
    FEW_STEPS,
    LEARNS,
    OVERFIT_STEPS,
    log_facts,
    overfit,
    small_objects,
    steps_done,
    steps_text,
    train_table,
    training_images,
    untrained_classes,
)
from effdet.diagnosis.doctor.verdict import NEAR_CHANCE, Check, Diagnosis, first_jump
from effdet.evaluation.average_precision import NEAR_ZERO
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import Predictions
from effdet.text import count_of, some_of

IMAGES = 100  # of each split
CHANGED_IMAGES = 24  # on which the model is run once more for every change of it
NORM_IMAGES = 4 * NORM_BATCH

Show = Callable[[str], None]


def diagnose_run(
    run: str | Path,
    recipe: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    device: torch.device,
    images: int = IMAGES,
    threads: int | None = None,
    metadata: str | Path | None = None,
    show: Show = lambda line: None,
) -> Diagnosis:
    """Why a model detects or classifies badly, from all checks; nothing is written.

    Args:
        run: folder of a run, a checkpoint, an exported file, or a name of public weights.
        recipe: see `effdet.evaluate`.
        overrides: `section.key=value`.
        device: where to compute.
        images: at most so many validation images, and training images, are looked at.
        threads: CPU threads of the runtime; None for its own choice.
        metadata: see `effdet.evaluate`.
        show: shows a line about what is done.

    Raises:
        ConfigError: the recipe cannot be used.
        DataError: the validation images cannot be read.
        WeightsError: the weights cannot be read, or an output of the model is NaN or Inf.
    """
    patient, lines = open_patient(run, recipe, overrides, device, threads, metadata)
    for line in lines:
        show(line)
    whole = patient.table("val")
    train, unreadable = train_table(patient)
    for line in [unreadable] if unreadable else []:
        show(line)
    diagnose = _diagnose_detector if patient.card.task == "detection" else _diagnose_classifier
    return diagnose(patient, whole, train, images, show)


def diagnose_results(annotations: Path, predictions: Path) -> Diagnosis:
    """Why the predictions of a results file have a low AP, from the checks that need no model.

    Args:
        annotations: a COCO file, the truth.
        predictions: a COCO results file.

    Raises:
        DataError: a file cannot be read.
    """
    table, results = read_truth(annotations), read_results(predictions)
    own, facts = predictions_by_id(table, results)
    fault = plain_fault(table, own)
    if not (~table.crowd).any():
        return Diagnosis(str(fault), healthy=False, facts=tuple(facts))
    ap = average_precision(table, own)
    checks = list(id_checks(table, results, ap))
    if len(own.scores):
        checks += [*prediction_checks(table, own), *image_checks(table, own, ap)]
    jump = first_jump(checks)
    if jump is not None:
        return Diagnosis(jump.sentence("AP"), False, tuple(checks), tuple(facts))
    fault = facts[-1] if facts and not len(own.scores) else fault or truth_check(table)
    if fault is not None:
        return Diagnosis(fault, False, tuple(checks), tuple(facts))
    if ap > NEAR_ZERO:
        sentence = f"no fault found: AP is {ap:.1%}, and none of {len(checks)} checks raises it"
        return Diagnosis(sentence, True, tuple(checks), tuple(facts))
    sentence = (
        f"AP is {ap:.1%}, and neither another order of the classes nor another convention or scale of the boxes raises "
        "it; check that the predictions are of these images, or run `effdet doctor` on the run's folder"
    )
    return Diagnosis(sentence, False, tuple(checks), tuple(facts))


def _diagnose_detector(patient: Patient, whole: Annotations, train: Any, images: int, show: Show) -> Diagnosis:
    """All checks of a detector."""
    table = sample(whole, _nothing(), images)[0]
    if not (~table.crowd).any():
        return Diagnosis(str(plain_fault(table, _nothing())), healthy=False)
    show(f"running the model on {count_of(len(table), 'validation image')}")
    predictions = _detections(patient, table)
    ap = average_precision(table, predictions)
    facts = [*log_facts(patient), *filter(None, [small_objects(patient, table), truth_check(table)])]
    checks: list[Check] = []
    if len(predictions.scores):
        size = patient.config.model.image_size or patient.runtime.image_size
        checks += prediction_checks(table, predictions, size)
        checks += exif_checks(table, predictions)
    else:
        facts.insert(0, str(plain_fault(table, predictions)))
    if train is not None:
        untrained = untrained_classes(train, whole)
        checks += _untrained_check(table, predictions, ap, untrained)
    few = evenly(table, CHANGED_IMAGES)
    own = in_images(predictions, _rows(table, few), len(table))
    return _with_model_checks(patient, few, train, images, (ap, average_precision(few, own)), checks, facts, show)


def _detections(patient: Patient, table: Annotations) -> Predictions:
    """The detections of a table."""
    evaluator = patient.evaluate(table)
    assert isinstance(evaluator, CocoEvaluator)
    return evaluator.predicted()


def _untrained_check(
    table: Annotations, predictions: Predictions, ap: float, untrained: NDArray[np.bool_]
) -> list[Check]:
    """AP of the classes with training objects, if others have none."""
    if not untrained.any() or untrained.all():
        return []
    names = [table.label_map.names[label] for label in np.flatnonzero(untrained)]
    return [
        Check(
            f"without {count_of(len(names), 'class', 'classes')} that training images lack",
            average_precision(table, predictions, ~untrained),
            ap,
            f"no training image has objects of {some_of(names)}, which validation images have",
            "split the data set anew with `effdet split`, or check the class names",
            "without these classes",
        )
    ]


def _diagnose_classifier(patient: Patient, whole: Any, train: Any, images: int, show: Show) -> Diagnosis:
    """All checks of a classifier."""
    table = evenly(whole, images)
    show(f"running the model on {count_of(len(table), 'validation image')}")
    evaluator: Any = patient.evaluate(table)
    accuracy = evaluator.metrics()[patient.metric]
    checks = accuracy_checks(evaluator, accuracy)
    few = evenly(table, CHANGED_IMAGES)
    before = patient.measure(few)
    return _with_model_checks(patient, few, train, images, (accuracy, before), checks, log_facts(patient), show)


def _with_model_checks(
    patient: Patient,
    few: Any,
    train: Any,
    images: int,
    metrics: tuple[float, float],
    checks: list[Check],
    facts: list[str],
    show: Show,
) -> Diagnosis:
    """The checks that run the model, and the verdict.

    Args:
        patient: the model.
        few: validation images on which changes of the model are measured.
        train: the training split; None if it cannot be read.
        images: at most so many training images are looked at.
        metrics: the metric on all validation images, and on `few`.
        checks: those made so far.
        facts: what was noticed so far.
        show: shows a line about what is done.
    """
    show(f"running the model in other ways on {count_of(len(few), 'image')}")
    norm_images = None if train is None else training_images(train, NORM_IMAGES)
    checks = [*checks, *model_checks(patient, few, norm_images, metrics[1])]
    losses, train_metric = None, None
    if train is not None:
        trained_on = training_images(train, images)
        show(f"running the model on {count_of(len(trained_on), 'training image')}")
        train_metric = patient.measure(trained_on)
        checks.append(_train_check(patient, train_metric, metrics[0]))
        if patient.model is not None and first_jump(checks) is None:
            show(f"training a copy on one batch for {OVERFIT_STEPS} steps")
            losses = overfit(patient, training_images(train, images))
    # Without classes is the most speculative check: a model that has learned little knows places before classes.
    checks.sort(key=lambda check: check.change == "without classes")
    sentence, healthy = _verdict(patient, metrics[0], train_metric, losses, checks, facts)
    if losses is not None:
        facts = [*facts, f"loss of one batch: {losses[0]:.3g}, after {OVERFIT_STEPS} steps {losses[1]:.3g}"]
    steps = steps_done(patient)
    if steps is not None:
        facts = [*facts, f"steps of the training: {steps}"]
    return Diagnosis(sentence, healthy, tuple(checks), tuple(facts), patient.metric)


def _train_check(patient: Patient, value: float, before: float) -> Check:
    """The metric on training images against validation images."""
    return Check(
        "training images",
        value,
        before,
        "the model knows its training images but not the validation images",
        "it overfits or the splits differ: compare them with `effdet check`, add images or augmentation",
        "on training images",
        last=True,
    )


def _verdict(
    patient: Patient,
    value: float,
    train_value: float | None,
    losses: tuple[float, float] | None,
    checks: Sequence[Check],
    facts: Sequence[str],
) -> tuple[str, bool]:
    """The sentence of a diagnosis, and whether there is no fault."""
    metric = patient.metric
    jump = first_jump(checks)
    if jump is not None:
        return jump.sentence(metric), False
    classes = len(patient.card.class_names)
    low = NEAR_ZERO if patient.card.task == "detection" else NEAR_CHANCE / classes
    on_train = "" if train_value is None else f" and {max(train_value, 0.0):.1%} on training images"
    reached = f"{metric} is {max(value, 0.0):.1%} on validation images{on_train}"
    if value > low:
        return f"no fault found: {reached}, and none of {len(checks)} checks raises it", True
    return (f"{reached}: {facts[0]}" if facts else _learning(reached, steps_done(patient), losses)), False


def _learning(reached: str, steps: int | None, losses: tuple[float, float] | None) -> str:
    """The sentence about a model with a metric near zero that no check raises: whether it learns.

    Args:
        reached: the metric in words.
        steps: of the training so far; None if unknown.
        losses: of one batch before and after training on it; None if that was not tried.
    """
    if losses is None:
        return f"{reached}, and no check raises it: train longer, or compare the images with those of the training"
    fall = f"from {losses[0]:.3g} to {losses[1]:.3g}"
    if losses[1] <= LEARNS * losses[0]:
        advice = "train longer" if steps is None or steps < FEW_STEPS else "train longer or raise optim.learning_rate"
        return (
            f"it learns, {advice}: {reached}{steps_text(steps)}, and {OVERFIT_STEPS} steps on one batch lower its loss "
            f"{fall}"
        )
    return (
        f"{reached}, and the model cannot learn a single batch, whose loss goes {fall} in {OVERFIT_STEPS} steps; look "
        "at boxes and classes with `effdet show-batch`, and check the section loss of the recipe"
    )


def _rows(table: Any, few: Any) -> NDArray[np.int64]:
    """The rows of a table that a subset of it has."""
    row_of = {table.image_id(row): row for row in range(len(table))}
    return np.array([row_of[few.image_id(row)] for row in range(len(few))], np.int64)


def _nothing() -> Predictions:
    """No predictions."""
    none = np.empty(0, np.int64)
    return Predictions(none, none, np.empty((0, 4)), np.empty(0), np.empty(0))
