"""Boxes with names, or lines of text, drawn onto an image; readable at any image size and for any number of classes.

Images are uint8 RGB arrays [H, W, 3]. Letters are drawn in `text.py`, whole batches in `sheet.py`; pictures are
saved by the callers.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.report.text import put_text, text_size

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_SHADES = ((0.85, 1.0), (0.6, 1.0), (0.95, 0.75))  # (saturation, value), in turn, so that near hues differ too
_WIDEST_LABEL = 0.95  # of the image width
_SMALLEST_SCALE, _LARGEST_SHRINK = 0.35, 0.7  # smallest readable font, and how far one shrinks to fit its image
_SHORTEST = len("0.93 a")
_DARKENING = 0.6  # of the image behind lines of text
_LARGEST_COORDINATE = 1e4  # pixels; OpenCV overflows far beyond it


def color_of(label: int) -> tuple[int, int, int]:
    """RGB color of a class: hues in steps of the golden ratio stay apart for any number of classes."""
    hue = (0.02 + label * _GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, *_SHADES[label % len(_SHADES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: NDArray[np.uint8], boxes: Sequence[Sequence[float]], labels: Sequence[int], texts: Sequence[str]
) -> NDArray[np.uint8]:
    """A copy of an image with boxes and a text at each; later boxes are drawn over earlier ones.

    Args:
        image: uint8 RGB [H, W, 3]; it is not changed.
        boxes: M boxes, xyxy in pixels of this image; boxes with NaN or infinite coordinates are left out.
        labels: M classes, which set the colors.
        texts: M texts, such as "car 0.93".
    """
    canvas: NDArray[np.uint8] = np.array(image, order="C")
    rows = [
        ([min(max(side, -_LARGEST_COORDINATE), _LARGEST_COORDINATE) for side in box], color_of(label), text)
        for box, label, text in zip(boxes, labels, texts, strict=True)
        if all(map(math.isfinite, box))
    ]
    for box, color, _ in rows:
        _draw_box(canvas, box, color)
    for box, color, text in rows:  # after all boxes, so that no line runs through a text
        _draw_label(canvas, box, text, color)
    return canvas


def draw_lines(image: NDArray[np.uint8], lines: Sequence[str]) -> NDArray[np.uint8]:
    """A copy of an image with lines of white text at the top left, such as "0.93 cat", on a darkened background.

    In a small image long lines are cut and the last ones left out, before the text becomes too small to read.

    Args:
        image: uint8 RGB [H, W, 3]; it is not changed.
        lines: the texts, from top to bottom.
    """
    canvas: NDArray[np.uint8] = np.array(image, order="C")
    if not lines:
        return canvas
    height, width = canvas.shape[:2]
    room = _WIDEST_LABEL * width
    scale = _font_scale(canvas)
    widest, pitch = _extent(lines, scale)
    shrink = min(1, room / widest, height / (pitch * len(lines) + _margin(scale)))
    scale = max(_SMALLEST_SCALE, scale * max(_LARGEST_SHRINK, shrink))
    _, pitch = _extent(lines, scale)
    shown = [_cut(line, scale, room) for line in lines[: max(1, (height - _margin(scale)) // pitch)]]
    widest, pitch = _extent(shown, scale)
    if widest > width or pitch + _margin(scale) > height:  # not even one word fits: unreadable at any size
        scale *= min(width / widest, height / (pitch + _margin(scale)))
        widest, pitch = _extent(shown, scale)
    background = canvas[: len(shown) * pitch + _margin(scale), :widest]
    background[:] = background * (1 - _DARKENING)
    above = max(text_size(line, scale)[1] for line in shown)
    for number, line in enumerate(shown):
        put_text(canvas, line, (_margin(scale), _margin(scale) + number * pitch + above), (255, 255, 255), scale)
    return canvas


def _draw_box(canvas: NDArray[np.uint8], box: Sequence[float], color: tuple[int, int, int]) -> None:
    from effdet.opencv import cv2

    x1, y1, x2, y2 = (round(side) for side in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), color, _thickness(canvas))


def _draw_label(canvas: NDArray[np.uint8], box: Sequence[float], text: str, color: tuple[int, int, int]) -> None:
    """A text on a filled rectangle above its box, or inside the box if there is no room; never outside the image."""
    from effdet.opencv import cv2

    height, width = canvas.shape[:2]
    scale = _font_scale(canvas)
    text_width, above, below = text_size(text, scale)
    if text_width > _WIDEST_LABEL * width:
        scale *= _WIDEST_LABEL * width / text_width
        text_width, above, below = text_size(text, scale)
    margin = _margin(scale)
    label_width, label_height = text_width + 2 * margin, above + below + margin
    x1, y1, edge = round(box[0]), round(box[1]), _thickness(canvas) // 2
    left = max(0, min(x1 - edge, width - label_width))
    top = y1 - edge - label_height
    if top < 0:
        top = max(0, min(y1 + edge, height - label_height))
    cv2.rectangle(canvas, (left, top), (left + label_width - 1, top + label_height - 1), color, cv2.FILLED)
    put_text(canvas, text, (left + margin, top + above + margin), _text_color(color), scale)


def _extent(lines: Sequence[str], scale: float) -> tuple[int, int]:
    """Width of the widest line with its margins, and the distance from line to line, in pixels."""
    width, above, below = map(max, zip(*(text_size(line, scale) for line in lines), strict=True))
    return width + 2 * _margin(scale), above + below + _margin(scale)


def _cut(line: str, scale: float, room: float) -> str:
    """A line cut to a width, but never shorter than the score and one letter."""
    if len(line) <= _SHORTEST or _extent([line], scale)[0] <= room:
        return line
    while len(line) > _SHORTEST and _extent([f"{line}.."], scale)[0] > room:
        line = line[:-1]
    return f"{line}.."


def _font_scale(canvas: NDArray[np.uint8]) -> float:
    """Scale of the text, see `put_text`, for an image of this size."""
    return max(0.4, math.sqrt(canvas.shape[0] * canvas.shape[1]) / 1300)


def _margin(scale: float) -> int:
    """Pixels around a text."""
    return max(1, round(3 * scale))


def _thickness(canvas: NDArray[np.uint8]) -> int:
    """Width of the lines of a box, in pixels."""
    return max(1, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 300))


def _text_color(background: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever is easier to read on a color."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)
