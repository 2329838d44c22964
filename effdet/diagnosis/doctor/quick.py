"""The diagnosis that follows every evaluation with a metric near zero: it needs truth and predictions alone.

The whole one, which runs the model too, is in `diagnose.py`.
"""

from __future__ import annotations

from effdet.diagnosis.doctor.class_order import accuracy_checks
from effdet.diagnosis.doctor.prediction_checks import plain_fault, prediction_checks
from effdet.diagnosis.doctor.verdict import NEAR_CHANCE, first_jump
from effdet.evaluation.accuracy import AccuracyEvaluator
from effdet.evaluation.average_precision import NEAR_ZERO
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.evaluate import Evaluator

ADVICE = "`effdet doctor` on the run's folder checks the weights, the images and the training"


def quick_diagnosis(evaluator: Evaluator, image_size: tuple[int, int] | None = None) -> str | None:
    """Why AP is near zero, or accuracy near that of guessing, in one sentence; None if it is not.

    Args:
        evaluator: holds the predictions of all images.
        image_size: (H, W) of the network input; None if it is unknown.
    """
    if isinstance(evaluator, CocoEvaluator):
        return _of_detector(evaluator, image_size)
    return _of_classifier(evaluator) if isinstance(evaluator, AccuracyEvaluator) else None


def _of_detector(evaluator: CocoEvaluator, image_size: tuple[int, int] | None) -> str | None:
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
        f"it; {ADVICE}"
    )


def _of_classifier(evaluator: AccuracyEvaluator) -> str | None:
    accuracy, classes = evaluator.metrics()["top1"], len(evaluator.label_map)
    if classes < 2 or not 0 <= accuracy <= NEAR_CHANCE / classes:
        return None
    jump = first_jump(accuracy_checks(evaluator, accuracy))
    if jump is not None:
        return jump.sentence("top1")
    return f"top1 is {accuracy:.1%}, about that of guessing, and no other order of the classes raises it; {ADVICE}"
