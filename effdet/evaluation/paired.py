"""Which differences between runs are real: paired over the images of one data set, and against the noise of seeds.

The same random halves of the images are used for all runs, see `bootstrap.py`. Images say how well the difference
carries over to other images. They do not show that the same recipe gives another AP with another seed, so the standard
deviation between seeds is added; where it is from is in `seed_noise.py`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from typing import Any, NamedTuple

import numpy as np

from effdet.errors import DataError
from effdet.evaluation.bootstrap import (
    FEWEST_IMAGES,
    Sampled,
    class_matches,
    degrees_of_freedom,
    mean_over_classes,
    metrics_by_class,
    num_halves,
    sample,
    standard_error,
    student,
)
from effdet.evaluation.matching import Matches, Objects
from effdet.evaluation.seed_noise import Noise, assumed_noise, noise_notes, seed_noise
from effdet.text import count_of

METRICS = ("AP", "AP50", "AP75")
_DECIMALS = 5


@dataclass(frozen=True)
class ComparedRun:
    """A run that is compared.

    Attributes:
        name: such as its folder.
        matches: its detections matched to the objects that all runs have in common.
        recipe: anything hashable, the same for runs that differ by the seed alone; None if it is unknown.
        change: of AP at the end of its training, as `late_change` gives it.
    """

    name: str
    matches: Matches
    recipe: Hashable = None
    change: float | None = None


class _StandardError(NamedTuple):
    """The standard error of a difference over images, and its degrees of freedom."""

    value: float
    degrees: float


def compare_runs(runs: Sequence[ComparedRun], objects: Objects, num_images: int, seed: int = 0) -> dict[str, Any]:
    """The differences between all pairs of runs over the same images, as plain containers.

    Args:
        runs: two or more.
        objects: those of the data set.
        num_images: images of the data set.
        seed: of the random halves.

    Returns:
        `pairs`, each with the names `a` and `b`, `metric`, `difference` (b minus a), its 95% `interval`, the `noise` of
        a and b (standard deviation between seeds) and a `verdict`; and `notes`, which say where the noise is from. The
        interval includes the noise. AP50 and AP75 are compared only where enough runs measure their noise.

    Raises:
        DataError: there are fewer than two runs, too few images, or a run was evaluated on other objects.
    """
    _check(runs, objects, num_images)
    count = num_halves([class_matches(run.matches, objects) for run in runs])
    sampled = [sample(run.matches, objects, num_images, seed, count) for run in runs]
    groups, changes = _groups(runs), [run.change for run in runs]
    pairs, notes = list[dict[str, Any]](), list[str]()
    for metric in METRICS:
        values = [float(mean_over_classes(metrics_by_class(one.whole[None])[metric])[0]) for one in sampled]
        noise = seed_noise(values, groups, list(map(assumed_noise, changes)) if metric == "AP" else None)
        if not noise:
            continue
        if metric == "AP":
            notes = noise_notes([run.name for run in runs], changes, groups, noise)
        for (first, second), error in _errors_over_images(sampled, metric).items():
            row = _verdict(values[second] - values[first], error, noise[first], noise[second])
            pairs.append({"a": runs[first].name, "b": runs[second].name, "metric": metric, **row})
    return {"pairs": pairs, "notes": notes}


def _check(runs: Sequence[ComparedRun], objects: Objects, num_images: int) -> None:
    """Raises DataError if the runs cannot be compared."""
    if len(runs) < 2:
        raise DataError(f"a comparison needs at least two runs, got {len(runs)}")
    if num_images < FEWEST_IMAGES:
        raise DataError(f"a comparison needs at least {FEWEST_IMAGES} images, got {num_images}")
    for run in runs:
        if run.matches.counted.shape[1] != len(objects.labels):
            raise DataError(
                f"{run.name}: was evaluated on {count_of(run.matches.counted.shape[1], 'object')}, but the data set "
                f"has {len(objects.labels)}; evaluate all runs on the same images"
            )


def _errors_over_images(sampled: Sequence[Sampled], metric: str) -> dict[tuple[int, int], _StandardError]:
    """How uncertain the difference of a metric is over images, for each pair of runs."""
    halves = [metrics_by_class(one.halves)[metric] for one in sampled]
    means = [mean_over_classes(values) for values in halves]
    images, class_images = sampled[0].images, sampled[0].class_images
    return {
        (first, second): _StandardError(
            standard_error(means[second] - means[first], images),
            degrees_of_freedom(halves[second] - halves[first], class_images),
        )
        for first, second in combinations(range(len(sampled)), 2)
    }


def _groups(runs: Sequence[ComparedRun]) -> list[list[int]]:
    """Rows of the runs that differ by the seed alone; groups of two and more."""
    rows: dict[Hashable, list[int]] = {}
    for row, run in enumerate(runs):
        if run.recipe is not None:
            rows.setdefault(run.recipe, []).append(row)
    return [group for group in rows.values() if len(group) > 1]


def _verdict(difference: float, error: _StandardError, first: Noise, second: Noise) -> dict[str, Any]:
    """The interval of a difference, and whether it excludes 0.

    Its variance is that over images plus that of two seeds. The noise between seeds was seen on images too, so this
    is rather too much than too little. The degrees of freedom are those of Welch and Satterthwaite.
    """
    seeds = first.value**2 + second.value**2
    variance = error.value**2 + seeds
    noise = [round(first.value, _DECIMALS), round(second.value, _DECIMALS)]
    if not np.isfinite(variance) or not np.isfinite(difference):
        return {"difference": None, "interval": None, "noise": noise, "verdict": "not distinguishable"}
    doubt = error.value**4 / error.degrees + seeds**2 / min(first.degrees, second.degrees)
    reach = student(max(variance**2 / doubt, 1.0) if doubt else error.degrees) * sqrt(variance)
    return {**difference_row(difference, reach), "noise": noise}


def difference_row(difference: float, reach: float) -> dict[str, Any]:
    """A difference with its `interval`, which reaches so far to both sides, and the `verdict` of whether 0 is in it."""
    return {
        "difference": round(difference, _DECIMALS),
        "interval": [round(difference - reach, _DECIMALS), round(difference + reach, _DECIMALS)],
        "verdict": "different" if abs(difference) > reach else "not distinguishable",
    }
