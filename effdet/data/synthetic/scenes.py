"""One scene of a seed: number, class, size and position of its objects, and the camera that turns it into an image.

Shapes and surfaces are drawn in `shapes` and `textures`; files are written in `files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from effdet.data.synthetic.shapes import CLASS_NAMES, SOLID, Pixels, bounds, draw_shape
from effdet.data.synthetic.textures import blend, draw_background, draw_surface
from effdet.errors import DataError

SMALLEST_IMAGE = 64  # pixels; below it, small and large objects would be equal
SMALLEST_OBJECT = 12  # pixels, longer side of the box
EMPTY_FRACTION = 0.08
MOST_OBJECTS = 12
LEAST_VISIBLE = 0.5  # fraction of an object that later ones must leave uncovered
PLACING_TRIES = 12


@dataclass(frozen=True)
class Scene:
    """One drawn image with its objects.

    Attributes:
        image: [H, W, 3] uint8, RGB.
        boxes: [N, 4] float32, xyxy in pixels: the bounds of each whole shape, covered or not.
        labels: [N] int64, positions in `CLASS_NAMES`.
    """

    image: Pixels
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]


def draw_scene(seed: int, index: int, size: tuple[int, int], split: int = 0) -> Scene:
    """Scene `index` of a seed, the same on every machine.

    Args:
        seed: 0 or more.
        index: number of the scene, 0 or more.
        size: (H, W) in pixels.
        split: which of the independent series of scenes of this seed.

    Raises:
        DataError: the size or the seed is too small.
    """
    check_parameters(size, seed)
    rng = generator(seed, split, index)
    image = draw_background(rng, size)
    number = 0 if rng.random() < EMPTY_FRACTION else int(rng.integers(1, MOST_OBJECTS + 1))
    boxes, labels = draw_objects(rng, image, number)
    return Scene(draw_camera(rng).photograph(rng, image), boxes, labels)


def check_parameters(size: tuple[int, int], seed: int) -> None:
    """Refuse a size (H, W) or a seed that no scene can be drawn from.

    Raises:
        DataError: the size or the seed is too small.
    """
    if min(size) < SMALLEST_IMAGE:
        raise DataError(f"demo images of {size[0]}x{size[1]} pixels are too small; expected {SMALLEST_IMAGE} at least")
    if seed < 0:
        raise DataError(f"the seed of the demo images is {seed}; expected 0 or more")


def generator(seed: int, split: int, index: int) -> np.random.Generator:
    """Random numbers of one scene, or of one video: independent of all others, the same on every machine."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, split, index])))


class Layout:
    """Which object every pixel shows, so that no object is mostly hidden."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.owner = np.zeros(size, np.uint8)  # 0 is the background
        self.area = np.array([0])  # pixels of each whole object
        self.visible = np.array([size[0] * size[1]])  # pixels of each object that are not covered

    def add(self, rng: np.random.Generator, solid: NDArray[np.bool_]) -> tuple[int, int] | None:
        """Adds a shape [h, w] on top of the others at a random (top, left); None if there is no space."""
        (height, width), (rows, columns) = solid.shape, self.owner.shape
        for _ in range(PLACING_TRIES):
            top, left = int(rng.integers(rows - height + 1)), int(rng.integers(columns - width + 1))
            window = self.owner[top : top + height, left : left + width]
            visible = self.visible - np.bincount(window[solid], minlength=len(self.visible))
            if (visible >= LEAST_VISIBLE * self.area).all():
                window[solid] = len(self.area)
                self.area = np.append(self.area, solid.sum())
                self.visible = np.append(visible, solid.sum())
                return top, left
        return None


def draw_objects(rng: np.random.Generator, image: Pixels, number: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Paint up to `number` objects; their boxes [N, 4] and labels [N]."""
    layout = Layout((image.shape[0], image.shape[1]))
    boxes, labels = [], []
    for _ in range(number):
        label = int(rng.integers(len(CLASS_NAMES)))
        mask, kernel = draw_shape(rng, label, _draw_extent(rng, min(layout.owner.shape) / 2))
        position = layout.add(rng, mask >= SOLID)
        if position is None:
            continue
        top, left = position
        window = image[top : top + mask.shape[0], left : left + mask.shape[1]]
        blend(window, draw_surface(rng, window, mask, kernel, label / len(CLASS_NAMES)), mask)
        boxes.append(np.add(bounds(mask, SOLID), (left, top, left, top)))
        labels.append(label)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)


def _draw_extent(rng: np.random.Generator, largest: float) -> float:
    """Longer side of an object in pixels: from the smallest to the largest, few of them tiny."""
    return float(SMALLEST_OBJECT * (largest / SMALLEST_OBJECT) ** (rng.random() ** 0.6))


@dataclass(frozen=True)
class Camera:
    """How the drawing becomes an image: contrast, brightness, blur and noise in grey levels."""

    contrast: float
    brightness: float
    blur: float
    noise: float

    def photograph(self, rng: np.random.Generator, image: Pixels) -> Pixels:
        """The image [H, W, 3] of a drawing, with its own noise."""
        from effdet.opencv import cv2

        if self.blur:
            image = np.asarray(cv2.GaussianBlur(image, (5, 5), self.blur), np.uint8)
        curve = np.round((np.arange(256) - 128) * self.contrast + 128 + self.brightness).clip(0, 255).astype(np.uint8)
        grain = np.round(_normal_quantiles() * self.noise).astype(np.int16)
        noise = cv2.LUT(rng.integers(0, 256, image.shape, np.uint8), grain)
        return np.asarray(cv2.add(cv2.LUT(image, curve), noise, dtype=cv2.CV_8U), np.uint8)


def _normal_quantiles() -> NDArray[np.float64]:
    """Normal deviates [256], equally likely: looking one up by a random byte is faster than drawing one."""
    return np.array([NormalDist().inv_cdf((k + 0.5) / 256) for k in range(256)])


def draw_camera(rng: np.random.Generator) -> Camera:
    """A random camera for one scene, or for one video."""
    blur = rng.uniform(0.4, 0.8) if rng.random() < 0.2 else 0.0
    return Camera(rng.uniform(0.75, 1.15), rng.uniform(-25, 25), blur, rng.uniform(0, 8))
