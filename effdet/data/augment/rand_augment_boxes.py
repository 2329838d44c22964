"""RandAugment for images with boxes: changes of colour, and of place, which the boxes follow.

Pixels are changed by the operations of `data/rand_augment.py`; what is drawn, and how strong it is, differs from there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from effdet.data.augment import rand_augment as pixels
from effdet.data.augment.placement import Boxes, Scene, visible_boxes
from effdet.data.images import Image

LARGEST_SHIFT = 250 / 640  # of the side; the reference's 250 pixels in a COCO image
LARGEST_HOLE = 200 / 640  # side of the cutout, of the image's longer side; the reference's 100 pixels either way
AffineMap = NDArray[np.float64]  # [2, 3], of points (x, y, 1) in continuous pixels


def rand_augment_boxes(scene: Scene, layers: int, magnitude: float, rng: np.random.Generator) -> Scene:
    """Image and boxes changed by `layers` operations in a row, each drawn from all with the same probability.

    Boxes are cut to the image, and those thinner than a pixel then go.

    Args:
        scene: the image with its objects.
        layers: how many changes.
        magnitude: their strength: 0..10, and beyond that as far as an operation can go.
        rng: source of the randomness.

    Source: EfficientDet reference, whose operations for detection these are.
    """
    strength = magnitude / pixels.FULL_MAGNITUDE
    for choice in rng.integers(len(OPERATIONS), size=layers):
        scene = OPERATIONS[choice](scene, strength, rng)
    return scene


def rotate(scene: Scene, angle: float) -> Scene:
    """Image turned about its centre by `angle` degrees, counter-clockwise; boxes around their turned corners."""
    height, width = scene.image.shape[:2]
    cosine, sine = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turn = np.array([[cosine, sine], [-sine, cosine]])  # counter-clockwise where y points down
    centre = np.array([width / 2, height / 2])
    return _moved(scene, pixels.rotate(scene.image, angle), np.column_stack([turn, centre - turn @ centre]))


def shear(scene: Scene, horizontal: float, vertical: float) -> Scene:
    """Image slanted about its top left corner, see `rand_augment.shear`; boxes around their slanted corners."""
    slant = np.linalg.inv([[1, horizontal], [vertical, 1]])
    corner = np.full(2, 0.5)  # the middle of the first pixel stays
    image = pixels.shear(scene.image, horizontal, vertical)
    return _moved(scene, image, np.column_stack([slant, corner - slant @ corner]))


def translate(scene: Scene, horizontal: float, vertical: float) -> Scene:
    """Image and boxes moved right and down by shares of its width and height, in whole pixels."""
    height, width = scene.image.shape[:2]
    right, down = round(horizontal * width), round(vertical * height)
    image = pixels.translate(scene.image, right / width, down / height)
    return _moved(scene, image, np.array([[1.0, 0, right], [0, 1, down]]))


def cutout(image: Image, top: int, left: int, side: int) -> Image:
    """Image with a grey square, as much of it as lies inside."""
    result = np.copy(image)
    result[max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = pixels.GREY
    return result


def map_boxes(boxes: Boxes, matrix: AffineMap) -> Boxes:
    """The upright boxes [N, 4] around the corners of boxes [N, 4] under an affine map [2, 3]."""
    corners = boxes[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] @ matrix[:, :2].T + matrix[:, 2]  # [N, 4, 2]
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)


def _moved(scene: Scene, image: Image, matrix: AffineMap) -> Scene:
    boxes, labels = visible_boxes(map_boxes(scene.boxes, matrix), scene.labels, image.shape[:2])
    return Scene(image, boxes, labels)


def _cut_at_random(scene: Scene, strength: float, rng: np.random.Generator) -> Scene:
    height, width = scene.image.shape[:2]
    side = round(LARGEST_HOLE * strength * max(height, width))
    top, left = int(rng.integers(height)) - side // 2, int(rng.integers(width)) - side // 2
    return scene._replace(image=cutout(scene.image, top, left, side))


def _either_way(amount: float, rng: np.random.Generator) -> float:
    return amount if rng.random() < 0.5 else -amount


# What is drawn from: each takes a scene, the strength (1 at the full magnitude) and a source of random signs.
OPERATIONS: tuple[Callable[[Scene, float, np.random.Generator], Scene], ...] = (
    lambda scene, strength, rng: scene._replace(image=pixels.equalize(scene.image)),
    lambda scene, strength, rng: scene._replace(image=pixels.solarize(scene.image, 256 * strength)),
    lambda scene, strength, rng: scene._replace(image=pixels.solarize_add(scene.image, 110 * strength)),
    lambda scene, strength, rng: scene._replace(image=pixels.color(scene.image, 0.1 + 1.8 * strength)),
    _cut_at_random,
    lambda scene, strength, rng: rotate(scene, _either_way(pixels.LARGEST_ANGLE * strength, rng)),
    lambda scene, strength, rng: shear(scene, _either_way(pixels.LARGEST_SHEAR * strength, rng), 0),
    lambda scene, strength, rng: shear(scene, 0, _either_way(pixels.LARGEST_SHEAR * strength, rng)),
    lambda scene, strength, rng: translate(scene, _either_way(LARGEST_SHIFT * strength, rng), 0),
    lambda scene, strength, rng: translate(scene, 0, _either_way(LARGEST_SHIFT * strength, rng)),
)
