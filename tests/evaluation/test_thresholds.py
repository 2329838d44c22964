import json

import numpy as np
import pytest

from effdet.evaluation.average_precision import tables
from effdet.evaluation.matching import Matches
from effdet.evaluation.thresholds import (
    SCORE_LEVELS,
    best_threshold,
    class_operating_points,
    class_thresholds,
    count,
    curves,
    operating_point,
    threshold_for_precision,
    threshold_for_recall,
    thresholds,
)


def matches_of(scores, labels, correct, objects, ignored=None):
    """Matches of given detections, in any order; `objects` is the number of objects of each class."""
    scores, labels, correct = np.asarray(scores, float), np.asarray(labels, int), np.asarray(correct, bool)
    ignored = np.zeros_like(correct) if ignored is None else np.asarray(ignored, bool)
    order = np.lexsort((-scores, labels))
    wide = (4, 10, len(order))
    matches = Matches(
        rows=order,
        images=np.zeros(len(order), int),
        labels=labels[order],
        scores=scores[order],
        ranks=np.zeros(len(order), int),
        objects=np.full(wide[1:], -1),
        correct=np.broadcast_to(correct[order], wide).copy(),
        ignored=np.broadcast_to(ignored[order], wide).copy(),
        counted=np.ones((4, sum(objects)), bool),
        first=np.searchsorted(labels[order], np.arange(len(objects) + 1)),
    )
    return matches, np.repeat(np.arange(len(objects)), objects)


def random_counts(seed, detections=300, objects=(40, 60, 0)):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, detections)
    scores = rng.integers(1, 1000, detections) / 1000  # ties among them, and scores equal to levels
    correct = (rng.random(detections) < scores) & (labels < 2) & (rng.random(detections) < 0.4)
    ignored = ~correct & (rng.random(detections) < 0.1)
    return (*matches_of(scores, labels, correct, objects, ignored), scores, labels, correct, ignored)


@pytest.mark.parametrize("seed", range(4))
def test_precision_recall_and_f1_are_those_of_a_slow_count(seed):
    matches, object_labels, scores, labels, correct, ignored = random_counts(seed)
    counts = count(matches, object_labels)
    precision, recall, f1 = counts.precision(), counts.recall(), counts.f1()
    for level in range(0, len(SCORE_LEVELS), 37):
        for label in range(3):
            kept = (scores >= SCORE_LEVELS[level]) & (labels == label) & ~ignored
            hits, shown = int((kept & correct).sum()), int(kept.sum())
            objects = int((object_labels == label).sum())
            assert counts.correct[label, level] == hits
            assert counts.wrong[label, level] == shown - hits
            np.testing.assert_allclose(precision[label, level], hits / shown if shown else np.nan)
            np.testing.assert_allclose(recall[label, level], hits / objects if objects else np.nan)
            np.testing.assert_allclose(f1[label, level], 2 * hits / (shown + objects) if objects else np.nan)


def test_overall_takes_all_classes_as_one():
    matches, object_labels, scores, _, correct, ignored = random_counts(0)
    overall = count(matches, object_labels).overall()
    kept = (scores >= 0.5) & ~ignored
    assert overall.correct[0, 499] == (kept & correct).sum()
    assert overall.wrong[0, 499] == (kept & ~correct).sum()
    assert overall.objects.tolist() == [100]


def test_the_best_threshold_is_in_the_middle_of_a_plateau():
    scores = [0.9] * 50 + [0.2] * 50
    matches, object_labels = matches_of(scores, [0] * 100, [True] * 50 + [False] * 50, (50,))
    assert best_threshold(count(matches, object_labels)) == pytest.approx(0.55, abs=0.002)


def test_a_lone_peak_of_f1_within_a_plateau_does_not_decide():
    scores = [0.9] * 98 + [0.203] * 2 + [0.2] * 100
    correct = [True] * 100 + [False] * 100
    counts = count(*matches_of(scores, [0] * 200, correct, (100,)))
    assert SCORE_LEVELS[counts.f1()[0].argmax()] < 0.21
    assert best_threshold(counts) == pytest.approx(0.55, abs=0.01)


@pytest.mark.parametrize("objects", [(5,), (0,)])
def test_without_a_correct_detection_there_is_no_threshold(objects):
    for scores in ([], [0.5, 0.4]):
        matches, object_labels = matches_of(scores, [0] * len(scores), [False] * len(scores), objects)
        counts = count(matches, object_labels)
        assert best_threshold(counts) is None
        assert class_thresholds(counts) is None
        assert operating_point(counts, None) == dict.fromkeys(("score", "F1", "precision", "recall"))
        assert class_operating_points(counts) == [dict.fromkeys(("threshold", "F1", "precision", "recall"))]
        json.dumps([thresholds(counts), curves(counts, tables(matches, object_labels))], allow_nan=False)


def test_a_class_with_many_objects_has_its_own_threshold_and_one_with_few_the_overall_one():
    many, few = 3000, 2
    scores = [0.8] * many + [0.6] * many + [0.3] * few + [0.1] * few
    labels = [0] * (2 * many) + [1] * (2 * few)
    correct = [True] * many + [False] * many + [True] * few + [False] * few
    counts = count(*matches_of(scores, labels, correct, (many, few, 0)))
    own, rare, absent = class_thresholds(counts)
    overall = best_threshold(counts)
    assert own == pytest.approx(0.7, abs=0.01)
    assert rare == pytest.approx(overall, abs=0.05)  # alone it would be 0.2
    assert absent == overall


def test_thresholds_for_a_wanted_recall_and_precision_keep_what_they_promise():
    counts = count(*random_counts(1)[:2])
    overall = counts.overall()
    for wanted in (0.05, 0.2, 0.3):
        place = round(threshold_for_recall(counts, wanted) * 1000) - 1
        assert overall.recall()[0, place] >= wanted
        assert not (overall.recall()[0, place + 1 :] >= wanted).any()
    for wanted in (0.2, 0.3, 0.4):
        place = round(threshold_for_precision(counts, wanted) * 1000) - 1
        assert overall.precision()[0, place] >= wanted
        assert not (overall.precision()[0, :place] >= wanted).any()
    assert threshold_for_recall(counts, 0.99) is None
    assert operating_point(counts, threshold_for_recall(counts, 0.99))["score"] is None


def test_curves_agree_with_average_precision_and_are_json():
    matches, object_labels = random_counts(2)[:2]
    counts, found = count(matches, object_labels), tables(matches, object_labels)
    drawn = json.loads(json.dumps(curves(counts, found), allow_nan=False))
    assert len(drawn["recall"]) == len(drawn["precision"]["all"]) == 101
    assert np.mean(drawn["precision"]["all"]) == pytest.approx(found.precision[0, :2, 0].mean(), abs=1e-5)
    assert [row is None for row in drawn["precision"]["classes"]] == [False, False, True]
    assert [row is None for row in drawn["F1"]["classes"]] == [False, False, True]
    assert len(drawn["score"]) == len(drawn["F1"]["all"]) == len(drawn["precision_at"]["all"]) == 99
    assert drawn["F1"]["all"][49] == pytest.approx(counts.overall().f1()[0, 499], abs=1e-5)  # at 0.5
