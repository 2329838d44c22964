"""Boxes with names and scores drawn onto an image, readable at any image size and for any number of classes.

Saving pictures is done by `writers.py`.
"""

from __future__ import annotations

import colorsys
import math

import numpy as np

from effdet.data.images import Image
from effdet.structures import Detections

Colour = tuple[int, int, int]

_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_SHADES = ((0.85, 1.0), (0.6, 1.0), (0.95, 0.75))  # (saturation, value), turn by turn so that near hues differ too
_LARGEST_SHARE = 0.95  # of the image width that a label may take


def colour_of(label: int) -> Colour:
    """RGB colour of a label: hues in steps of the golden ratio stay apart for any number of classes."""
    hue = (0.02 + label * _GOLDEN_RATIO) % 1
    red, green, blue = colorsys.hsv_to_rgb(hue, *_SHADES[label % len(_SHADES)])
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_detections(image: Image, detections: Detections) -> Image:
    """A copy of an image with its detections, the best on top.

    Args:
        image: uint8 RGB [H, W, 3], left as it is.
        detections: boxes in pixels of this image; labels are shown as numbers where they have no names.
    """
    canvas: Image = np.array(image, order="C")
    found = detections.cpu()
    names = found.names if found.class_names else [str(label) for label in found.labels.tolist()]
    rows = list(zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), names, strict=True))
    rows.sort(key=lambda row: row[1])
    for box, _, label, _ in rows:
        _draw_box(canvas, box, colour_of(label))
    for box, score, label, name in rows:  # after all boxes, so that no line runs through a text
        _draw_text(canvas, box, f"{name} {score:.2f}", colour_of(label))
    return canvas


def _draw_box(canvas: Image, box: list[float], colour: Colour) -> None:
    import cv2

    x1, y1, x2, y2 = (round(side) for side in box)
    cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, _thickness(canvas))


def _draw_text(canvas: Image, box: list[float], text: str, colour: Colour) -> None:
    """Text on a filled ground above its box, or inside the box where there is no room, never outside the image."""
    import cv2

    height, width = canvas.shape[:2]
    scale = max(0.4, math.sqrt(height * width) / 1300)
    font, stroke = cv2.FONT_HERSHEY_SIMPLEX, max(1, round(1.4 * scale))
    (text_width, text_height), below = cv2.getTextSize(text, font, scale, stroke)
    if text_width > _LARGEST_SHARE * width:
        scale *= _LARGEST_SHARE * width / text_width
        (text_width, text_height), below = cv2.getTextSize(text, font, scale, stroke)
    margin = max(1, round(3 * scale))
    label_width, label_height = text_width + 2 * margin, text_height + below + margin
    x1, y1, edge = round(box[0]), round(box[1]), _thickness(canvas) // 2
    left = max(0, min(x1 - edge, width - label_width))
    top = y1 - edge - label_height
    if top < 0:
        top = max(0, min(y1 + edge, height - label_height))
    cv2.rectangle(canvas, (left, top), (left + label_width - 1, top + label_height - 1), colour, cv2.FILLED)
    ink = _ink_on(colour)
    cv2.putText(canvas, text, (left + margin, top + text_height + margin), font, scale, ink, stroke, cv2.LINE_AA)


def _thickness(canvas: Image) -> int:
    return max(1, round(math.sqrt(canvas.shape[0] * canvas.shape[1]) / 300))


def _ink_on(colour: Colour) -> Colour:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = colour
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 130 else (255, 255, 255)
