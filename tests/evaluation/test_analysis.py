import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.evaluation.analysis import FALLBACK_THRESHOLD, detection_analysis
from effdet.evaluation.coco import CocoEvaluator
from effdet.structures import Detections
from effdet.types import PostprocessOptions

SMALL = runpy.run_path(str(Path(__file__).with_name("small_data.py")))
IMAGES, CLASSES, BOX = SMALL["IMAGES"], SMALL["CLASSES"], SMALL["BOX"]
objects_of, predictions_of, random_data = (SMALL[name] for name in ("objects_of", "predictions_of", "random_data"))


def table_of(objects, size=(100, 120), folder=Path("."), images=IMAGES):
    order = np.argsort(objects.images, kind="stable")
    return Annotations(
        source=Path("random.json"),
        image_folder=folder,
        file_names=np.array([f"{image}.png" for image in range(images)]),
        image_ids=np.arange(images),
        sizes=np.tile(np.array(size, np.int32), (images, 1)),
        offsets=np.searchsorted(objects.images[order], np.arange(images + 1)),
        boxes=objects.boxes[order].astype(np.float32),
        labels=objects.labels[order],
        crowd=objects.crowd[order],
        areas=objects.areas[order],
        difficult=np.zeros(len(order), bool),
        label_map=LabelMap(tuple("abcd"), (1, 2, 3, 9)),
    )


def evaluator_of(table, predictions, options=None):
    evaluator = CocoEvaluator(table, options)
    for image in range(len(table)):
        rows = predictions.images == image
        boxes, scores = (
            torch.from_numpy(column[rows].astype(np.float32)) for column in (predictions.boxes, predictions.scores)
        )
        evaluator.add(image, Detections(boxes, scores, torch.from_numpy(predictions.labels[rows])))
    return evaluator


def analysis_of(evaluator, **given):
    metrics = evaluator.metrics()
    analysis = detection_analysis(evaluator, metrics, **given)
    assert json.loads(json.dumps(analysis, allow_nan=False)) == analysis
    assert analysis["metrics"] == metrics
    return analysis


SECTIONS = (
    *("task", "weights", "images", "objects", "crowds", "detections", "settings", "metrics", "intervals", "classes"),
    *("thresholds", "curves", "confusion", "errors", "calibration", "worst"),
)


@pytest.mark.parametrize("seed", range(4))
def test_the_sections_agree_with_each_other(seed):
    objects, predictions = random_data(seed)
    evaluator = evaluator_of(table_of(objects), predictions, PostprocessOptions(nms="soft"))
    analysis = analysis_of(evaluator, weights="best.pt")
    assert tuple(analysis) == SECTIONS
    assert (analysis["task"], analysis["weights"], analysis["images"]) == ("detection", "best.pt", IMAGES)
    assert analysis["objects"] + analysis["crowds"] == len(objects.labels)
    assert analysis["detections"] == len(predictions.labels)
    assert analysis["settings"] == {
        "score_threshold": 0.001,
        "nms": "soft",
        "iou_threshold": 0.5,
        "max_detections": 100,
        "coco_cap": 100,
    }
    assert analysis["errors"]["AP50"] == pytest.approx(analysis["metrics"]["AP50"], abs=1e-12)
    assert sum(row["objects"] for row in analysis["classes"]) == analysis["objects"]
    best, entries = analysis["thresholds"]["best"], np.array(analysis["confusion"]["entries"])
    correct = entries[entries[:, 0] == entries[:, 1], 2].sum()
    assert correct / entries[entries[:, 1] < CLASSES, 2].sum() == pytest.approx(best["precision"], abs=1e-5)
    assert correct / entries[entries[:, 0] < CLASSES, 2].sum() == pytest.approx(best["recall"], abs=1e-5)
    counts = analysis["errors"]["counts"]
    assert counts["false_positive"] == entries[entries[:, 1] < CLASSES, 2].sum() - correct
    assert counts["false_negative"] == analysis["objects"] - correct
    assert analysis["errors"]["score_threshold"] == analysis["confusion"]["score_threshold"] == best["score"]
    for kind in ("classification", "missed"):
        assert sum(image["counts"][kind] for image in analysis["worst"]) == counts[kind]


def test_a_class_without_objects_and_detections_has_no_numbers():
    objects = objects_of([(image, image % 2, BOX, False) for image in range(IMAGES)])
    predictions = predictions_of([(image, image % 2, BOX, 0.5 + image / 100) for image in range(IMAGES)])
    analysis = analysis_of(evaluator_of(table_of(objects), predictions))
    first, *_, last = analysis["classes"]
    assert (first["name"], first["category_id"], first["images"], first["objects"]) == ("a", 1, 6, 6)
    assert first["AP"] == first["AR100"] == 1.0
    assert first["APl"] is None
    assert first["interval"] is None  # in fewer than ten images
    assert (last["category_id"], last["images"], last["objects"]) == (9, 0, 0)
    assert {last[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100", "interval", "F1")} == {None}
    assert analysis["worst"] == []
    assert analysis["settings"] == {**dict.fromkeys(analysis["settings"]), "coco_cap": 100}


def test_without_a_correct_detection_the_errors_are_those_from_a_fixed_threshold_on():
    objects = objects_of([(0, 0, BOX, False)])
    predictions = predictions_of([(1, 0, BOX, 0.4), (2, 0, BOX, 0.2)])
    analysis = analysis_of(evaluator_of(table_of(objects), predictions))
    assert analysis["thresholds"]["best"]["score"] is None
    assert analysis["confusion"]["score_threshold"] == FALLBACK_THRESHOLD
    assert analysis["confusion"]["entries"] == [[0, 4, 1], [4, 0, 1]]
    assert analysis["errors"]["counts"]["background"] == 1
    assert [image["index"] for image in analysis["worst"]] == [0, 1]


@pytest.mark.parametrize("images", [1, IMAGES])
def test_without_detections_or_objects_there_is_an_analysis_too(images):
    rows = [(0, 0, BOX, False)]
    for objects, detections in ((rows, []), ([], [(0, 0, BOX, 0.9)]), ([], []), ([(0, 0, BOX, True)], [])):
        table = table_of(objects_of(objects), images=images)
        analysis = analysis_of(evaluator_of(table, predictions_of(detections)))
        assert (analysis["errors"] is None) == (objects != rows)
        assert len(analysis["worst"]) == (objects == rows or bool(detections))


def test_a_size_that_the_annotations_do_not_say_is_that_of_the_image(tmp_path):
    cv2.imwrite(str(tmp_path / "0.png"), np.zeros((70, 80, 3), np.uint8))
    table = table_of(objects_of([(0, 0, BOX, False), (1, 0, BOX, False)]), size=(0, 0), folder=tmp_path)
    worst = analysis_of(evaluator_of(table, predictions_of([(1, 1, (0, 0, 70.5, 60), 0.9)])))["worst"]
    assert {image["index"]: image["size"] for image in worst} == {0: [70, 80], 1: [60, 71]}
