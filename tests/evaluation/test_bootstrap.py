import numpy as np
import pytest

from effdet.evaluation.average_precision import class_metrics, coco_metrics, tables
from effdet.evaluation.bootstrap import (
    class_intervals,
    class_matches,
    intervals,
    mean_over_classes,
    metrics_by_class,
    num_halves,
    sample,
    student,
)
from effdet.evaluation.matching import Objects, Predictions, match


def random_data(seed, images=30, classes=3, most=5, crowds=True):
    """Objects and detections of images; some detections are near an object, others are anywhere."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most, images)
    rows = np.repeat(np.arange(images), counts)
    corners, sides = rng.uniform(0, 200, (len(rows), 2)), rng.uniform(20, 80, (len(rows), 2))
    boxes = np.concatenate([corners, corners + sides], 1)
    labels = rng.integers(0, classes, len(rows))
    crowd = rng.random(len(rows)) < (0.1 if crowds else 0)
    areas = sides.prod(1)
    objects = Objects(rows, labels, boxes, areas, areas, crowd)
    near = np.repeat(np.arange(len(rows)), rng.integers(0, 3, len(rows)))
    shifted = boxes[near] + rng.normal(0, 5, (len(near), 4))
    lost = rng.integers(0, images, 2 * images)
    away = rng.uniform(0, 200, (len(lost), 2))
    found = np.concatenate([shifted, np.concatenate([away, away + rng.uniform(20, 80, away.shape)], 1)])
    predictions = Predictions(
        images=np.concatenate([rows[near], lost]),
        labels=np.concatenate([labels[near], rng.integers(0, classes, len(lost))]),
        boxes=found,
        box_areas=(found[:, 2:] - found[:, :2]).prod(1),
        scores=rng.integers(0, 50, len(found)) / 50,
    )
    return objects, predictions


def matched(objects, predictions, images=30, classes=3):
    return match(objects, predictions, images, classes)


def subset(objects, predictions, chosen):
    """The same data with those images alone, which keep their rows."""
    objects = Objects(*(column[np.isin(objects.images, chosen)] for column in objects))
    return objects, Predictions(*(column[np.isin(predictions.images, chosen)] for column in predictions))


@pytest.mark.parametrize("seed", range(6))
def test_ap_of_all_images_and_of_halves_is_that_of_the_evaluator(seed):
    objects, predictions = random_data(seed)
    sampled = sample(matched(objects, predictions), objects, 30, seed=5, count=4)
    expected = coco_metrics(tables(matched(objects, predictions), objects.labels))
    for name, values in metrics_by_class(sampled.whole[None]).items():
        assert mean_over_classes(values)[0] == pytest.approx(expected[name], abs=1e-6)
    for row in range(4):
        chosen = np.random.default_rng([5, row]).permutation(30)[:15]
        some = subset(objects, predictions, chosen)
        expected = class_metrics(tables(matched(*some), some[0].labels))["AP"]
        actual = sampled.halves[row].mean(axis=1)
        np.testing.assert_allclose(np.nan_to_num(actual, nan=-1), expected, atol=1e-6)


def test_the_result_does_not_depend_on_how_many_halves_are_computed_at_once(monkeypatch):
    objects, predictions = random_data(0)
    together = sample(matched(objects, predictions), objects, 30, count=50)
    monkeypatch.setattr("effdet.evaluation.bootstrap._CELLS_AT_ONCE", 100)
    alone = sample(matched(objects, predictions), objects, 30, count=50)
    assert np.array_equal(together.halves, alone.halves, equal_nan=True)


def test_the_same_seed_gives_the_same_intervals_and_holds_the_metric():
    objects, predictions = random_data(1)
    matches = matched(objects, predictions)
    first, again, other = (intervals(sample(matches, objects, 30, seed)) for seed in (0, 0, 1))
    assert first == again != other
    metrics = coco_metrics(tables(matches, objects.labels))
    for name in ("AP", "AP50", "AP75"):
        low, high = first[name]
        assert 0 <= low <= metrics[name] <= high <= 1
        assert low < high


def test_detections_below_the_last_correct_one_are_left_out():
    objects, predictions = random_data(2, crowds=False)
    lowest = Predictions(*(column[:1] for column in predictions))
    far = lowest._replace(boxes=lowest.boxes + 1000, scores=np.array([-1.0]))
    longer = Predictions(*(np.concatenate([own, more]) for own, more in zip(predictions, far, strict=True)))
    before, after = (class_matches(matched(objects, given), objects) for given in (predictions, longer))
    assert [len(own.images) for own in before] == [len(own.images) for own in after]


def test_a_class_in_few_images_has_no_interval():
    objects, predictions = random_data(3, images=60)
    rare = np.flatnonzero(objects.labels == 2)[4:]
    objects.labels[rare] = 0
    found = class_intervals(sample(match(objects, predictions, 60, 3), objects, 60))
    assert [row is None for row in found] == [False, False, True]


def test_without_objects_or_detections_there_is_nothing_or_zero():
    objects, predictions = random_data(4)
    nothing = Objects(*(column[:0] for column in objects))
    sampled = sample(matched(nothing, predictions), nothing, 30)
    assert intervals(sampled)["AP"] is None
    assert class_intervals(sampled) == [None, None, None]
    silent = Predictions(*(column[:0] for column in predictions))
    assert intervals(sample(matched(objects, silent), objects, 30))["AP"] == [0, 0]
    few, none = random_data(0, images=5)
    assert intervals(sample(match(few, none, 5, 3), few, 5)) is None


def test_a_perfect_detector_has_an_interval_that_ends_at_one():
    objects, _ = random_data(5, crowds=False)
    perfect = Predictions(
        objects.images, objects.labels, objects.boxes, objects.box_areas, np.ones(len(objects.labels))
    )
    assert intervals(sample(matched(objects, perfect), objects, 30))["AP"][1] == 1


def test_large_data_sets_have_fewer_halves():
    objects, predictions = random_data(0)
    own = class_matches(matched(objects, predictions), objects)
    assert num_halves([own]) == 1000
    assert num_halves([own] * 2000) == 200


def test_quantiles_of_the_t_distribution_are_those_of_the_tables():
    tabled = {1: 12.706, 2: 4.303, 3: 3.182, 5: 2.571, 10: 2.228, 30: 2.042, 1000: 1.962}
    for degrees, expected in tabled.items():
        assert student(degrees) == pytest.approx(expected, rel=0.12 if degrees == 1 else 0.01)


def from_population(rng, images):
    """Matches of images from a population, and their objects: images are easy or hard, and one of two classes is rare.

    A correct detection has the box of its object, a wrong one lies far away.
    """
    ease = rng.normal(0, 0.7, images)
    objects, found = [], []
    for label, mean in enumerate((3.0, 0.7)):
        rows = np.repeat(np.arange(images), rng.poisson(mean, images))
        wrong = np.repeat(np.arange(images), rng.poisson(2.0, images))
        easy = 1 + ease[rows] + rng.normal(0, 0.8, len(rows))
        correct = rng.random(len(rows)) < 1 / (1 + np.exp(-easy))
        corners = np.stack([np.arange(len(rows), dtype=float), np.zeros(len(rows))], 1)
        boxes = np.concatenate([corners, corners + 1], 1)
        objects.append((rows, np.full(len(rows), label), boxes))
        far = np.tile([-5.0, -5.0, -4.0, -4.0], (len(wrong), 1))
        found.append(
            (
                rows,
                np.full(len(rows), label),
                np.where(correct[:, None], boxes, -boxes - 9),
                easy + rng.normal(0, 0.8, len(rows)),
            )
        )
        found.append((wrong, np.full(len(wrong), label), far, rng.normal(-1.5, 1, len(wrong))))
    rows, labels, boxes = (np.concatenate(column) for column in zip(*objects, strict=True))
    truth = Objects(rows, labels, boxes, np.ones(len(rows)), np.ones(len(rows)), np.zeros(len(rows), bool))
    rows, labels, boxes, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    return match(truth, Predictions(rows, labels, boxes, np.ones(len(rows)), scores), images, 2), truth


@pytest.mark.slow
def test_the_interval_covers_the_ap_of_a_huge_population():
    huge = from_population(np.random.default_rng(0), 20000)
    truth = coco_metrics(tables(huge[0], huge[1].labels))["AP"]
    rng = np.random.default_rng(1)
    covered = []
    for _ in range(400):
        matches, objects = from_population(rng, 40)
        low, high = intervals(sample(matches, objects, 40, count=200))["AP"]
        covered.append(low <= truth <= high)
    assert np.mean(covered) == pytest.approx(0.95, abs=0.035)  # of 400, the standard deviation is 0.011
