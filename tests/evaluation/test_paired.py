from dataclasses import replace

import numpy as np
import pytest

from effdet.errors import DataError
from effdet.evaluation.matching import Objects, Predictions, match
from effdet.evaluation.paired import ASSUMED_NOISE, ComparedRun, compare_runs

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


def test_without_repeated_runs_the_noise_is_assumed_and_in_the_interval():
    rng = np.random.default_rng(1)
    objects = truth_of(rng)
    run = run_of(rng, objects, "one")
    result = compare_runs([run, replace(run, name="two")], objects, IMAGES)
    (pair,) = result["pairs"]
    assert pair["noise"] == ASSUMED_NOISE
    assert pair["interval"][1] == -pair["interval"][0] == pytest.approx(4.303 * np.sqrt(2) * ASSUMED_NOISE, rel=0.01)
    assert "assumed" in result["note"]
    assert "0.012" in result["note"]


def test_noise_is_measured_where_runs_differ_by_the_seed_alone():
    rng = np.random.default_rng(2)
    objects = truth_of(rng)
    founds = 0.4, 0.5, 0.6, 0.7  # far apart, as if the seed mattered much
    repeated = [run_of(rng, objects, f"seed {found}", found, recipe="mine") for found in founds]
    other = run_of(rng, objects, "other", 0.8)
    result = compare_runs([*repeated, other], objects, IMAGES)
    assert "4 of these runs" in result["note"]
    assert {row["metric"] for row in result["pairs"]} == {"AP", "AP50", "AP75"}
    assert all(row["noise"] > 0.05 for row in result["pairs"])
    assert all(row["verdict"] == "not distinguishable" for row in result["pairs"] if row["b"] != "other")
    wide = [row["interval"] for row in result["pairs"] if (row["a"], row["b"]) == ("seed 0.4", "other")]
    narrow = compare_runs([repeated[0], other], objects, IMAGES)["pairs"][0]["interval"]
    assert wide[0][1] - wide[0][0] > narrow[1] - narrow[0]


def test_runs_of_one_recipe_are_called_different_in_at_most_one_of_twenty_pairs(monkeypatch):
    monkeypatch.setattr("effdet.evaluation.bootstrap.MOST_HALVES", 200)
    rng = np.random.default_rng(3)
    verdicts = []
    for _ in range(15):
        objects = truth_of(rng)
        seeds = rng.normal(0.6, 0.05, 6).clip(0, 1)
        runs = [run_of(rng, objects, str(row), found, "mine" if row < 4 else None) for row, found in enumerate(seeds)]
        pairs = compare_runs(runs, objects, IMAGES)["pairs"]
        verdicts += [row["verdict"] for row in pairs if row["metric"] == "AP"]
    assert verdicts.count("different") <= 0.05 * len(verdicts)


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
