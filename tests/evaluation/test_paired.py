from dataclasses import replace

import numpy as np
import pytest

from effdet.errors import DataError
from effdet.evaluation.average_precision import class_metrics, tables
from effdet.evaluation.matching import Objects, Predictions, match
from effdet.evaluation.paired import ComparedRun, compare_runs
from effdet.evaluation.seed_noise import SETTLED_NOISE, UNKNOWN_NOISE

IMAGES = 40


def truth_of(rng):
    """Objects of one class in 40 images; their boxes lie side by side."""
    rows = np.repeat(np.arange(IMAGES), rng.integers(1, 8, IMAGES))
    left = np.arange(len(rows)) * 10.0
    boxes = np.stack([left, np.zeros_like(left), left + 9, np.full_like(left, 9)], 1)
    areas, zeros = np.full(len(rows), 81.0), np.zeros(len(rows), int)
    return Objects(rows, zeros, boxes, areas, areas, np.zeros(len(rows), bool))


def run_of(rng, objects, name, found=0.6, recipe=None):
    """A run whose detections find a fraction of the objects and as many wrong boxes."""
    hit = rng.random(len(objects.labels)) < found
    boxes = np.concatenate([objects.boxes[hit], objects.boxes[hit] + [0, 50, 0, 50]])
    rows, zeros = np.tile(objects.images[hit], 2), np.zeros(2 * hit.sum(), int)
    scores = np.concatenate([rng.normal(1, 1, hit.sum()), rng.normal(0, 1, hit.sum())])
    predictions = Predictions(rows, zeros, boxes, np.full(len(rows), 81.0), scores)
    return ComparedRun(name, match(objects, predictions, IMAGES, 1), recipe)


def test_a_large_difference_is_different_and_a_run_equals_itself():
    rng = np.random.default_rng(0)
    objects = truth_of(rng)
    bad, good = run_of(rng, objects, "bad", 0.3), run_of(rng, objects, "good", 0.9)
    result = compare_runs([bad, good, replace(good, name="again")], objects, IMAGES)
    assert [(row["a"], row["b"]) for row in result["pairs"]] == [("bad", "good"), ("bad", "again"), ("good", "again")]
    first, _, same = result["pairs"]
    assert first["metric"] == "AP"
    assert first["verdict"] == "different"
    assert first["difference"] > 0.3
    assert first["interval"][0] > 0
    assert same["difference"] == 0
    assert same["verdict"] == "not distinguishable"


def test_without_repeated_runs_the_noise_of_both_is_assumed_and_in_the_interval():
    rng = np.random.default_rng(1)
    objects = truth_of(rng)
    unknown = run_of(rng, objects, "one")
    result = compare_runs([unknown, replace(unknown, name="two", change=0.0)], objects, IMAGES)
    (pair,) = result["pairs"]
    assert pair["noise"] == [UNKNOWN_NOISE, SETTLED_NOISE]
    reach = 2.776 * np.hypot(UNKNOWN_NOISE, SETTLED_NOISE)  # of t with 4 degrees of freedom; the images add nothing
    assert pair["interval"][1] == -pair["interval"][0] == pytest.approx(reach, rel=0.01)
    assert "assumed, because no runs differ by the seed alone" in result["notes"][0]
    assert result["notes"][1].startswith("one: 3.4 points, because AP before the last third of its training is unknown")


def test_a_difference_counts_after_settled_trainings_and_not_while_ap_still_changes():
    rng = np.random.default_rng(2)
    objects = truth_of(rng)
    runs = [run_of(rng, objects, "worse", 0.5), run_of(rng, objects, "better", 0.7)]
    verdicts = [
        compare_runs([replace(run, change=change) for run in runs], objects, IMAGES)["pairs"][0]["verdict"]
        for change in (0.01, 0.3)
    ]
    assert verdicts == ["different", "not distinguishable"]


def test_noise_is_measured_where_runs_differ_by_the_seed_alone():
    rng = np.random.default_rng(2)
    objects = truth_of(rng)
    founds = 0.4, 0.5, 0.55, 0.6, 0.7  # far apart, as if the seed mattered much
    repeated = [run_of(rng, objects, f"seed {found}", found, recipe="mine") for found in founds]
    other = run_of(rng, objects, "other", 0.8)
    result = compare_runs([*repeated, other], objects, IMAGES)
    assert len(result["notes"]) == 1
    assert "as 5 runs show that differ by the seed alone" in result["notes"][0]
    assert {row["metric"] for row in result["pairs"]} == {"AP", "AP50", "AP75"}
    assert all(min(row["noise"]) > 0.05 for row in result["pairs"])
    assert all(row["verdict"] == "not distinguishable" for row in result["pairs"] if row["b"] != "other")
    wide = [row["interval"] for row in result["pairs"] if (row["a"], row["b"]) == ("seed 0.4", "other")]
    settled = [replace(run, change=0.0) for run in (repeated[0], other)]
    narrow = compare_runs(settled, objects, IMAGES)["pairs"][0]["interval"]
    assert wide[0][1] - wide[0][0] > narrow[1] - narrow[0]


def test_other_recipes_are_compared_with_few_measured_runs_and_the_assumption():
    rng = np.random.default_rng(3)
    objects = truth_of(rng)
    runs = [run_of(rng, objects, name, 0.6, "mine" if name < "c" else None) for name in "abc"]
    result = compare_runs([replace(run, change=0.06) for run in runs], objects, IMAGES)
    values = [row for row in result["pairs"] if row["metric"] == "AP"]
    distance = values[0]["difference"]
    assert values[0]["noise"][0] == pytest.approx(np.sqrt((distance**2 / 2 + 3 * 0.03**2) / 4), abs=1e-5)
    assert "because only 2 runs differ by the seed alone" in result["notes"][0]
    assert [note[:2] for note in result["notes"][1:]] == ["a:", "b:", "c:"]
    assert "from these runs and because AP was still changing: by 6.0 points" in result["notes"][1]


def _learned(steps, speed):
    """The fraction of the objects that a run finds after so many steps."""
    return 0.9 * (1 - np.exp(-steps * speed))


@pytest.mark.parametrize("steps", [0.5, 1, 5])  # from far from settled to settled
def test_runs_that_learn_at_other_speeds_are_called_different_in_at_most_one_of_twenty_pairs(monkeypatch, steps):
    monkeypatch.setattr("effdet.evaluation.bootstrap.MOST_HALVES", 200)
    rng = np.random.default_rng(3)
    different = 0
    for _ in range(40):
        objects, runs = truth_of(rng), []
        for speed in np.exp(rng.normal(0, 0.2, 2)):
            early = run_of(rng, objects, "early", _learned(steps * 2 / 3, speed))
            late = run_of(rng, objects, "late", _learned(steps, speed))
            values = [class_metrics(tables(run.matches, objects.labels))["AP"][0] for run in (early, late)]
            runs.append(replace(late, change=abs(values[1] - values[0])))
        (pair,) = compare_runs(runs, objects, IMAGES)["pairs"]
        different += pair["verdict"] == "different"
    assert different <= 0.05 * 40


def test_the_metrics_of_a_data_set_without_objects_cannot_be_compared():
    rng = np.random.default_rng(4)
    objects = Objects(*(column[:0] for column in truth_of(rng)))
    runs = [run_of(rng, objects, name, recipe="mine") for name in "ab"]
    (pair,) = compare_runs(runs, objects, IMAGES)["pairs"]
    assert pair["difference"] is None
    assert pair["verdict"] == "not distinguishable"


def test_what_cannot_be_compared_is_named():
    rng = np.random.default_rng(4)
    objects = truth_of(rng)
    run = run_of(rng, objects, "one")
    with pytest.raises(DataError, match="at least two runs, got 1"):
        compare_runs([run], objects, IMAGES)
    with pytest.raises(DataError, match="at least 10 images, got 9"):
        compare_runs([run, run], objects, 9)
    fewer = Objects(*(column[1:] for column in objects))
    with pytest.raises(DataError, match=r"^one: was evaluated on .* objects, but the data set has"):
        compare_runs([run, run], fewer, IMAGES)
