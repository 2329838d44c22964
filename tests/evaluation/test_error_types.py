import runpy
from pathlib import Path

import numpy as np
import pytest

from effdet.evaluation.average_precision import coco_metrics, tables
from effdet.evaluation.error_types import KINDS, SPECIAL, error_types, errors_analysis, lost_ap, missed_objects
from effdet.evaluation.matching import match

SMALL = runpy.run_path(str(Path(__file__).with_name("small_data.py")))
IMAGES, CLASSES, BOX = SMALL["IMAGES"], SMALL["CLASSES"], SMALL["BOX"]
objects_of, predictions_of, random_data, slow_iou = (
    SMALL[name] for name in ("objects_of", "predictions_of", "random_data", "slow_iou")
)
COLUMNS = (*KINDS, "missed", *SPECIAL)


def analyse(objects, predictions):
    matches = match(objects, predictions, IMAGES, CLASSES)
    return matches, error_types(objects, predictions, matches)


class Slow:
    """The definitions of the paper in loops: sections 2.2 (types of errors) and 2.3 (oracles)."""

    def __init__(self, objects, predictions, lowest=0.0):
        self.objects, self.predictions = objects, predictions
        everything = sorted(range(len(predictions.scores)), key=lambda row: (-predictions.scores[row], row))
        self.rows = [row for row in everything if predictions.scores[row] >= lowest]
        self.truths = [row for row in range(len(objects.labels)) if not objects.crowd[row]]
        self.match()
        self.kinds = {row: self.kind(row) for row in self.rows if row not in self.target and row not in self.in_crowd}
        covered = {target for kind, target in self.kinds.values() if kind in ("classification", "localization")}
        self.missed = [row for row in self.truths if row not in self.target.values() and row not in covered]

    def iou(self, row, other):
        return slow_iou(self.predictions.boxes[row], self.objects.boxes[other], self.objects.crowd[other])

    def of_image(self, row):
        return [other for other in self.truths if self.objects.images[other] == self.predictions.images[row]]

    def own(self, row, other):
        return self.objects.labels[other] == self.predictions.labels[row]

    def match(self):
        self.target, self.in_crowd = {}, set()
        for row in self.rows:
            free = [other for other in self.of_image(row) if self.own(row, other)]
            free = [each for each in free if each not in self.target.values() and self.iou(row, each) >= 0.5]
            if free:
                self.target[row] = max(free, key=lambda other: (self.iou(row, other), other))
            elif any(
                self.objects.crowd[other]
                and self.objects.images[other] == self.predictions.images[row]
                and self.own(row, other)
                and self.iou(row, other) >= 0.5
                for other in range(len(self.objects.labels))
            ):
                self.in_crowd.add(row)

    def kind(self, row):
        own = [other for other in self.of_image(row) if self.own(row, other)]
        others = [other for other in self.of_image(row) if not self.own(row, other)]
        best_own = max(own, key=lambda other: (self.iou(row, other), other), default=None)
        best_other = max(others, key=lambda other: (self.iou(row, other), other), default=None)
        iou_own = self.iou(row, best_own) if own else 0.0
        iou_other = self.iou(row, best_other) if others else 0.0
        if max(iou_own, iou_other) >= 0.5:  # some object is met
            return ("duplicate", best_own) if iou_own >= iou_other else ("classification", best_other)
        if iou_own >= 0.1:
            return "localization", best_own
        return ("both", best_other) if iou_other >= 0.1 else ("background", None)

    def ap(self, labels, correct, removed, truths):
        values = []
        for label in sorted({self.objects.labels[row] for row in self.truths}):
            count = sum(self.objects.labels[row] == label for row in truths)
            points, hits, seen = [], 0, 0
            for row in self.rows:
                if row in removed or labels[row] != label:
                    continue
                seen += 1
                hits += row in correct
                points.append((hits / count if count else 0.0, hits / seen))
            levels = [
                max((precision for recall, precision in points if recall >= level), default=0.0)
                for level in np.linspace(0, 1, 101)
            ]
            values.append(sum(levels) / 101 if count else 0.0)
        return sum(values) / len(values)

    def corrected(self, wanted):
        """The classes, correct and removed detections when the errors of a kind are corrected."""
        labels = {row: self.predictions.labels[row] for row in self.rows}
        aims = dict(self.target)
        for row, (kind, target) in self.kinds.items():
            if kind == wanted:
                aims[row] = target
                labels[row] = self.objects.labels[target]
        correct = {}
        for row in self.rows:  # descending scores: the first one for an object stays
            if row in aims:
                correct.setdefault(aims[row], row)
        return labels, set(correct.values()), self.in_crowd | (set(aims) - set(correct.values()))

    def lost(self):
        labels = {row: self.predictions.labels[row] for row in self.rows}
        correct, ignored = set(self.target), self.in_crowd
        base = self.ap(labels, correct, ignored, self.truths)
        values = {kind: self.ap(*self.corrected(kind), self.truths) for kind in ("classification", "localization")}
        for wanted in ("both", "duplicate", "background"):
            removed = {row for row, (kind, _) in self.kinds.items() if kind == wanted}
            values[wanted] = self.ap(labels, correct, ignored | removed, self.truths)
        left = [row for row in self.truths if row not in self.missed]
        values["missed"] = self.ap(labels, correct, ignored, left)
        values["false_positive"] = self.ap(labels, correct, ignored | set(self.kinds), self.truths)
        values["false_negative"] = self.ap(labels, correct, ignored, list(self.target.values()))
        return {"AP50": base, **{name: values[name] - base for name in COLUMNS}}


@pytest.mark.parametrize("seed", range(60))
def test_kinds_and_losses_are_those_of_the_definitions_in_loops(seed):
    objects, predictions = random_data(seed)
    matches, types = analyse(objects, predictions)
    slow = Slow(objects, predictions)
    for place, row in enumerate(matches.rows.tolist()):
        kind, target = slow.kinds.get(row, (None, slow.target.get(row)))
        assert (KINDS[types.kinds[place]] if types.kinds[place] >= 0 else None) == kind
        assert types.objects[place] == (-1 if target is None else target)
    if slow.truths:
        assert lost_ap(objects, matches, types) == pytest.approx(slow.lost(), abs=1e-12)


def test_random_data_has_errors_of_every_kind():
    kinds = set()
    for seed in range(10):
        slow = Slow(*random_data(seed))
        kinds |= {kind for kind, _ in slow.kinds.values()} | ({"missed"} if slow.missed else set())
    assert kinds == {*KINDS, "missed"}


@pytest.mark.parametrize("seed", range(10))
def test_counts_are_those_of_the_detections_from_the_threshold_on(seed):
    objects, predictions = random_data(seed)
    matches, types = analyse(objects, predictions)
    slow = Slow(objects, predictions, lowest=0.5)
    kinds = [kind for kind, _ in slow.kinds.values()]
    assert errors_analysis(objects, matches, types, 0.5)["counts"] == {
        **{kind: kinds.count(kind) for kind in KINDS},
        "missed": len(slow.missed),
        "false_positive": len(kinds),
        "false_negative": len(slow.truths) - len(slow.target),
    }
    assert np.flatnonzero(missed_objects(matches, types, 0.5)).tolist() == slow.missed


@pytest.mark.parametrize("seed", range(20))
def test_no_correction_lowers_ap_and_ap50_is_that_of_coco(seed):
    objects, predictions = random_data(seed)
    matches, types = analyse(objects, predictions)
    if matches.counted[0].any():
        lost = lost_ap(objects, matches, types)
        assert min(lost[name] for name in COLUMNS) >= -1e-12
        assert lost["AP50"] == pytest.approx(coco_metrics(tables(matches, objects.labels))["AP50"], abs=1e-12)


CASES = {
    "classification": [(0, 1, BOX, 0.9)],
    "localization": [(0, 0, (10, 10, 50, 26), 0.9)],
    "both": [(0, 1, (10, 10, 50, 26), 0.9)],
    "duplicate": [(0, 0, BOX, 0.9), (0, 0, (10, 10, 50, 48), 0.8)],
    "background": [(0, 0, BOX, 0.8), (0, 0, (200, 200, 240, 240), 0.9)],
    "missed": [(1, 0, BOX, 0.9)],
}
TRUTH = {"missed": [(0, 0, BOX, False), (1, 0, BOX, False)]}


@pytest.mark.parametrize("kind", CASES)
def test_one_error_is_of_its_kind_alone(kind):
    objects = objects_of(TRUTH.get(kind, [(0, 0, BOX, False)]))
    matches, types = analyse(objects, predictions_of(CASES[kind]))
    analysis = errors_analysis(objects, matches, types, 0.0)
    counts = {name: analysis["counts"][name] for name in (*KINDS, "missed")}
    missed = {"missed": 1} if kind == "both" else {}  # an error of both explains no object
    assert counts == {**dict.fromkeys(counts, 0), kind: 1, **missed}


@pytest.mark.parametrize("kind", ["classification", "localization", "background", "missed"])
def test_correcting_the_only_error_gives_an_ap_of_one(kind):
    objects = objects_of(TRUTH.get(kind, [(0, 0, BOX, False)]))
    matches, types = analyse(objects, predictions_of(CASES[kind]))
    lost = lost_ap(objects, matches, types)
    assert lost["AP50"] < 0.6
    assert lost["AP50"] + lost[kind] == pytest.approx(1)


def test_a_better_detection_with_a_wrong_box_replaces_the_correct_one_when_corrected():
    objects = objects_of([(0, 0, BOX, False), (1, 0, BOX, False)])
    rows = [(0, 0, (10, 10, 50, 26), 0.9), (0, 0, BOX, 0.8), (1, 0, BOX, 0.7)]
    matches, types = analyse(objects, predictions_of(rows))
    lost = lost_ap(objects, matches, types)
    assert lost["AP50"] + lost["localization"] == pytest.approx(1)


def test_a_perfect_model_loses_nothing():
    objects, _ = random_data(0)
    columns = objects.images, objects.labels, objects.boxes
    matches, types = analyse(objects, predictions_of([(*row, 0.5) for row in zip(*columns, strict=True)]))
    analysis = errors_analysis(objects, matches, types, 0.0)
    assert analysis["AP50"] == pytest.approx(1)
    assert {analysis[name] for name in COLUMNS} | set(analysis["counts"].values()) == {0}


def test_of_two_objects_of_equal_iou_the_one_of_the_class_of_the_detection_explains_the_error():
    objects = objects_of([(0, 0, BOX, False), (0, 1, BOX, False)])
    for label in (0, 1):
        _, types = analyse(objects, predictions_of([(0, label, BOX, 0.9), (0, label, BOX, 0.8)]))
        assert types.kinds.tolist() == [-1, KINDS.index("duplicate")]
        assert types.objects.tolist() == [label, label]


def test_a_detection_inside_a_crowd_is_no_error_and_a_crowd_explains_none():
    crowd = objects_of([(0, 0, (0, 0, 100, 100), True), (1, 1, BOX, False)])
    _, types = analyse(crowd, predictions_of([(0, 0, BOX, 0.9), (0, 1, (0, 0, 100, 100), 0.8)]))
    assert types.kinds.tolist() == [-1, KINDS.index("background")]
    assert types.objects.tolist() == [-1, -1]


def test_without_detections_all_objects_are_missed():
    objects = objects_of([(0, 0, BOX, False), (1, 2, BOX, False), (1, 2, BOX, True)])
    matches, types = analyse(objects, predictions_of([]))
    analysis = errors_analysis(objects, matches, types, 0.5)
    assert analysis["AP50"] == 0
    assert analysis["counts"]["missed"] == analysis["counts"]["false_negative"] == 2


def test_without_objects_there_is_no_analysis():
    objects = objects_of([(0, 0, BOX, True)])
    for none in (objects, objects_of([])):
        assert errors_analysis(none, *analyse(none, predictions_of([(0, 0, BOX, 0.9)])), 0.5) is None


def test_many_pairs_are_computed_in_steps(monkeypatch):
    objects, predictions = random_data(1)
    whole = analyse(objects, predictions)[1]
    monkeypatch.setattr("effdet.evaluation.error_types._PAIRS_AT_ONCE", 5)
    steps = analyse(objects, predictions)[1]
    assert whole.kinds.tolist() == steps.kinds.tolist()
    assert whole.objects.tolist() == steps.objects.tolist()
