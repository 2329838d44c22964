"""Drawn labels and detections for the tests of the review: objects on a grid, found by an imperfect detector."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.diagnosis.review.rows import Row
from effdet.evaluation.matching import Predictions

SIZE = 400  # pixels along a side of an image
NAMES = ("cat", "dog", "owl")


def scenes(num_images=60, per_image=8, seed=0, names=NAMES, sizes=True):
    """A table of images of `SIZE` with boxes in different cells of a grid of 5 x 5."""
    rng = np.random.default_rng(seed)
    cells = np.concatenate([rng.choice(25, per_image, replace=False) for _ in range(num_images)])
    count = len(cells)
    corners = np.stack([cells % 5, cells // 5], 1) * 80 + rng.uniform(4, 16, (count, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(40, 58, (count, 2))], 1)
    return Annotations(
        source=Path("scenes"),
        image_folder=Path("scenes"),
        file_names=np.array([f"{number}.jpg" for number in range(num_images)]),
        image_ids=np.arange(num_images) + 10,
        sizes=np.full((num_images, 2), SIZE if sizes else 0, np.int32),
        offsets=np.arange(num_images + 1) * per_image,
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, len(names), count),
        label_map=LabelMap(names, tuple(range(5, 5 + len(names)))),
        crowd=np.zeros(count, bool),
        difficult=np.zeros(count, bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1),
    )


def detections(table, seed=1, found=0.97, false=3):
    """Detections of the objects of a table, and of nothing with low scores; some classes are confused."""
    rng = np.random.default_rng(seed)
    images, labels = table.image_of_label(), table.labels
    seen = rng.random(len(labels)) < found
    boxes = table.boxes[seen].astype(np.float64) + rng.normal(0, 1.5, (seen.sum(), 4))
    scores = rng.beta(8, 3, seen.sum())
    confused = (labels[seen] + 1) % len(table.label_map)
    corners = rng.uniform(0, SIZE - 60, (false * len(table), 2))
    columns = (
        np.concatenate([images[seen], images[seen], np.repeat(np.arange(len(table)), false)]),
        np.concatenate([labels[seen], confused, rng.integers(0, len(table.label_map), false * len(table))]),
        np.concatenate([boxes, boxes + 1, np.concatenate([corners, corners + 50], 1)]),
        np.concatenate([scores, scores * rng.uniform(0.05, 0.3, seen.sum()), rng.beta(2, 9, false * len(table))]),
    )
    return as_predictions(*columns)


def as_predictions(images, labels, boxes, scores):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return Predictions(
        np.asarray(images, np.int64), np.asarray(labels, np.int64), boxes, areas, np.asarray(scores, float)
    )


def spoiled(table, missed=20, misnamed=20, spurious=10, seed=2):
    """The table with errors, and what they are: {kind: {(image, box as a rounded tuple)}}."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(table.labels))
    gone, wrong = chosen[:missed], chosen[missed : missed + misnamed]
    images = table.image_of_label()
    done = {
        "missed": {(int(images[row]), *key(table.boxes[row])) for row in gone},
        "misnamed": {(int(images[row]), *key(table.boxes[row])) for row in wrong},
        "spurious": set(),
    }
    labels = table.labels.copy()
    labels[wrong] = (labels[wrong] + rng.integers(1, len(table.label_map), len(wrong))) % len(table.label_map)
    kept = np.ones(len(labels), bool)
    kept[gone] = False
    new = []
    while len(new) < spurious:
        image, corner = int(rng.integers(len(table))), rng.uniform(0, SIZE - 50, 2)
        box = np.concatenate([corner, corner + 50]).astype(np.float32)
        if all(overlap(box, other) < 0.2 for other in table.boxes[images == image]):
            new.append((image, box, int(rng.integers(len(table.label_map)))))
            done["spurious"].add((image, *key(box)))
    order = np.argsort(np.concatenate([images[kept], [image for image, _, _ in new]]), kind="stable")
    boxes = np.concatenate([table.boxes[kept], *([box[None] for _, box, _ in new])])[order]
    count = len(boxes)
    counts = np.bincount(
        np.concatenate([images[kept], [image for image, _, _ in new]]).astype(int), minlength=len(table)
    )
    return replace(
        table,
        boxes=boxes,
        labels=np.concatenate([labels[kept], [label for _, _, label in new]]).astype(np.int64)[order],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        crowd=np.zeros(count, bool),
        difficult=np.zeros(count, bool),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64),
    ), done


def key(box):
    return tuple(round(float(side)) for side in box)


def overlap(first, second):
    """IoU of two boxes."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def row(kind, table, image, number=None, proposed=None, box=(1, 2, 31, 42), probability=0.9):
    """A row of a review: of box `number` of an image, or of a missed object at `box`."""
    where = table.rows(image)
    if number is not None:
        box = tuple(table.boxes[where][number - 1].tolist())
    given = None if number is None else table.label_map.names[table.labels[where][number - 1]]
    return Row(
        kind=kind,
        probability=probability,
        split="train",
        image=image,
        file_name=table.file_name(image),
        box=box,
        given=given,
        proposed=proposed,
        confidence=0.8,
        number=number,
        reason="because",
    )
