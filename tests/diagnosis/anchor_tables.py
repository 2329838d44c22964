"""Tables of made-up objects for the tests of anchors."""

from pathlib import Path

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap


def make_table(boxes, labels, image, sizes, names=("a", "b", "c"), crowd=()):
    """A split with the given boxes [N, 4] of images of the given sizes (H, W); `crowd` names rows of the boxes."""
    boxes, labels = np.asarray(boxes, np.float32).reshape(-1, 4), np.asarray(labels, np.int64)
    count = len(sizes)
    per_image = np.bincount(np.asarray(image, np.int64), minlength=count)
    return Annotations(
        source=Path("train.json"),
        image_folder=Path(),
        file_names=np.array([f"{index}.png" for index in range(count)]),
        image_ids=np.arange(count),
        sizes=np.array(sizes, np.int32),
        offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64),
        boxes=boxes,
        labels=labels,
        crowd=np.isin(np.arange(len(boxes)), crowd),
        areas=(boxes[:, 2:] - boxes[:, :2]).prod(1).astype(np.float64),
        difficult=np.zeros(len(boxes), bool),
        label_map=LabelMap(tuple(names), tuple(range(len(names)))),
    )


def draw_table(sides, labels, size=(480, 640), images=20, seed=0, names=("a", "b", "c")):
    """Objects of the given (width, height) [N, 2] at random places, spread evenly over images of one size (H, W)."""
    rng = np.random.default_rng(seed)
    sides = np.asarray(sides, np.float64)
    corner = rng.uniform(0, 1, sides.shape) * ([size[1], size[0]] - sides)
    image = np.sort(np.arange(len(sides)) % images)
    order = rng.permutation(len(sides))
    return make_table(
        np.concatenate([corner, corner + sides], 1)[order], np.asarray(labels)[order], image, [size] * images, names
    )
