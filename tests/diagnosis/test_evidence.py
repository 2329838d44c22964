from dataclasses import replace

import numpy as np
import pytest

from effdet.diagnosis.review.evidence import missed_evidence
from effdet.diagnosis.review.views import support_of, view
from effdet.evaluation.coco import CocoEvaluator

from .labelled_scenes import SIZE, detections, overlap, scenes

SIZES = np.full((60, 2), float(SIZE))


def evidence(table, predictions):
    """Evidence of missed labels, with the image and the box of each candidate."""
    objects = CocoEvaluator(table).truth()
    views = view(objects, predictions, len(table), len(table.label_map))
    found = missed_evidence(objects, views, support_of(objects, views), SIZES[: len(table)])
    return found, views.images[found.rows], views.boxes[found.rows]


def value_at(table, predictions, image, box):
    """The evidence of the strongest candidate at the place of a box."""
    found, images, boxes = evidence(table, predictions)
    here = [i for i in np.flatnonzero(images == image) if overlap(boxes[i], box) > 0.5]
    return max(found.values[here])


@pytest.fixture(scope="module")
def incomplete():
    """Scenes where 20 images have half of their labels and the others all but 20, and detections of one confidence."""
    table = scenes(seed=5)
    rng = np.random.default_rng(6)
    images = table.image_of_label()
    unlabelled = np.flatnonzero((images < 20) & (rng.random(len(images)) < 0.5))
    removed = rng.choice(np.flatnonzero(images >= 20), 20, replace=False)
    kept = np.ones(len(images), bool)
    kept[unlabelled] = kept[removed] = False
    predictions = detections(table, seed=7)
    alike = predictions._replace(scores=np.where(predictions.scores > 0.4, 0.7, predictions.scores))
    return table.select(kept), alike, removed, unlabelled


def test_a_missed_label_of_a_complete_image_comes_before_those_of_incomplete_images(incomplete):
    wrong, predictions, removed, unlabelled = incomplete
    found, images, _ = evidence(wrong, predictions)
    first = np.argsort(-found.values)[: len(removed)]
    assert len(unlabelled) > 3 * len(removed)
    assert (images[first] >= 20).mean() >= 0.8


def test_in_complete_labels_the_rest_of_the_image_hardly_matters():
    table = scenes(seed=8)
    predictions = detections(table, seed=9)
    removed = np.random.default_rng(0).choice(len(table.labels), 20, replace=False)
    wrong = table.select(~np.isin(np.arange(len(table.labels)), removed))
    found, images, boxes = evidence(wrong, predictions)
    first = np.argsort(-found.values)[:20]
    places = [(table.image_of_label()[row], table.boxes[row]) for row in removed]
    right = [any(image == images[i] and overlap(boxes[i], box) > 0.5 for image, box in places) for i in first]
    assert np.mean(right) >= 0.85


def test_a_simulated_removal_looks_as_the_removal_itself(incomplete):
    wrong, predictions, _, _ = incomplete
    found = evidence(wrong, predictions)[0]
    objects = CocoEvaluator(wrong).truth()
    support = support_of(objects, view(objects, predictions, len(wrong), len(wrong.label_map)))
    detected = np.flatnonzero(support.place >= 0)
    for number in (3, 100, 300):
        row = detected[number]
        image, box = wrong.image_of_label()[row], wrong.boxes[row]
        without = wrong.select(np.arange(len(wrong.labels)) != row)
        assert value_at(without, predictions, image, box) == pytest.approx(found.simulated[number], abs=0.1)


def test_where_cut_objects_are_not_labelled_they_come_last():
    table = scenes(seed=10)
    boxes = table.boxes.copy()
    cut = boxes[:, 0] < 20  # the first column of the grid is moved to the border
    boxes[cut, 0] = 0
    table = replace(table, boxes=boxes)
    removed = np.random.default_rng(1).choice(np.flatnonzero(~cut), 20, replace=False)
    wrong = table.select(~cut & ~np.isin(np.arange(len(cut)), removed))
    predictions = detections(table, seed=11)
    predictions.boxes[:, :2] = np.maximum(predictions.boxes[:, :2], 0)
    found, _, places = evidence(wrong, predictions)
    first = np.argsort(-found.values)[:20]
    assert (places[first, 0] > 20).mean() >= 0.85
    assert cut.sum() > 3 * len(removed)


def test_without_detections_there_is_no_evidence():
    table = scenes(num_images=3)
    predictions = detections(table)
    nothing = type(predictions)(*(column[:0] for column in predictions))
    found = evidence(table, nothing)[0]
    assert len(found.rows) == len(found.values) == 0
    assert np.isneginf(found.simulated).all()
