"""Several training images joined to one: mosaic, copy-paste and mixup, with the boxes of all of them.

Which images are joined, and how each is changed before, is decided in `data/dataset.py`. Scenes are never changed in
place.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet.data.augment.placement import Boxes, Labels, Scene, visible_boxes
from effdet.data.images import Image

CENTRE = (0.25, 0.75)  # range of the mosaic's centre, as a share of either side
MIXUP_ALPHA = 8.0  # of the beta distribution: shares near a half, as both images keep all their boxes
PASTED_PART = 0.5  # probability of pasting an object
RECOGNISABLE_PART = 0.3  # of an object that pasting covers or brings along; what shows less has no box

Tile = tuple[slice, slice]  # rows and columns


def mosaic_tiles(size: tuple[int, int], rng: np.random.Generator) -> list[Tile]:
    """Four parts that fill a canvas of `size` (H, W) and meet in a random point: rows and columns of each."""
    height, width = size
    down, across = round(rng.uniform(*CENTRE) * height), round(rng.uniform(*CENTRE) * width)
    rows, columns = (slice(0, down), slice(down, height)), (slice(0, across), slice(across, width))
    return [(row, column) for row in rows for column in columns]


def mosaic(scenes: list[Scene], tiles: list[Tile], size: tuple[int, int]) -> Scene:
    """One scene of `size` (H, W) that shows each scene in its tile, whose size it has."""
    canvas: Image = np.empty((*size, 3), np.uint8)
    for scene, (rows, columns) in zip(scenes, tiles, strict=True):
        canvas[rows, columns] = scene.image
    corners = [np.array([columns.start, rows.start] * 2, np.float32) for rows, columns in tiles]
    boxes = [scene.boxes + corner for scene, corner in zip(scenes, corners, strict=True)]
    return Scene(canvas, np.concatenate(boxes), np.concatenate([scene.labels for scene in scenes]))


def mixup(scene: Scene, other: Scene, rng: np.random.Generator) -> Scene:
    """Two scenes of one size blended, about half of each, with the objects of both."""
    import cv2

    share = rng.beta(MIXUP_ALPHA, MIXUP_ALPHA)
    image = cv2.addWeighted(scene.image, share, other.image, 1 - share, 0)
    boxes, labels = np.concatenate([scene.boxes, other.boxes]), np.concatenate([scene.labels, other.labels])
    return Scene(image, boxes, labels)  # type: ignore[arg-type]


def copy_paste(scene: Scene, other: Scene, rng: np.random.Generator) -> Scene:
    """A scene with about half of another's objects pasted in, in whole boxes and in their places.

    What is covered loses its box or a part of it; what a pasted box brings along of other objects gets a box. Objects
    of which little shows are left out.

    Args:
        scene: what is pasted onto.
        other: where the objects come from; of the same size.
        rng: source of the randomness.
    """
    import cv2

    pasted = np.zeros(scene.image.shape[:2], bool)
    chosen = other.boxes[rng.random(len(other.boxes)) < PASTED_PART]
    for left, top, right, bottom in np.column_stack([np.floor(chosen[:, :2]), np.ceil(chosen[:, 2:])]).astype(int):
        pasted[top:bottom, left:right] = True
    if not pasted.any():
        return scene
    image: Image = cv2.copyTo(other.image, pasted.view(np.uint8), scene.image.copy())  # type: ignore[assignment]
    (kept, kept_labels), (brought, brought_labels) = _shown(scene, ~pasted), _shown(other, pasted)
    return Scene(image, np.concatenate([kept, brought]), np.concatenate([kept_labels, brought_labels]))


def _shown(scene: Scene, mask: NDArray[np.bool_]) -> tuple[Boxes, Labels]:
    """Boxes around what a mask [H, W] shows of each object, and their labels, without objects of which little shows."""
    boxes, recognisable = scene.boxes.copy(), np.zeros(len(scene.boxes), bool)
    for number, (left, top, right, bottom) in enumerate(scene.boxes):
        first_row, first_column = int(top), int(left)
        part = mask[first_row : int(np.ceil(bottom)), first_column : int(np.ceil(right))]
        rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        recognisable[number] = part.mean() >= RECOGNISABLE_PART if part.size else False
        if recognisable[number]:
            boxes[number] = (
                max(left, first_column + columns[0]),
                max(top, first_row + rows[0]),
                min(right, first_column + columns[-1] + 1),
                min(bottom, first_row + rows[-1] + 1),
            )
    return visible_boxes(boxes[recognisable], scene.labels[recognisable], mask.shape)
