"""The shapes of the classes: their outlines [P, 2] of (x, y), and the rotated, squeezed and blurred masks of them.

Colours are chosen in `textures`, positions in `scenes`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]  # image [H, W, 3] or mask [H, W]
SOLID = 64  # opacity from which a pixel belongs to the shape
SUPERSAMPLING = 4
SUBPIXEL_BITS = 4


def radial(radii: list[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Outline with points at equal angles around the origin, at the given distances."""
    angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _cross() -> NDArray[np.float64]:
    arm = np.array([[1, -0.3], [1, 0.3], [0.3, 0.3]])
    turn = np.array([[0, 1], [-1, 0]])
    return np.concatenate([arm @ np.linalg.matrix_power(turn, quarter) for quarter in range(4)])


def _crescent() -> NDArray[np.float64]:
    circle = radial([1.0] * 96)
    shift, radius = np.array([0.5, 0]), 0.8
    bite = radius * circle + shift
    kept = circle[np.hypot(*(circle - shift).T) > radius]
    return np.concatenate([kept, bite[np.hypot(*bite.T) < 1][::-1]])


# Class name -> outline of about unit radius.
OUTLINES: dict[str, NDArray[np.float64]] = {
    "disc": radial([1.0] * 64),
    "triangle": radial([1.0] * 3),
    "square": radial([1.0] * 4),
    "star": radial([1.0, 0.42] * 5),
    "cross": _cross(),
    "crescent": _crescent(),
}
CLASS_NAMES: tuple[str, ...] = tuple(OUTLINES)


def draw_shape(rng: np.random.Generator, label: int, extent: float) -> tuple[Pixels, NDArray[np.float32] | None]:
    """Mask [h, w] of a rotated, slightly squeezed shape, and the blur kernel that was applied to it."""
    from effdet.opencv import cv2

    angle, squeeze = rng.uniform(0, 2 * np.pi), rng.uniform(0.82, 1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    outline = OUTLINES[CLASS_NAMES[label]] * (squeeze, 1) @ turn
    low, high = outline.min(axis=0), outline.max(axis=0)
    scale = extent / (high - low).max()
    kernel = _draw_blur(rng, extent)
    margin = 1 if kernel is None else 1 + kernel.shape[0] // 2
    width, height = np.ceil((high - low) * scale).astype(int) + 2 * margin
    mask = _rasterise((outline - low) * scale + margin, (height, width))
    if kernel is not None:
        mask = np.asarray(cv2.filter2D(mask, -1, kernel), np.uint8)
    return mask, kernel


def _draw_blur(rng: np.random.Generator, extent: float) -> NDArray[np.float32] | None:
    """Kernel of a defocused or moving object, in proportion to its extent; None for most objects."""
    from effdet.opencv import cv2

    if rng.random() > 0.25:
        return None
    reach = max(1, round(extent * rng.uniform(0.02, 0.06)))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.uint8)
    if rng.random() < 0.5:
        cv2.circle(kernel, (reach, reach), reach, 255, -1, cv2.LINE_AA)
    else:
        dx, dy = np.round(reach * _direction(rng)).astype(int).tolist()
        cv2.line(kernel, (reach - dx, reach - dy), (reach + dx, reach + dy), 255, 1)
    weights: NDArray[np.float32] = kernel.astype(np.float32) / np.float32(kernel.sum())
    return weights


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _rasterise(outline: NDArray[np.float64], size: tuple[int, int]) -> Pixels:
    """Anti-aliased mask [H, W] of an outline in pixels."""
    from effdet.opencv import cv2

    height, width = size
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    cv2.fillPoly(fine, [fixed(outline * SUPERSAMPLING - 0.5)], 255, shift=SUBPIXEL_BITS)
    return np.asarray(cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA), np.uint8)


def fixed(points: NDArray[np.float64]) -> NDArray[np.int32]:
    """Points in OpenCV's fixed-point format: in units of 2 ** -SUBPIXEL_BITS pixels."""
    return np.round(points * (1 << SUBPIXEL_BITS)).astype(np.int32)


def bounds(mask: Pixels, least: int) -> tuple[int, int, int, int]:
    """Tight (left, top, right, bottom) of the pixels of at least this opacity."""
    from effdet.opencv import cv2

    left, top, width, height = cv2.boundingRect((mask >= least).astype(np.uint8))
    return left, top, left + width, top + height
