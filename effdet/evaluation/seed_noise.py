"""How much AP varies between trainings of one recipe that differ by the seed alone: measured by such runs, or assumed.

Two runs alone cannot show whether the recipe or the seed makes the difference. A seed mainly changes how fast a
training learns. This matters while AP still changes. Once AP has settled, runs differ in single images, and the
comparison over images in `paired.py` covers that. So the assumed noise follows from the last third of the training.

Source: Jordan, Calibrated Chaos: Variance Between Runs of Neural Network Training Is Harmless and Inevitable (2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import numpy as np

from effdet.text import count_of

# Standard deviations of AP between seeds, measured with recipes of this package.
SETTLED_NOISE = 0.005  # BCCD, the whole recipe
UNKNOWN_NOISE = 0.034  # three epochs of the demo, far from settled
# Of how much AP changes in the last third of a training. Six runs of three epochs of the demo had 0.6 of it, with 4
# degrees of freedom 0.7 is covered.
NOISE_PER_CHANGE = 0.5
ASSUMED_DEGREES = 4  # of freedom: how uncertain the assumption is, and how many measured ones replace it
_SETTLED_AFTER = 2 / 3  # of the steps


class Noise(NamedTuple):
    """The standard deviation of a metric between seeds, on the same images, and its degrees of freedom."""

    value: float
    degrees: int


def late_change(evaluations: Sequence[Mapping[str, float]]) -> float | None:
    """How much AP changed in the last third of a training: the highest minus the lowest, 0..1.

    It counts from the last evaluation before that third, so it is rather too much than too little.

    Args:
        evaluations: records of evaluations during the training, with `step` and `AP`, in order.

    Returns:
        None if AP is unknown before the last third.
    """
    # A log may hold null or NaN, and -1 where there are no objects.
    points = [(each["step"], ap) for each in evaluations if (ap := each.get("AP")) is not None and 0 <= ap <= 1]
    before = [row for row, (step, _) in enumerate(points) if step <= _SETTLED_AFTER * points[-1][0]]
    if not before:
        return None
    values = [value for _, value in points[before[-1] :]]
    return max(values) - min(values)


def assumed_noise(change: float | None) -> float:
    """The standard deviation of AP between seeds that is assumed for a training, from its `late_change`."""
    return UNKNOWN_NOISE if change is None else max(SETTLED_NOISE, NOISE_PER_CHANGE * change)


def seed_noise(
    values: Sequence[float], groups: Sequence[Sequence[int]], assumed: Sequence[float] | None
) -> list[Noise]:
    """The noise of a metric for each run; empty if too few runs measure it and nothing is assumed.

    Runs that differ by the seed alone measure it for all runs. The fewer they are, the more the assumption counts.

    Args:
        values: the metric of each run.
        groups: rows of the runs that differ by the seed alone.
        assumed: the assumed standard deviation of each run; None where nothing is assumed.
    """
    groups = [group for group in groups if np.isfinite([values[row] for row in group]).all()]
    measured = _measured(groups)
    squares = sum(float(np.var([values[row] for row in group])) * len(group) for group in groups)
    if measured >= ASSUMED_DEGREES:
        return [Noise(sqrt(squares / measured), measured)] * len(values)
    prior = ASSUMED_DEGREES - measured
    return [Noise(sqrt((squares + prior * value**2) / ASSUMED_DEGREES), ASSUMED_DEGREES) for value in assumed or ()]


def noise_notes(
    names: Sequence[str], changes: Sequence[float | None], groups: Sequence[Sequence[int]], noises: Sequence[Noise]
) -> list[str]:
    """The noise of AP between seeds and where it is from, in sentences.

    Args:
        names: of the runs.
        changes: `late_change` of each run.
        groups: rows of the runs that differ by the seed alone.
        noises: that of AP, of each run.
    """
    runs, measured = sum(map(len, groups)), _measured(groups)
    about = "The intervals include how much AP varies between seeds"
    if measured >= ASSUMED_DEGREES:
        return [
            f"{about}: a standard deviation of {_points(noises[0].value)}, as {count_of(runs, 'run')} show that differ "
            "by the seed alone."
        ]
    few = f"only {count_of(runs, 'run')} differ" if runs else "no runs differ"
    return [
        f"{about}. Its standard deviation is assumed, because {few} by the seed alone. To measure it, train a recipe "
        "again with other seeds and compare these runs too.",
        *(
            f"{name}: {_points(noise.value)}, {'from these runs and ' if runs else ''}{_reason(change)}."
            for name, change, noise in zip(names, changes, noises, strict=True)
        ),
    ]


def _measured(groups: Sequence[Sequence[int]]) -> int:
    """The degrees of freedom that runs of the same recipe measure."""
    return sum(len(group) - 1 for group in groups)


def _reason(change: float | None) -> str:
    """Why a noise is assumed."""
    if change is None:
        return "because AP before the last third of its training is unknown (set eval.every_epochs)"
    state = "had settled" if assumed_noise(change) == SETTLED_NOISE else "was still changing"
    return f"because AP {state}: by {_points(change)} in the last third of its training"


def _points(value: float) -> str:
    return f"{100 * value:.1f} points"
