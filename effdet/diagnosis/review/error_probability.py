"""How probable it is that a suspicious label is an error, from how often simulated errors look as suspicious.

What counts as suspicious is in `evidence.py`.

The observed labels are a mixture of right ones and errors. Simulation gives the distribution of the evidence among
errors. Their number is not observed, but at no threshold can there be more errors than suspicious labels. The highest
number that respects this everywhere is the estimate, as in the estimation of mixture proportions from positive and
unlabelled examples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HIGHEST = 0.98  # probability; no evidence is certain
_SMALLEST_FRACTION = 0.02  # of the simulated errors, above the thresholds by which their number is estimated
_STEPS = 50  # of Newton's method
_CONVERGED = 1e-8


def fit_logistic(
    features: NDArray[np.float64], target: NDArray[np.bool_], penalties: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weights [F] of a logistic regression of `target` [E] on `features` [E, F], by Newton's method.

    Args:
        features: one of them may be constant 1, for the offset.
        target: the outcomes.
        penalties: [F] factors of the squared weights in the loss; above 0, so that a solution exists.
    """
    weights = np.zeros(features.shape[1])
    for _ in range(_STEPS):
        probability = sigmoid(features @ weights)
        gradient = features.T @ (target - probability) - penalties * weights
        hessian = (features * (probability * (1 - probability))[:, None]).T @ features + np.diag(penalties)
        step = np.linalg.solve(hessian, gradient)
        weights += step
        if np.abs(step).max() < _CONVERGED:
            break
    return weights


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of each logit."""
    probability: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(logits, -50, 50)))
    return probability


def error_probability(
    observed: NDArray[np.float64], simulated: NDArray[np.float64], many: float | None = None
) -> NDArray[np.float64]:
    """Probability that each observed candidate is an error, [C]; it never falls with the evidence.

    Args:
        observed: [C] evidence of the candidates; higher is more suspicious.
        simulated: [S] evidence of simulated errors, -inf for those that are no candidates.
        many: number of errors that is hardly exceeded; higher estimates approach it. None for no such limit.
    """
    if not len(observed) or not len(simulated):
        return np.zeros(len(observed))
    order = np.argsort(-observed, kind="stable")
    evidence = observed[order]
    ascending = np.sort(simulated)
    recall = 1 - np.searchsorted(ascending, evidence, "left") / len(ascending)  # of errors, down to each candidate
    # Equal evidence is one threshold: all of its candidates count.
    ranks = np.searchsorted(-evidence, -evidence, "right").astype(np.float64)
    enough = recall >= _SMALLEST_FRACTION
    if not enough.any():
        return np.zeros(len(observed))
    errors = float(((ranks + np.sqrt(ranks)) / np.maximum(recall, _SMALLEST_FRACTION))[enough].min())
    if many is not None:
        errors = many * float(-np.expm1(-errors / many))
    first = np.unique(-evidence, return_index=True)[1]
    counts = np.diff(np.append(first, len(evidence)))
    masses = errors * np.diff(recall[first], prepend=0.0)
    means, sizes = _not_rising(masses / counts, counts)
    # A group of few candidates says little: one candidate that is right is added to each.
    cautious, rows = _not_rising(np.minimum(means, HIGHEST) * sizes / (sizes + 1), sizes)
    probability = np.empty(len(observed))
    probability[order] = np.repeat(cautious, rows)
    return probability


def _not_rising(
    values: NDArray[np.float64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The nearest sequence that never rises, by weighted least squares, as means [G] and counts [G] of its groups.

    Source: pool adjacent violators.
    """
    means: list[float] = []
    sizes: list[int] = []
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        means.append(value)
        sizes.append(count)
        while len(means) > 1 and means[-1] >= means[-2]:
            mean, size = means.pop(), sizes.pop()
            means[-1] = (means[-1] * sizes[-1] + mean * size) / (sizes[-1] + size)
            sizes[-1] += size
    return np.array(means), np.array(sizes)
