import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from effdet.evaluation.error_types import KINDS, error_types, errors_analysis
from effdet.evaluation.matching import match
from effdet.evaluation.worst import MOST_BOXES, MOST_IMAGES, worst_images

SMALL = runpy.run_path(str(Path(__file__).with_name("small_data.py")))
CLASSES, BOX = SMALL["CLASSES"], SMALL["BOX"]
objects_of, predictions_of, random_data = (SMALL[name] for name in ("objects_of", "predictions_of", "random_data"))
AWAY = (200, 200, 240, 240)


def worst_of(objects, predictions, score_threshold=0.5, images=12):
    matches = match(objects, predictions, images, CLASSES)
    types = error_types(objects, predictions, matches)
    names, sizes = [f"{image}.jpg" for image in range(images)], np.tile([300, 400], (images, 1))
    return worst_images(objects, predictions, matches, types, score_threshold, names, sizes)


@pytest.mark.parametrize("seed", range(10))
def test_counts_of_all_images_are_those_of_the_analysis(seed):
    objects, predictions = random_data(seed)
    matches = match(objects, predictions, 12, CLASSES)
    analysis = errors_analysis(objects, matches, error_types(objects, predictions, matches), 0.5)
    found = worst_of(objects, predictions)
    for kind in (*KINDS, "missed"):
        assert sum(image["counts"][kind] for image in found) == (analysis["counts"][kind] if analysis else 0)
        listed = sum(each["error"] == kind for image in found for each in (*image["objects"], *image["detections"]))
        assert listed == sum(image["counts"][kind] for image in found)
    assert json.loads(json.dumps(found)) == found
    for image in found:
        assert image["left_out"] == 0
        assert len(image["objects"]) == np.count_nonzero(objects.images == image["index"])
        shown = (predictions.images == image["index"]) & (predictions.scores >= 0.5)
        assert len(image["detections"]) == np.count_nonzero(shown)


def test_an_image_shows_its_boxes_with_their_errors():
    objects = objects_of([(3, 0, BOX, False), (3, 1, AWAY, False), (3, 2, (0, 0, 300, 300), True)])
    rows = [(3, 0, BOX, 0.9), (3, 0, BOX, 0.75), (3, 2, BOX, 0.625), (3, 1, AWAY, 0.4)]
    (image,) = worst_of(objects, predictions_of(rows))
    assert image == {
        "file_name": "3.jpg",
        "index": 3,
        "size": [300, 400],
        "counts": {**dict.fromkeys(KINDS, 0), "duplicate": 1, "missed": 1},
        "objects": [
            {"box": [10.0, 10.0, 50.0, 50.0], "label": 0, "error": None, "crowd": False},
            {"box": [200.0, 200.0, 240.0, 240.0], "label": 1, "error": "missed", "crowd": False},
            {"box": [0.0, 0.0, 300.0, 300.0], "label": 2, "error": None, "crowd": True},
        ],
        "detections": [
            {"box": [10.0, 10.0, 50.0, 50.0], "label": 0, "score": 0.9, "error": None},
            {"box": [10.0, 10.0, 50.0, 50.0], "label": 0, "score": 0.75, "error": "duplicate"},
            {"box": [10.0, 10.0, 50.0, 50.0], "label": 2, "score": 0.625, "error": None},
        ],
        "left_out": 0,
    }


def test_the_images_that_cost_most_are_chosen_and_come_first():
    images = 40
    scores = np.random.default_rng(0).permutation(images) / 100 + 0.5
    rows = [(image, 0, BOX, score) for image, score in enumerate(scores.tolist())]
    objects = objects_of([(5, 1, AWAY, False), (6, 1, AWAY, False), (6, 1, BOX, False)])
    found = [image["index"] for image in worst_of(objects, predictions_of(rows), images=images)]
    best = np.argsort(-scores).tolist()
    of_background = [image for image in best if image != 6][:MOST_IMAGES]  # that of image 6 has a wrong class
    assert set(found) == {*of_background, 5, 6}
    assert found[:2] == [6, 5]
    assert [image for image in found if image not in (5, 6)] == [image for image in of_background if image != 5]


def test_of_many_boxes_the_errors_and_what_explains_them_are_listed_first():
    places = [(10 * place, 0, 10 * place + 8, 8) for place in range(80)]
    objects = objects_of([(0, 0, place, False) for place in places])
    rows = [(0, 0, place, 0.9) for place in places[:-1]] + [(0, 1, places[40], 0.8), (0, 1, AWAY, 0.7)]
    (image,) = worst_of(objects, predictions_of(rows))
    assert len(image["objects"]) + len(image["detections"]) == MOST_BOXES
    assert image["left_out"] == 80 + 81 - MOST_BOXES
    assert [each["error"] for each in image["detections"] if each["error"]] == ["classification", "background"]
    assert [each["box"][0] for each in image["objects"] if each["error"]] == [790.0]
    assert places[40][0] in [each["box"][0] for each in image["objects"]]


def test_images_without_errors_are_not_listed():
    objects = objects_of([(0, 0, BOX, False)])
    assert worst_of(objects, predictions_of([(0, 0, BOX, 0.9), (1, 0, BOX, 0.4)])) == []
    assert worst_of(objects_of([]), predictions_of([])) == []
