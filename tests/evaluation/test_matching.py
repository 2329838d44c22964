"""The metrics from arrays and of the evaluator against those of pycocotools, in random small data sets."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from effdet.evaluation.average_precision import AR_CAPS, class_metrics, coco_metrics, tables
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import IOU_THRESHOLDS, Objects, Predictions, match, overlaps_of
from effdet.evaluation.reference import comparison_line, reference_tables
from effdet.structures import Detections

CASES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cases.py"))))

COUNT = 540
TOLERANCE = 1e-12


def columns(case):
    """Objects and detections as arrays, images in the order of their ids."""
    rank = np.argsort(np.argsort(case.image_ids))
    objects = Objects(
        rank[case.images],
        case.labels,
        CASES.corners(case.boxes),
        case.boxes[:, 2] * case.boxes[:, 3],
        case.areas,
        case.crowd,
    )
    order = np.argsort(rank[case.detected_images], kind="stable")
    boxes = case.detected_boxes[order]
    predictions = Predictions(
        rank[case.detected_images][order],
        case.detected_labels[order],
        CASES.corners(boxes),
        boxes[:, 2] * boxes[:, 3],
        case.scores[order],
    )
    return objects, predictions


def evaluated(case, seed):
    """An evaluator of a case, its images added in any order and by two processes."""
    table = CASES.table_of(case)
    evaluators = [CocoEvaluator(table), CocoEvaluator(table)]
    rng = np.random.default_rng(seed)
    for image in rng.permutation(len(table)).tolist():
        own = np.flatnonzero(case.detected_images == image)
        if len(own) or rng.random() < 0.5:
            evaluators[rng.integers(2)].add(
                image,
                Detections(
                    torch.from_numpy(CASES.corners(case.detected_boxes[own])).float(),
                    torch.from_numpy(case.scores[own]).float(),
                    torch.from_numpy(case.detected_labels[own]),
                ),
            )
    evaluators[0].merge(evaluators[1].state())
    return evaluators[0]


def class_ap(precision):
    """AP of every class from pycocotools' table, [T, R, K]."""
    values = []
    for label in range(precision.shape[2]):
        own = precision[:, :, label]
        values.append(own[own > -1].mean() if (own > -1).any() else -1)
    return np.array(values)


@pytest.mark.parametrize("block", range(9))
def test_metrics_and_tables_are_those_of_pycocotools(block):
    for seed in range(block * COUNT // 9, (block + 1) * COUNT // 9):
        case = CASES.random_case(seed)
        expected = CASES.by_pycocotools(*CASES.coco_rows(case))
        precision, recall = expected.eval["precision"], expected.eval["recall"]
        objects, predictions = columns(case)
        own = tables(match(objects, predictions, len(case.image_ids), len(case.category_ids)), objects.labels)
        evaluator = evaluated(case, seed)
        for found in (own, evaluator.tables()):
            assert np.abs(found.precision - precision[..., -1].transpose(3, 2, 0, 1)).max() < TOLERANCE, seed
            assert np.abs(found.recall - recall[..., -1].transpose(2, 1, 0)).max() < TOLERANCE, seed
            for number, cap in enumerate(AR_CAPS):
                difference = found.recall_capped[cap] - recall[..., number].transpose(2, 1, 0)
                assert np.abs(difference).max() < TOLERANCE, seed
            ap = class_metrics(found)["AP"]
            assert np.abs(ap - class_ap(precision[..., 0, -1])).max() < TOLERANCE, seed
        for metrics in (coco_metrics(own), evaluator.metrics()):
            assert np.abs(np.array(list(metrics.values())) - expected.stats).max() < TOLERANCE, seed


def test_some_random_cases_are_hard():
    cases = [CASES.random_case(seed) for seed in range(100)]
    assert any(len(case.scores) == 0 for case in cases)
    assert any(len(case.images) == 0 for case in cases)
    assert any(case.crowd.mean() > 0.4 for case in cases if len(case.crowd))
    assert any(len(np.unique(case.scores)) < len(case.scores) / 4 for case in cases if len(case.scores))
    most = max(np.bincount(case.detected_images * 9 + case.detected_labels).max(initial=0) for case in cases)
    assert most > 100


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_gives_the_metrics_and_tables_of_pycocotools(seed):
    case = CASES.random_case(seed)
    expected = CASES.by_pycocotools(*CASES.coco_rows(case))
    size = len(case.image_ids), len(case.category_ids)
    metrics, found = reference_tables(*columns(case), *size)
    assert list(metrics.values()) == expected.stats.tolist()
    assert (found.precision == expected.eval["precision"][..., -1].transpose(3, 2, 0, 1)).all()
    assert (found.recall == expected.eval["recall"][..., -1].transpose(2, 1, 0)).all()
    assert (found.recall_capped[10] == expected.eval["recall"][..., 1].transpose(2, 1, 0)).all()
    evaluator = evaluated(case, seed)
    line = comparison_line(evaluator)
    assert line.startswith(f"pycocotools gives AP {metrics['AP']:.6f}; the largest difference is ")


def test_a_subset_of_the_images_is_evaluated_alone():
    case = CASES.random_case(8)
    truth, results = CASES.coco_rows(case)
    kept = case.image_ids[::2]
    table = CASES.table_of(case).subset(np.arange(0, len(case.image_ids), 2))
    evaluator = CocoEvaluator(table)
    for row, image in enumerate(range(0, len(case.image_ids), 2)):
        own = np.flatnonzero(case.detected_images == image)
        boxes, scores = CASES.corners(case.detected_boxes[own]), case.scores[own]
        labels = torch.from_numpy(case.detected_labels[own])
        evaluator.add(row, Detections(torch.from_numpy(boxes).float(), torch.from_numpy(scores).float(), labels))
    truth["images"] = [row for row in truth["images"] if row["id"] in kept]
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in kept]
    expected = CASES.by_pycocotools(truth, [row for row in results if row["image_id"] in kept])
    assert list(evaluator.metrics().values()) == pytest.approx(expected.stats.tolist(), abs=TOLERANCE)
    assert evaluator.metrics()["AP"] > 0


def pair(box, other, crowd=False):
    """IoU of two boxes xyxy."""
    boxes, others = (np.array([one], np.float64) for one in (box, other))
    sides, other_sides = boxes[:, 2:] - boxes[:, :2], others[:, 2:] - others[:, :2]
    return overlaps_of(boxes, sides.prod(1), others, other_sides.prod(1), np.array([crowd]))[0]


def test_the_overlap_of_a_crowd_is_the_fraction_of_the_detection_inside_of_it():
    assert pair((0, 0, 10, 10), (5, 0, 15, 10)) == 50 / 150
    assert pair((0, 0, 10, 10), (5, 0, 105, 100), crowd=True) == 0.5
    assert pair((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert pair((0, 0, 0, 0), (0, 0, 0, 0)) == 0


def test_an_iou_of_exactly_the_threshold_matches():
    objects = Objects(
        *(np.zeros(1, np.int64),) * 2, np.array([[0.0, 0, 10, 10]]), *(np.array([100.0]),) * 2, np.zeros(1, bool)
    )
    predictions = Predictions(*(np.zeros(1, np.int64),) * 2, np.array([[0.0, 0, 10, 5]]), np.array([50.0]), np.ones(1))
    found = match(objects, predictions, 1, 1)
    assert found.objects[:, 0].tolist() == [0] + [-1] * (len(IOU_THRESHOLDS) - 1)


def test_places_and_objects_of_matches_are_those_of_the_columns():
    objects, predictions = columns(CASES.random_case(8))
    found = match(objects, predictions, 9, 9)
    assert (predictions.scores[found.rows] == found.scores).all()
    assert (predictions.labels[found.rows] == found.labels).all()
    threshold, place = np.nonzero(found.objects >= 0)
    assert len(place)
    rows, matched = found.rows[place], found.objects[threshold, place]
    assert (predictions.images[rows] == objects.images[matched]).all()
    assert (predictions.labels[rows] == objects.labels[matched]).all()
    overlaps = overlaps_of(
        predictions.boxes[rows],
        predictions.box_areas[rows],
        objects.boxes[matched],
        objects.box_areas[matched],
        objects.crowd[matched],
    )
    assert (overlaps >= np.array(IOU_THRESHOLDS)[threshold]).all()
    for label in range(9):
        own = slice(found.first[label], found.first[label + 1])
        assert (found.labels[own] == label).all()
        assert (np.diff(found.scores[own]) <= 0).all()


def test_many_pairs_at_a_time_and_few_give_the_same_matches(monkeypatch):
    objects, predictions = columns(CASES.random_case(8))
    whole = match(objects, predictions, 9, 9)
    monkeypatch.setattr("effdet.evaluation.matching._PAIRS_AT_ONCE", 7)
    chunks = match(objects, predictions, 9, 9)
    assert (whole.objects == chunks.objects).all()
    assert (whole.correct == chunks.correct).all()
