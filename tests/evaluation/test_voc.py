import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from effdet.evaluation.matching import Objects, Predictions
from effdet.evaluation.voc import METRIC_NAMES, voc_class_metrics, voc_metrics

CASES = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("cases.py"))))


def columns(case):
    objects = Objects(
        case.images,
        case.labels,
        CASES.corners(case.boxes),
        case.boxes[:, 2] * case.boxes[:, 3],
        case.areas,
        case.crowd,
    )
    boxes = case.detected_boxes
    detected = Predictions(
        case.detected_images, case.detected_labels, CASES.corners(boxes), boxes[:, 2] * boxes[:, 3], case.scores
    )
    return objects, detected


def slow_overlap(box, other):
    """IoU of boxes whose last pixels belong to them."""
    width = min(box[2], other[2]) - max(box[0], other[0]) + 1
    height = min(box[3], other[3]) - max(box[1], other[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(one[2] - one[0] + 1) * (one[3] - one[1] + 1) for one in (box, other)]
    return width * height / (areas[0] + areas[1] - width * height)


def slow_curve(objects, detected, ignored, label):
    """Precision and recall after each detection of a class; None without objects."""
    total = sum(not ignored[row] for row in np.flatnonzero(objects.labels == label))
    if not total:
        return None
    given, correct, wrong, curve = set(), 0, 0, []
    for one in sorted(np.flatnonzero(detected.labels == label), key=lambda one: -detected.scores[one]):
        same = np.flatnonzero((objects.labels == label) & (objects.images == detected.images[one]))
        overlaps = [slow_overlap(detected.boxes[one], objects.boxes[row]) for row in same]
        best = int(np.argmax(overlaps)) if overlaps else 0
        if not overlaps or overlaps[best] < 0.5:
            wrong += 1
        elif not ignored[same[best]]:
            if same[best] in given:
                wrong += 1
            else:
                given.add(same[best])
                correct += 1
        curve.append((correct / (correct + wrong) if correct + wrong else 0.0, correct / total))
    return curve


def slow_ap(curve):
    """AP at eleven levels of recall, and the area below the curve."""
    eleven = [max((p for p, r in curve if r >= level), default=0.0) for level in np.linspace(0, 1, 11)]
    area, before = 0.0, 0.0
    for number, (_, recall) in enumerate(curve):
        area += (recall - before) * max(p for p, _ in curve[number:])
        before = recall
    return np.mean(eleven), area


@pytest.mark.parametrize("seed", range(60))
def test_metrics_are_those_of_a_loop_by_the_rules(seed):
    case = CASES.random_case(1000 + seed)
    objects, detected = columns(case)
    classes = len(case.category_ids)
    per_class = voc_class_metrics(objects, detected, case.difficult, len(case.image_ids), classes)
    curves = [slow_curve(objects, detected, case.difficult | case.crowd, label) for label in range(classes)]
    expected = np.array([(-1, -1) if curve is None else slow_ap(curve) for curve in curves]).reshape(classes, 2)
    for name, values in zip(METRIC_NAMES, expected.T, strict=True):
        assert per_class[name] == pytest.approx(values, abs=1e-12)
    metrics = voc_metrics(objects, detected, case.difficult, len(case.image_ids), classes)
    measured = expected[expected[:, 0] >= 0]
    assert tuple(metrics.values()) == pytest.approx(measured.mean(0) if len(measured) else (-1, -1), abs=1e-12)


def one_image(boxes, detected, difficult=None, scores=None):
    """Both metrics of an image with objects and detections of one class, boxes xyxy."""
    boxes, detected = np.array(boxes, np.float64), np.array(detected, np.float64)
    rows, found = np.zeros(len(boxes), np.int64), np.zeros(len(detected), np.int64)
    objects = Objects(rows, rows, boxes, np.zeros(len(boxes)), np.zeros(len(boxes)), np.zeros(len(boxes), bool))
    scores = np.linspace(0.9, 0.1, len(detected)) if scores is None else np.array(scores)
    predictions = Predictions(found, found, detected, np.zeros(len(detected)), scores)
    marks = np.zeros(len(boxes), bool) if difficult is None else np.array(difficult)
    return tuple(voc_metrics(objects, predictions, marks, 1, 1).values())


BOX, OTHER, FAR = (10, 10, 49, 49), (12, 10, 51, 49), (200, 200, 240, 240)


def test_a_second_detection_of_the_nearest_object_is_wrong_though_another_object_is_free():
    # Both detections overlap BOX most; by COCO's rules the second one would get OTHER.
    assert one_image([BOX, OTHER], [BOX, BOX, FAR]) == pytest.approx((6 / 11, 0.5))


def test_a_difficult_object_is_neither_missed_nor_detected():
    assert one_image([BOX, FAR], [FAR, BOX], [False, True]) == (1, 1)
    assert one_image([BOX, FAR], [FAR, FAR, BOX], [False, True]) == (1, 1)
    assert one_image([BOX, FAR], [BOX], [False, True]) == (1, 1)
    assert one_image([BOX, FAR], [BOX], [False, False]) == pytest.approx((6 / 11, 0.5))
    assert one_image([BOX], [BOX], [True]) == (-1, -1)


def test_the_last_pixel_of_a_box_belongs_to_it():
    # Widths 10 and 5, so that the IoU is exactly 0.5; without the last pixels it would be 4 / 9.
    assert one_image([(1, 1, 10, 10)], [(1, 1, 5, 10)]) == (1, 1)
    assert one_image([(1, 1, 10, 10)], [(1, 1, 4.9, 10)]) == (0, 0)


def test_without_detections_the_metrics_are_zero():
    assert one_image([BOX], np.empty((0, 4))) == (0, 0)
    assert one_image(np.empty((0, 4)), [BOX]) == (-1, -1)


def test_more_than_100_detections_of_an_image_count():
    assert one_image([BOX], [*[FAR] * 300, BOX])[1] == pytest.approx(1 / 301)
