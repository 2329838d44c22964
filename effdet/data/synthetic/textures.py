"""Paint, in integers so that all machines agree: patterns, colours, surfaces of objects, backgrounds with distractors.

Masks are drawn in `shapes`; the objects of an image and their positions are chosen in `scenes`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effdet.data.synthetic.shapes import SUBPIXEL_BITS, Pixels, bounds, fixed, radial

HUES = 180  # hues that OpenCV distinguishes
HUE_RANGE = 7  # largest difference of an object's colours from the hue of its class
ENOUGH_CONTRAST = 110  # RGB distance between an object and what is under it
# Letters that look like no class, each one stroke over the keys 1 to 9 of a number pad; OpenCV's fonts differ between
# versions.
LETTERS = {
    "E": "3146479",
    "F": "314647",
    "H": "174639",
    "K": "174349",
    "L": "179",
    "M": "71539",
    "N": "7193",
    "P": "71364",
    "R": "713649",
    "S": "314697",
    "T": "1328",
    "U": "1793",
    "V": "183",
    "W": "17593",
    "Z": "1379",
    "7": "137",
}


def draw_background(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """Canvas [H, W, 3] of textures, clouds, blobs, scribbles and letters."""
    image = _texture(*_muted_pair(rng), _pattern(rng, size, rng.uniform(0.06, 0.25) * min(size)))
    blend(image, *_cloud(rng, size))
    for _ in range(rng.integers(0, 4)):
        _add_blob(rng, image)
    for _ in range(rng.integers(0, 4)):
        _add_scribble(rng, image)
    for _ in range(rng.integers(0, 3)):
        _add_word(rng, image)
    return image


def draw_surface(
    rng: np.random.Generator, window: Pixels, mask: Pixels, kernel: NDArray[np.float32] | None, hue: float
) -> Pixels:
    """Texture [h, w, 3] of an object on top of `window`: flat or patterned, perhaps with an outline.

    Args:
        rng: source of all that is random.
        window: what surrounds the object, [H, W, 3].
        mask: opacity of the object, [h, w].
        kernel: motion blur of the object, or None.
        hue: of the object's colours, 0..1 around the colour circle.
    """
    from effdet.opencv import cv2

    size, extent = (mask.shape[0], mask.shape[1]), max(mask.shape)
    period = max(6.0, extent * rng.uniform(0.15, 0.4))
    pattern = np.zeros(size, np.uint8) if rng.random() < 0.45 else _pattern(rng, size, period)
    surface = _texture(*_contrasting_pair(rng, window, hue), pattern)
    if rng.random() < 0.25:
        width = 1 + extent // 20
        inner = cv2.erode(mask, np.ones((2 * width + 1, 2 * width + 1), np.uint8), borderValue=0)
        blend(surface, _contrasting_pair(rng, window, hue)[0], 255 - np.asarray(inner, np.uint8))
    if kernel is not None:
        surface = np.asarray(cv2.filter2D(surface, -1, kernel), np.uint8)
    return surface


def blend(canvas: Pixels, colour: Pixels, mask: Pixels) -> None:
    """Paint a colour [3] or texture [H, W, 3] over `canvas` in place, with `mask` [H, W] as its opacity."""
    opacity = _three_channels(mask).astype(np.uint16)
    canvas[...] = (canvas * (255 - opacity) + colour * opacity + 127) // 255


def _three_channels(mask: Pixels) -> Pixels:
    """A mask [H, W] as [H, W, 3]: broadcasting over the colours is slow in numpy."""
    from effdet.opencv import cv2

    return np.asarray(cv2.cvtColor(mask, cv2.COLOR_GRAY2RGB), np.uint8)


def _waves(rng: np.random.Generator, size: tuple[int, int], period: float) -> NDArray[np.int32]:
    """Distance [H, W] of every pixel along a random direction, 256 to a period."""
    angle = rng.uniform(0, 2 * np.pi)
    dx, dy = round(65536 / period * np.cos(angle)), round(65536 / period * np.sin(angle))
    rows, columns = np.arange(size[0], dtype=np.int32), np.arange(size[1], dtype=np.int32)
    start = int(rng.integers(65536))
    waves: NDArray[np.int32] = (rows[:, None] * dy + columns * dx + start) >> 8
    return waves


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    rise = np.concatenate([np.arange(256), np.arange(255, -1, -1)]).astype(np.uint8)
    return rise.take(_waves(rng, size, 0.6 * max(size)) & 511)


def _stripes(rng: np.random.Generator, size: tuple[int, int], period: float) -> Pixels:
    edges: Pixels = np.clip((np.abs(np.arange(256) - 128) - 64) * 8 + 128, 0, 255).astype(np.uint8)
    return edges.take(_waves(rng, size, period) & 255)


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """Clouds of three scales."""
    from effdet.opencv import cv2

    total = np.zeros(size, np.uint16)
    for cells, weight in ((3, 3), (11, 3), (43, 2)):
        grid = rng.integers(0, 256, (cells, cells), np.uint8)
        total += np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_LINEAR_EXACT), np.uint16) * weight
    return (total >> 3).astype(np.uint8)


def _pattern(rng: np.random.Generator, size: tuple[int, int], period: float) -> Pixels:
    """Opacity [H, W] of a second colour over a first: a gradient, clouds, stripes or a checkerboard."""
    kind = rng.integers(4)
    if kind == 0:
        return _ramp(rng, size)
    if kind == 1:
        return _noise(rng, size)
    if kind == 2:
        return _stripes(rng, size, period)
    return np.asarray(_stripes(rng, size, period) ^ _stripes(rng, size, period), np.uint8)


def _texture(first: Pixels, second: Pixels, pattern: Pixels) -> Pixels:
    """Texture [H, W, 3] of two colours, mixed by the pattern [H, W]."""
    from effdet.opencv import cv2

    opacity = np.arange(256, dtype=np.int32)[:, None]
    mixtures = (first * (255 - opacity) + second * opacity + 127) // 255
    return np.asarray(cv2.LUT(_three_channels(pattern), mixtures.astype(np.uint8)[None]), np.uint8)


def _muted_pair(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Two colours of the background: not vivid, and near each other."""
    first = rng.integers(50, 206, 3)
    second = np.clip(first + rng.integers(-45, 46, 3), 0, 255)
    return first.astype(np.uint8), second.astype(np.uint8)


def _contrasting_pair(rng: np.random.Generator, window: Pixels, hue: float) -> tuple[Pixels, Pixels]:
    """Two vivid colours near a hue that differ, as does their mixture, from the colours of every region of a window."""
    from effdet.opencv import cv2

    regions = np.asarray(cv2.resize(window, (4, 4), interpolation=cv2.INTER_AREA), np.int64).reshape(-1, 1, 1, 3)
    hues = (round(HUES * hue) + rng.integers(-HUE_RANGE, HUE_RANGE + 1, (32, 2))) % HUES
    vivid = np.stack([hues, rng.integers(150, 256, (32, 2)), rng.integers(100, 256, (32, 2))], axis=2)
    pairs = np.asarray(cv2.cvtColor(vivid.astype(np.uint8), cv2.COLOR_HSV2RGB), np.uint8)
    mixtures = np.add(pairs[:, :1], pairs[:, 1:], dtype=np.int64) // 2
    distance = ((np.concatenate([pairs, mixtures], axis=1) - regions) ** 2).sum(axis=3).min(axis=(0, 2))
    first, second = pairs[np.minimum(distance, ENOUGH_CONTRAST**2).argmax()]  # the first of those that differ enough
    return first, second


def _cloud(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Pixels, Pixels]:
    """Colour and faint opacity of unevenly lit, stained surfaces."""
    return rng.integers(0, 256, 3, np.uint8), _noise(rng, size) // np.uint8(3)


def _add_blob(rng: np.random.Generator, image: Pixels) -> None:
    """An irregular patch of another texture, as large as an object or much larger."""
    from effdet.opencv import cv2

    size = (image.shape[0], image.shape[1])
    radius = rng.uniform(0.06, 0.4) * min(size)
    contour = radial(rng.uniform(0.35, 1.0, int(rng.integers(7, 12)))) * radius + rng.uniform(0, 1, 2) * size[::-1]
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [fixed(contour)], 255, cv2.LINE_AA, SUBPIXEL_BITS)
    left, top, right, bottom = bounds(mask, 1)
    window = image[top:bottom, left:right]
    if window.size:
        pattern = _pattern(rng, (bottom - top, right - left), rng.uniform(6, 20))
        blend(window, _texture(*_muted_pair(rng), pattern), mask[top:bottom, left:right])


def _add_scribble(rng: np.random.Generator, image: Pixels) -> None:
    from effdet.opencv import cv2

    side = min(image.shape[:2])
    start = rng.uniform(0, 1, 2) * image.shape[1::-1]
    walk = start + np.cumsum(rng.normal(0, 0.12 * side, (int(rng.integers(3, 9)), 2)), axis=0)
    colour = rng.integers(0, 256, 3).tolist()
    cv2.polylines(image, [fixed(walk)], False, colour, int(rng.integers(1, 4)), cv2.LINE_AA, SUBPIXEL_BITS)


def _add_word(rng: np.random.Generator, image: Pixels) -> None:
    """One to four capitals."""
    from effdet.opencv import cv2

    height = rng.uniform(0.05, 0.16) * min(image.shape[:2])
    corner = rng.uniform(0, 0.85, 2) * image.shape[1::-1]
    colour, thickness = rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 4))
    for position, keys in enumerate(rng.choice(list(LETTERS.values()), int(rng.integers(1, 5)))):
        row, column = np.divmod([int(key) - 1 for key in keys], 3)
        letter = corner + height * np.stack([0.35 * column + position, 0.5 * row], axis=1)
        cv2.polylines(image, [fixed(letter)], False, colour, thickness, cv2.LINE_AA, SUBPIXEL_BITS)
