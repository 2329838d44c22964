"""Small data sets of objects and detections for the tests of the evaluation."""

import numpy as np

from effdet.evaluation.matching import Objects, Predictions

IMAGES, CLASSES = 12, 4
BOX = (10, 10, 50, 50)


def area(boxes):
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def objects_of(rows):
    """Rows of image, label, box and whether it is a crowd."""
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    images, labels, crowd = ([row[place] for row in rows] for place in (0, 1, 3))
    return Objects(
        np.array(images, np.int64), np.array(labels, np.int64), boxes, area(boxes), area(boxes), np.array(crowd, bool)
    )


def predictions_of(rows):
    """Rows of image, label, box and score."""
    boxes = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    images, labels, scores = ([row[place] for row in rows] for place in (0, 1, 3))
    return Predictions(
        np.array(images, np.int64), np.array(labels, np.int64), boxes, area(boxes), np.array(scores, np.float64)
    )


def random_data(seed, with_crowds=True):
    """Objects and detections of integer boxes, many of them near an object, with equal scores and equal IoUs."""
    rng = np.random.default_rng(seed)

    def box():
        corner, side = rng.integers(0, 60, 2), rng.integers(8, 40, 2)
        return np.concatenate([corner, corner + side])

    objects = [
        (image, int(rng.integers(CLASSES)), box(), bool(with_crowds and rng.random() < 0.15))
        for image in rng.integers(0, IMAGES, int(rng.integers(1, 40)))
    ]
    detections = []
    for image in rng.integers(0, IMAGES, int(rng.integers(0, 120))):
        label, place = int(rng.integers(CLASSES)), box()
        near = [each for each in objects if each[0] == image]
        if near and rng.random() < 0.8:
            _, true, place, _ = near[int(rng.integers(len(near)))]
            label = true if rng.random() < 0.7 else label
            place = place + np.tile(rng.integers(-9, 10, 2), 2)
        detections.append((image, label, place, float(rng.integers(1, 15)) / 16))
    return objects_of(objects), predictions_of(detections)


def slow_iou(box, other, is_crowd=False):
    width, height = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    common = width * height if width > 0 and height > 0 else 0.0
    own, others = ((each[2] - each[0]) * (each[3] - each[1]) for each in (box, other))
    return common / (own if is_crowd else own + others - common)
