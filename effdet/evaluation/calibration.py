"""What a score means as a probability: the calibration error of detections, and a temperature that lowers it.

A detection is correct if it matches an object at IoU 0.5, see `matching.py`. Detections below a score of
`LOWEST_SCORE` do not count: nobody looks at them, and there are so many that they would hide the others.

Source: Guo et al., On Calibration of Modern Neural Networks (arXiv:1706.04599), temperature and binned error.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.matching import Matches

LOWEST_SCORE = 0.05
BINS = 10
MOST_TEMPERATURE = 20.0  # and 1 / 20 is the least
FEWEST = 30  # detections from which a temperature is fitted
_STEPS = 40  # halvings of the range of temperatures
_TINY = 1e-12
_DECIMALS = 5


def calibration(matches: Matches) -> dict[str, Any] | None:
    """The reliability of the scores in bins, the calibration error and the temperature, as plain containers.

    The error is the mean over the detections of the difference between score and precision in their bin. None without
    detections of at least `LOWEST_SCORE`; the temperature is None where `fit_temperature` gives none.

    Args:
        matches: of objects of all sizes, with 0.5 as the first IoU threshold.
    """
    scores, correct = _counted(matches)
    if not len(scores):
        return None
    bins, error = _reliability(scores, correct)
    temperature = fit_temperature(matches)
    after = None if temperature is None else _reliability(with_temperature(scores, temperature), correct)[1]
    return {"bins": bins, "error": error, "temperature": temperature, "error_with_temperature": after}


def fit_temperature(matches: Matches) -> float | None:
    """The number by which to divide the logits of the scores, so that the likelihood of the matches is highest.

    None with fewer than `FEWEST` detections, or if all or none of them are correct. The likelihood is never lower than
    with a temperature of 1.
    """
    scores, correct = _counted(matches)
    if len(scores) < FEWEST or correct.all() or not correct.any():
        return None
    logits = _logit(scores)

    def slope(inverse: float) -> float:
        """Derivative of the negative log-likelihood, which is convex in the inverse of the temperature."""
        return float(((_sigmoid(inverse * logits) - correct) * logits).sum())

    low, high = -np.log(MOST_TEMPERATURE), np.log(MOST_TEMPERATURE)  # of the logarithm of the inverse
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(np.exp(middle)) > 0 else (middle, high)
    return round(float(np.exp(-(low + high) / 2)), _DECIMALS)


def with_temperature(scores: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float64]:
    """Scores whose logits are divided by the temperature; their order stays."""
    return _sigmoid(_logit(np.asarray(scores, np.float64)) / temperature)


def _counted(matches: Matches) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scores [M] of the detections that count, and whether they are correct [M]."""
    chosen = (matches.scores >= LOWEST_SCORE) & ~matches.ignored[0, 0]
    return matches.scores[chosen], matches.correct[0, 0, chosen]


def _reliability(scores: NDArray[np.float64], correct: NDArray[np.bool_]) -> tuple[list[dict[str, Any]], float]:
    """The bins of equal width that hold detections, and the calibration error."""
    edges = np.linspace(0, 1, BINS + 1)
    places = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    counts, hits = np.bincount(places, minlength=BINS), np.bincount(places, correct, BINS)
    sums = np.bincount(places, scores, BINS)
    bins = [
        {
            "low": round(float(edges[place]), 2),
            "high": round(float(edges[place + 1]), 2),
            "count": int(counts[place]),
            "score": round(float(sums[place] / counts[place]), _DECIMALS),
            "precision": round(float(hits[place] / counts[place]), _DECIMALS),
        }
        for place in np.flatnonzero(counts).tolist()
    ]
    return bins, round(float(np.abs(sums - hits).sum() / len(scores)), _DECIMALS)


def _logit(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(scores, _TINY, 1 - _TINY)
    return np.log(clipped / (1 - clipped))


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-values))
