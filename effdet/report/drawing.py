"""Boxes or classes with names and scores drawn onto an image, readable at any image size and for any number of classes.

Saving pictures is done by `writers.py`.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from effdet.data.images import Image
from effdet.structures import Classification, Detections

Colour = tuple[int, int, int]

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_SHADES = ((0.85, 1.0), (0.6, 1.0), (0.95, 0.75))  # (saturation, value), turn by turn so that near hues differ too
_LARGEST_SHARE = 0.95  # of the image width that a label may take
_SMALLEST_SCALE, _LARGEST_SHRINK = 0.35, 0.7  # of a font that is still read, by itself and in its image
_SHORTEST = len("0.93 a")
_TALLEST = "Ag"  # a text with all that letters have above and below the base line
_SHADOW = 0.6  # how much of the picture the ground of classes takes away


def colour_of(label: int) -> Colour:
    """RGB colour of a label: hues in steps of the golden ratio stay apart for any number of classes."""
    hue = (0.02 + label * _GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, *_SHADES[label % len(_SHADES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(image: Image, found: Detections | Classification) -> Image:
    """A copy of an image, uint8 RGB [H, W, 3], with what is found in it."""
    return draw_detections(image, found) if isinstance(found, Detections) else draw_classification(image, found)


def draw_detections(image: Image, detections: Detections) -> Image:
    """A copy of an image with its detections, the best on top.

    Args:
        image: uint8 RGB [H, W, 3], left as it is.
        detections: boxes in pixels of this image; labels are shown as numbers where they have no names.
    """
    canvas: Image = np.array(image, order="C")
    found = detections.cpu()
    rows = list(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), _names(found), strict=True))
    rows.sort(key=lambda row: row[1])
    for box, _, label, _ in rows:
        _draw_box(canvas, box, colour_of(label))
    for box, score, label, name in rows:  # after all boxes, so that no line runs through a text
        _draw_text(canvas, box, f"{name} {score:.2f}", colour_of(label))
    return canvas


def draw_classification(image: Image, classification: Classification) -> Image:
    """A copy of an image with its classes as lines at the top left, the best first: probability and name.

    In a small image long names are cut and the last classes left out, before the text gets too small to be read.

    Args:
        image: uint8 RGB [H, W, 3], left as it is.
        classification: labels are shown as numbers where they have no names.
    """
    canvas: Image = np.array(image, order="C")
    found = classification.cpu()
    lines = [f"{score:.2f} {name}" for score, name in zip(found.scores.tolist(), _names(found), strict=True)]
    if lines:
        _draw_lines(canvas, lines)
    return canvas


@dataclass(frozen=True)
class _Font:
    """The font of all texts at one size."""

    scale: float

    @property
    def stroke(self) -> int:
        return max(1, round(1.4 * self.scale))

    @property
    def margin(self) -> int:
        return max(1, round(3 * self.scale))

    def size(self, text: str) -> tuple[int, int, int]:
        """Width of a text, its height above the base line and below it, in pixels."""
        import cv2

        (width, above), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, self.scale, self.stroke)
        return width, above, below

    def write(self, canvas: Image, text: str, position: tuple[int, int], ink: Colour) -> None:
        """Draw a text whose base line begins at `position` (x, y)."""
        import cv2

        cv2.putText(canvas, text, position, cv2.FONT_HERSHEY_SIMPLEX, self.scale, ink, self.stroke, cv2.LINE_AA)


def _font_for(canvas: Image) -> _Font:
    return _Font(max(0.4, math.sqrt(canvas.shape[0] * canvas.shape[1]) / 1300))


def _names(found: Detections | Classification) -> list[str]:
    return found.names if found.class_names else [str(label) for label in found.labels.tolist()]


def _draw_box(canvas: Image, box: list[float], colour: Colour) -> None:
    import cv2

    x1, y1, x2, y2 = (round(side) for side in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, _thickness(canvas))


def _draw_text(canvas: Image, box: list[float], text: str, colour: Colour) -> None:
    """Text on a filled ground above its box, or inside the box where there is no room, never outside the image."""
    import cv2

    height, width = canvas.shape[:2]
    font = _font_for(canvas)
    text_width, above, below = font.size(text)
    if text_width > _LARGEST_SHARE * width:
        font = _Font(font.scale * _LARGEST_SHARE * width / text_width)
        text_width, above, below = font.size(text)
    label_width, label_height = text_width + 2 * font.margin, above + below + font.margin
    x1, y1, edge = round(box[0]), round(box[1]), _thickness(canvas) // 2
    left = max(0, min(x1 - edge, width - label_width))
    top = y1 - edge - label_height
    if top < 0:
        top = max(0, min(y1 + edge, height - label_height))
    cv2.rectangle(canvas, (left, top), (left + label_width - 1, top + label_height - 1), colour, cv2.FILLED)
    font.write(canvas, text, (left + font.margin, top + above + font.margin), _ink_on(colour))


def _draw_lines(canvas: Image, lines: list[str]) -> None:
    """White lines on a darkened ground at the top left: smaller, shorter and fewer where there is no room for them."""
    height, width = canvas.shape[:2]
    room = _LARGEST_SHARE * width
    font = _font_for(canvas)
    wide, pitch = _extent(font, lines)
    shrink = min(1, room / wide, height / (pitch * len(lines) + font.margin))
    font = _Font(max(_SMALLEST_SCALE, font.scale * max(_LARGEST_SHRINK, shrink)))
    _, pitch = _extent(font, lines)
    lines = [_cut(line, font, room) for line in lines[: max(1, (height - font.margin) // pitch)]]
    wide, pitch = _extent(font, lines)
    if wide > width or pitch + font.margin > height:  # no room for one word: too small to be read whatever is done
        font = _Font(font.scale * min(width / wide, height / (pitch + font.margin)))
        wide, pitch = _extent(font, lines)
    ground = canvas[: len(lines) * pitch + font.margin, :wide]
    ground[:] = ground * (1 - _SHADOW)
    above = font.size(_TALLEST)[1]
    for number, line in enumerate(lines):
        font.write(canvas, line, (font.margin, font.margin + number * pitch + above), (255, 255, 255))


def _extent(font: _Font, lines: list[str]) -> tuple[int, int]:
    """Width of the widest line with its margins, and the distance from line to line."""
    _, above, below = font.size(_TALLEST)
    return max(font.size(line)[0] for line in lines) + 2 * font.margin, above + below + font.margin


def _cut(line: str, font: _Font, room: float) -> str:
    """A line cut to a width, but not below the score and one letter."""
    if len(line) <= _SHORTEST or _extent(font, [line])[0] <= room:
        return line
    while len(line) > _SHORTEST and _extent(font, [f"{line}.."])[0] > room:
        line = line[:-1]
    return f"{line}.."


def _thickness(canvas: Image) -> int:
    return max(1, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 300))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)
