"""Random changes of training samples: each a pure function of a sample and a random generator.

A sample is an image, uint8 RGB [H, W, 3], with boxes, float32 xyxy pixels [N, 4], and labels [N]; inputs are never
changed in place. The order and the seeds are set in `data/dataset.py`; changes of colour are in `data/photometric.py`,
RandAugment is in `data/rand_augment_boxes.py`, and several images are joined in `data/mosaic.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.images import REDUCTIONS, Image, fitted_side, pad

Boxes = NDArray[np.float32]
Labels = NDArray[np.int64]

SMALLEST_VISIBLE_SIDE = 1.0  # pixels of the network input; what is smaller cannot be learned
ROUNDED_UP = 1.01  # of a scale, where sides become whole pixels


class Scene(NamedTuple):
    """An image with its objects.

    Attributes:
        image: uint8 RGB [H, W, 3].
        boxes: [N, 4] float32, xyxy in pixels of `image`.
        labels: [N] int64 in 0..K-1.
    """

    image: Image
    boxes: Boxes
    labels: Labels


class Placement(NamedTuple):
    """Where an image comes to lie: which part of it is seen, how large, and whether mirrored.

    It is settled before the image is decoded, from its size alone, so that no more is decoded than will be seen.

    Attributes:
        original: (H, W) of the image in pixels.
        corner: (top, left) of the part that is seen, in whole pixels of the original.
        part: (H, W) of that part in pixels of the original.
        resized: (H, W) of that part in pixels of the result.
        flipped: whether the part is mirrored left to right.
        reduction: at which the image is decoded, see `decode_image`; divides `corner`.
    """

    original: tuple[int, int]
    corner: tuple[int, int]
    part: tuple[int, int]
    resized: tuple[int, int]
    flipped: bool
    reduction: int

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the result per pixel of the original, (vertical, horizontal)."""
        return self.resized[0] / self.part[0], self.resized[1] / self.part[1]


def draw_placement(
    original: tuple[int, int],
    size: tuple[int, int],
    scale: float,
    flip: float,
    largest_reduction: int,
    rng: np.random.Generator,
) -> Placement:
    """A random placement of an image at a scale: a part of it where it is larger than the canvas, mirrored or not.

    Args:
        original: (H, W) of the image.
        size: (H, W) of the canvas.
        scale: pixels of the canvas per pixel of the image, about: either side becomes whole pixels.
        flip: probability of mirroring.
        largest_reduction: at which the image may be decoded; 1 where every pixel is needed.
        rng: source of the randomness.
    """
    flipped = bool(rng.random() < flip)
    top, rows, resized_rows = _window(original[0], size[0], scale, rng)
    left, columns, resized_columns = _window(original[1], size[1], scale, rng)
    # What is shown at a half of its size needs a half of its pixels, and so on.
    finest = max(resized_rows / rows, resized_columns / columns) / ROUNDED_UP
    reduction = next(number for number in REDUCTIONS if number == 1 or number <= min(1 / finest, largest_reduction))
    corner = top - top % reduction, left - left % reduction
    return Placement(original, corner, (rows, columns), (resized_rows, resized_columns), flipped, reduction)


def apply_placement(scene: Scene, placement: Placement, size: tuple[int, int], fill: tuple[int, ...]) -> Scene:
    """A scene as its placement says, at the top left of a canvas of `size` (H, W).

    Args:
        scene: the image, decoded at the placement's reduction, and its boxes in pixels of the original.
        placement: where it comes to lie.
        size: (H, W) of the result.
        fill: RGB colour of the padding.

    Returns:
        The image of `size`; the boxes still visible, cut to what is seen; their labels.
    """
    image = pad(_placed_pixels(scene.image, placement), size, fill)
    (top, left), (vertical, horizontal), width = placement.corner, placement.scale, placement.resized[1]
    boxes = scene.boxes - np.array([left, top, left, top], np.float32)
    boxes *= np.array([horizontal, vertical, horizontal, vertical], np.float32)
    boxes, labels = visible_boxes(boxes, scene.labels, placement.resized)
    if placement.flipped:
        boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    return Scene(image, boxes, labels)


def visible_boxes(boxes: Boxes, labels: Labels, size: tuple[int, int]) -> tuple[Boxes, Labels]:
    """Boxes [N, 4] cut to an image of `size` (H, W) and their labels, without those thinner than a pixel."""
    height, width = size
    clipped = np.minimum(np.maximum(boxes, 0), np.array([width, height, width, height], np.float32))
    kept = (clipped[:, 2:] - clipped[:, :2] >= SMALLEST_VISIBLE_SIDE).all(axis=1)
    return clipped[kept], labels[kept]


def _placed_pixels(image: Image, placement: Placement) -> Image:
    """The part of a decoded image that is seen, resized and mirrored."""
    import cv2

    step = placement.reduction
    rows, columns = (
        slice(first // step, -(-(first + length) // step))
        for first, length in zip(placement.corner, placement.part, strict=True)
    )
    view = image[rows, columns]
    vertical, horizontal = (step * ratio for ratio in placement.scale)
    if (vertical, horizontal) != (1, 1):
        # By the exact ratios, not to a size: the last square of a reduced image may reach over the edge of the part.
        view = cv2.resize(view, None, fx=horizontal, fy=vertical, interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    view = view[: placement.resized[0], : placement.resized[1]]
    return cv2.flip(view, 1) if placement.flipped else view  # type: ignore[return-value]


def _window(side: int, limit: int, scale: float, rng: np.random.Generator) -> tuple[int, int, int]:
    """One axis: first pixel and length of the part of the original that is seen, and its length once resized."""
    if side * scale <= limit:
        return 0, side, fitted_side(side * scale, limit)
    length = min(int(np.ceil(limit / scale)), side)
    return int(rng.integers(side - length + 1)), length, limit
