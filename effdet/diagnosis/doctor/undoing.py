"""Changes of boxes that undo a mistake of coordinates: functions of boxes, image sizes and network input.

`box_faults.py` says which mistake each of them undoes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Boxes [M, 4] float64 xyxy, (H, W) of the image of each box [M, 2], (H, W) of the network input -> boxes [M, 4].
Boxes = NDArray[np.float64]


def per_axis(boxes: Boxes, scale: Boxes) -> Boxes:
    """Boxes [M, 4] times scales [M, 2] (vertical, horizontal)."""
    return boxes * scale[:, [1, 0, 1, 0]]


def shifted(boxes: Boxes, offsets: Boxes) -> Boxes:
    """Boxes [M, 4] plus offsets [M, 2] (vertical, horizontal)."""
    return boxes + offsets[:, [1, 0, 1, 0]]


def stretch_scale(sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Input pixels per original pixel of stretched images, [M, 2] (vertical, horizontal)."""
    scale: Boxes = np.array(size, np.float64) / sizes
    return scale


def pad_scale(sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Input pixels per original pixel of padded images, [M, 2], both axes equal."""
    return np.repeat(stretch_scale(sizes, size).min(axis=1, keepdims=True), 2, axis=1)


def centre_offset(sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Padding before a centred image in original pixels, [M, 2] (vertical, horizontal)."""
    scale = pad_scale(sizes, size)
    return (np.array(size) / scale - sizes) / 2


def exchange_axes(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes whose x and y were exchanged."""
    return boxes[:, [1, 0, 3, 2]]


def sides_to_corners(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes (x, y, width, height) in the place of corners."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def corners_to_sides(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Corners (x1, y1, x2, y2) that were read as (x, y, width, height)."""
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def centre_to_corner(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes whose centre was read as the upper left corner."""
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def corner_to_centre(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes whose upper left corner was read as the centre."""
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    return np.concatenate([boxes[:, :2] + half, boxes[:, 2:] + half], axis=1)


def centre_sides_to_corners(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes (centre x, centre y, width, height) in the place of corners."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def mirror(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes of the image with left and right exchanged."""
    width = sizes[:, 1]
    return np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)


def upside_down(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes of the image with top and bottom exchanged."""
    height = sizes[:, 0]
    return np.stack([boxes[:, 0], height - boxes[:, 3], boxes[:, 2], height - boxes[:, 1]], axis=1)


def scale_by_image(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes in fractions of the image."""
    return per_axis(boxes, sizes)


def scale_by_padded_image(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes in fractions of the padded network input."""
    return per_axis(boxes, np.array(size) / pad_scale(sizes, size))


def undo_padded_scale(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes in pixels of the padded network input."""
    return per_axis(boxes, 1 / pad_scale(sizes, size))


def undo_stretched_scale(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes in pixels of the stretched network input."""
    return per_axis(boxes, 1 / stretch_scale(sizes, size))


def undo_centred_scale(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes in pixels of the network input, in which the image is centred."""
    return shifted(undo_padded_scale(boxes, sizes, size), -centre_offset(sizes, size))


def repeat_padded_scale(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes of padded images whose scale was undone twice."""
    return per_axis(boxes, pad_scale(sizes, size))


def repeat_stretched_scale(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes of stretched images whose scale was undone twice."""
    return per_axis(boxes, stretch_scale(sizes, size))


def stretched_to_padded(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes of padded images that were scaled as those of stretched ones."""
    return per_axis(boxes, stretch_scale(sizes, size) / pad_scale(sizes, size))


def padded_to_stretched(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes of stretched images that were scaled as those of padded ones."""
    return per_axis(boxes, pad_scale(sizes, size) / stretch_scale(sizes, size))


def take_off_padding(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes of centred images from which the padding was not subtracted."""
    return shifted(boxes, -centre_offset(sizes, size))


def put_back_padding(boxes: Boxes, sizes: Boxes, size: tuple[int, int]) -> Boxes:
    """Boxes from which a padding was subtracted without need, or twice."""
    return shifted(boxes, centre_offset(sizes, size))
