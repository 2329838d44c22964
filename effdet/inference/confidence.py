"""Which confidence threshold a detector predicts with, and whether its scores are calibrated.

The thresholds and the temperature come from the evaluation that is stored in the model, see
`effdet/evaluation/thresholds.py` and `calibration.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.errors import ConfigError
from effdet.evaluation.calibration import with_temperature
from effdet.inference import SCORE_THRESHOLD, ThresholdChoice
from effdet.structures import Detections
from effdet.weights.card import ModelCard

_MOST_NAMED = 10  # classes whose thresholds are listed
_HOW = "train it, or train on, with a validation split: an evaluation then stores it in best.pt"


@dataclass(frozen=True)
class Confidence:
    """The confidence thresholds of a prediction.

    Attributes:
        by_class: [K] float64, in scores of the network.
        temperature: by which the logits of the scores are divided; None to leave the scores.
        text: the thresholds and where they are from, for people.
    """

    by_class: NDArray[np.float64]
    temperature: float | None
    text: str

    @property
    def lowest(self) -> float:
        """The lowest threshold, in scores of the network."""
        return float(self.by_class.min())

    def apply(self, detections: Detections) -> Detections:
        """The detections that reach the threshold of their class, with calibrated scores if they are wanted.

        Args:
            detections: in host memory, of at least the `lowest` score.
        """
        if (self.by_class > self.by_class.min()).any():
            detections = detections[detections.scores >= torch.from_numpy(self.by_class)[detections.labels]]
        if self.temperature is None:
            return detections
        scores = with_temperature(detections.scores.numpy(), self.temperature)
        return replace(detections, scores=torch.from_numpy(scores.astype(np.float32)))


def choose_confidence(
    card: ModelCard, choice: ThresholdChoice, calibrated: bool, lowest: float, weights: str
) -> Confidence:
    """The confidence thresholds of a detector.

    Args:
        card: of the model.
        choice: a threshold in 0..1, of calibrated scores if they are wanted; "auto" for the stored one, or "class" for
            the stored one of each class.
        calibrated: whether scores are calibrated by the stored temperature.
        lowest: score below which an exported file has no detections; 0 for none.
        weights: the model's file or name, for messages.

    Raises:
        ConfigError: the model has no thresholds by class or no temperature, or there is no such choice.
    """
    if calibrated and card.temperature is None:
        raise ConfigError(f"{weights}: has no temperature, so scores cannot be calibrated; {_HOW}")
    temperature = card.temperature if calibrated else None
    if isinstance(choice, str):
        stored, reason = _stored(card, choice, weights)
        if (stored < lowest).any():
            reason += f", but at least {lowest:g}, the lowest score in {weights}"
        raw = np.maximum(stored, lowest)
        shown = raw if temperature is None else with_temperature(raw, temperature)
        return Confidence(raw, temperature, f"{_numbers(card, shown)}: {reason}")
    value = np.full(len(card.class_names), choice, np.float64)
    raw = value if temperature is None else with_temperature(value, 1 / temperature)
    return Confidence(raw, temperature, f"confidence threshold {choice:g}")


def _stored(card: ModelCard, choice: str, weights: str) -> tuple[NDArray[np.float64], str]:
    """The thresholds [K] that the model has, and where they are from."""
    classes = len(card.class_names)
    if choice == "auto":
        if card.score_threshold is None:
            return np.full(classes, SCORE_THRESHOLD), "the default, because the model has none from an evaluation"
        return np.full(classes, card.score_threshold), "best F1 on the validation split"
    if choice != "class":
        raise ConfigError(f"score_threshold is '{choice}'; expected 'auto', 'class' or a number in 0..1")
    if not card.class_thresholds:
        raise ConfigError(f"{weights}: has no confidence thresholds by class; {_HOW}")
    return np.asarray(card.class_thresholds), "best F1 of each class on the validation split"


def _numbers(card: ModelCard, thresholds: NDArray[np.float64]) -> str:
    """Such as "confidence threshold 0.37"; of several thresholds those of each class, or of many classes the range."""
    low, high = thresholds.min(), thresholds.max()
    if low == high:
        return f"confidence threshold {_short(low)}"
    if len(thresholds) > _MOST_NAMED:
        return f"confidence thresholds {_short(low)} to {_short(high)} by class"
    pairs = zip(card.class_names, thresholds, strict=True)
    return "confidence thresholds " + ", ".join(f"{name} {_short(value)}" for name, value in pairs)


def _short(value: np.float64) -> str:
    return f"{value:.3g}"
