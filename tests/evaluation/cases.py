"""Random small data sets with detections, and what pycocotools says of them."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap


class Case(NamedTuple):
    """Objects and detections; boxes are x, y, width, height. Detections of an image stand in any order."""

    image_ids: np.ndarray  # [I], in the order of the file
    category_ids: np.ndarray  # [K], ascending
    images: np.ndarray  # [N] rows
    labels: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray
    detected_images: np.ndarray  # [D] rows
    detected_labels: np.ndarray
    detected_boxes: np.ndarray
    scores: np.ndarray


def random_case(seed, exact=True):
    """Crowds, equal scores, equal IoUs, images and classes with nothing, hundreds of detections, ids with gaps.

    With `exact` all numbers are multiples of 1/64, which float32 holds.
    """
    rng = np.random.default_rng(seed)
    images, classes = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    grid = float(rng.choice([1 / 64, 1, 5, 20])) if exact else 0

    def rounded(boxes):
        boxes = np.round(boxes / grid) * grid if grid else boxes
        boxes[:, 2:] = np.maximum(boxes[:, 2:], grid or 0.5)
        return boxes

    def random_boxes(count):
        return rounded(np.concatenate([rng.uniform(0, 300, (count, 2)), rng.uniform(1, 160, (count, 2))], axis=1))

    objects = int(rng.integers(0, 60)) if rng.random() < 0.9 else 0
    where, labels = rng.integers(0, images, objects), rng.integers(0, classes, objects)
    boxes, crowd = random_boxes(objects), rng.random(objects) < rng.choice([0, 0.2, 0.6])
    of_masks = rng.random(objects) < 0.5
    areas = np.where(of_masks, rng.uniform(1, 15000, objects), boxes[:, 2] * boxes[:, 3])
    count = int(rng.choice([0, rng.integers(1, 300), rng.integers(1, 300), 700]))
    at, detected = rng.integers(0, images, count), rng.integers(0, classes, count)
    found = random_boxes(count)
    if objects and count:
        near, source = rng.random(count) < 0.6, rng.integers(0, objects, count)
        shift = rng.normal(0, rng.choice([0.02, 0.1, 0.3]), (count, 4)) * boxes[source][:, [2, 3, 2, 3]]
        found[near] = rounded(boxes[source] + shift)[near]
        at[near] = where[source][near]
        detected[near] = np.where(rng.random(count) < 0.8, labels[source], detected)[near]
    scores = np.round(rng.random(count) * rng.choice([4, 16, 4096])) / 4096
    return Case(
        *(rng.permutation(900)[:images], np.sort(rng.permutation(90)[:classes])),
        *(where, labels, boxes, areas, crowd, rng.random(objects) < 0.3),
        *(at, detected, found, scores),
    )


def coco_rows(case):
    """The content of an annotation file and of a results file."""
    truth = {
        "images": [{"id": int(own), "file_name": f"{own}.jpg"} for own in case.image_ids],
        "categories": [{"id": int(own), "name": f"class {own}"} for own in case.category_ids],
        "annotations": [
            {
                "id": number + 1,
                "image_id": int(case.image_ids[case.images[number]]),
                "category_id": int(case.category_ids[case.labels[number]]),
                "bbox": case.boxes[number].tolist(),
                "area": float(case.areas[number]),
                "iscrowd": int(case.crowd[number]),
            }
            for number in range(len(case.images))
        ],
    }
    results = [
        {
            "image_id": int(case.image_ids[case.detected_images[number]]),
            "category_id": int(case.category_ids[case.detected_labels[number]]),
            "bbox": case.detected_boxes[number].tolist(),
            "score": float(case.scores[number]),
        }
        for number in range(len(case.scores))
    ]
    return truth, results


def by_pycocotools(truth, results):
    """The evaluation of pycocotools, with `stats` and `eval`."""
    with contextlib.redirect_stdout(io.StringIO()):
        annotations = COCO()
        annotations.dataset = truth
        annotations.createIndex()
        if results:
            found = annotations.loadRes([dict(row) for row in results])
        else:
            found = COCO()
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(annotations, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def corners(boxes):
    """Boxes x, y, width, height as xyxy, float64."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1).reshape(-1, 4).astype(np.float64)


def table_of(case):
    """The data set of a case, its images in the order of the file."""
    order = np.argsort(case.images, kind="stable")
    return Annotations(
        source=Path("random.json"),
        image_folder=Path("."),
        file_names=np.array([f"{own}.jpg" for own in case.image_ids]),
        image_ids=case.image_ids,
        sizes=np.full((len(case.image_ids), 2), 512, np.int32),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(case.images, minlength=len(case.image_ids)))]),
        boxes=corners(case.boxes[order]).astype(np.float32),
        labels=case.labels[order],
        crowd=case.crowd[order],
        areas=case.areas[order],
        difficult=np.zeros(len(order), bool),
        label_map=LabelMap(tuple(f"class {own}" for own in case.category_ids), tuple(case.category_ids.tolist())),
        format="coco",
    )
