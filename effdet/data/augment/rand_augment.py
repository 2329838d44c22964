"""RandAugment: random operations on colours and geometry, all of one magnitude. Source: arXiv:1909.13719.

The operations and their strengths are those of the EfficientNet reference. Images are uint8 RGB [H, W, 3] and never
changed in place. Images with boxes are in `rand_augment_boxes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.images import Image

FULL_MAGNITUDE = 10.0  # magnitudes are relative to it; larger ones extrapolate
LARGEST_ANGLE = 30.0  # degrees
LARGEST_SHEAR = 0.3
LARGEST_SHIFT = 100 / 384  # of the side; the reference's 100 pixels at the training size of V2-M and V2-L
GREY = 128  # fills what an image is moved away from


def rand_augment(image: Image, layers: int, magnitude: float, rng: np.random.Generator) -> Image:
    """Image after `layers` operations, each drawn from all with the same probability.

    Args:
        image: uint8 RGB [H, W, 3].
        layers: number of operations.
        magnitude: their strength, 0..10, or more as far as an operation allows.
        rng: source of the randomness.
    """
    strength = magnitude / FULL_MAGNITUDE
    for choice in rng.integers(len(OPERATIONS), size=layers):
        image = OPERATIONS[choice](image, strength, rng)
    return image


def autocontrast(image: Image) -> Image:
    """Each channel stretched so that its darkest pixel is 0 and its brightest 255."""
    low = image.min(axis=0).min(axis=0).astype(int)  # one axis at a time: numpy is many times faster so
    high = image.max(axis=0).max(axis=0).astype(int)
    values = np.arange(256)[:, None]
    return _look_up(image, np.where(high > low, (values - low) * 255 / np.maximum(high - low, 1), values))


def equalize(image: Image) -> Image:
    """Each channel with its histogram equalized."""
    table = np.empty((256, 3))
    for channel in range(3):
        counts = np.bincount(image[..., channel].ravel(), minlength=256)
        step = (image[..., channel].size - counts[image[..., channel].max()]) // 255
        below = np.cumsum(counts) - counts
        table[:, channel] = (below + step // 2) // step if step else np.arange(256)
    return _look_up(image, table)


def posterize(image: Image, bits: int) -> Image:
    """Only the highest `bits` bits of every value kept, 1..8."""
    return _look_up(image, np.arange(256) >> (8 - bits) << (8 - bits))


def solarize(image: Image, threshold: float) -> Image:
    """Values of `threshold` and above inverted."""
    values = np.arange(256)
    return _look_up(image, np.where(values < threshold, values, 255 - values))


def solarize_add(image: Image, addition: float) -> Image:
    """`addition` added to values below 128."""
    values = np.arange(256)
    return _look_up(image, np.where(values < 128, values + addition, values))


def color(image: Image, factor: float) -> Image:
    """Saturation times `factor`; 0 gives a grey image."""
    from effdet.opencv import cv2

    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return _blend(grey, image, factor)  # type: ignore[arg-type]


def contrast(image: Image, factor: float) -> Image:
    """Distance of every value from the image's mean grey times `factor`."""
    from effdet.opencv import cv2

    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0])
    return _look_up(image, mean + (np.arange(256) - mean) * factor)


def brightness(image: Image, factor: float) -> Image:
    """Every value times `factor`."""
    return _look_up(image, np.arange(256) * factor)


def sharpness(image: Image, factor: float) -> Image:
    """Distance of every pixel from its smoothed surroundings times `factor`; the border pixels stay."""
    from effdet.opencv import cv2

    if min(image.shape[:2]) < 3:
        return image
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13
    result = np.copy(image)
    smooth = cv2.filter2D(image, -1, kernel)
    result[1:-1, 1:-1] = _blend(smooth, image, factor)[1:-1, 1:-1]  # type: ignore[arg-type]
    return result


def rotate(image: Image, angle: float) -> Image:
    """Image rotated about its centre by `angle` degrees, counter-clockwise."""
    from effdet.opencv import cv2

    height, width = image.shape[:2]
    return _move(image, cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0))


def shear(image: Image, horizontal: float, vertical: float) -> Image:
    """Image sheared about its top left corner: each pixel comes from so much further right and down per pixel."""
    return _move(image, np.array([[1, horizontal, 0], [vertical, 1, 0]]), inverse=True)


def translate(image: Image, horizontal: float, vertical: float) -> Image:
    """Image moved right and down by fractions of its width and height."""
    height, width = image.shape[:2]
    return _move(image, np.array([[1, 0, horizontal * width], [0, 1, vertical * height]]))


def _look_up(image: Image, table: NDArray[Any]) -> Image:
    """Every value replaced by its entry in `table`, [256] or one column per channel [256, 3]; clipped to 0..255."""
    from effdet.opencv import cv2

    values = np.clip(table, 0, 255).astype(np.uint8)
    return cv2.LUT(image, values[:, None] if values.ndim == 2 else values)  # type: ignore[return-value]


def _blend(plain: Image, image: Image, factor: float) -> Image:
    """`plain` at factor 0, `image` at 1, extrapolated beyond."""
    from effdet.opencv import cv2

    return cv2.addWeighted(image, factor, plain, 1 - factor, 0)  # type: ignore[return-value]


def _move(image: Image, matrix: NDArray[Any], inverse: bool = False) -> Image:
    """Image under an affine map [2, 3] of (x, y): from old to new pixels, or from new to old if `inverse`."""
    from effdet.opencv import cv2

    flags = cv2.INTER_NEAREST | (cv2.WARP_INVERSE_MAP if inverse else 0)
    size = image.shape[1], image.shape[0]
    return cv2.warpAffine(image, matrix, size, flags=flags, borderValue=(GREY, GREY, GREY))  # type: ignore[return-value]


def _either_way(amount: float, rng: np.random.Generator) -> float:
    return amount if rng.random() < 0.5 else -amount


def _enhancing(strength: float) -> float:
    return 0.1 + 1.8 * strength


# Each takes an image, the strength (1 at the full magnitude) and a source of random signs.
OPERATIONS: tuple[Callable[[Image, float, np.random.Generator], Image], ...] = (
    lambda image, strength, rng: autocontrast(image),
    lambda image, strength, rng: equalize(image),
    lambda image, strength, rng: 255 - image,
    lambda image, strength, rng: posterize(image, min(max(int(strength * 4), 1), 8)),
    lambda image, strength, rng: solarize(image, 256 * strength),
    lambda image, strength, rng: solarize_add(image, 110 * strength),
    lambda image, strength, rng: color(image, _enhancing(strength)),
    lambda image, strength, rng: contrast(image, _enhancing(strength)),
    lambda image, strength, rng: brightness(image, _enhancing(strength)),
    lambda image, strength, rng: sharpness(image, _enhancing(strength)),
    lambda image, strength, rng: rotate(image, _either_way(LARGEST_ANGLE * strength, rng)),
    lambda image, strength, rng: shear(image, _either_way(LARGEST_SHEAR * strength, rng), 0),
    lambda image, strength, rng: shear(image, 0, _either_way(LARGEST_SHEAR * strength, rng)),
    lambda image, strength, rng: translate(image, _either_way(LARGEST_SHIFT * strength, rng), 0),
    lambda image, strength, rng: translate(image, 0, _either_way(LARGEST_SHIFT * strength, rng)),
)
