"""The faults of predicted boxes that are tried: what undoes each, what it means, and what to do.

The changes of the boxes are in `undoing.py`, faults of classes in `class_order.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from effdet.diagnosis.doctor import undoing
from effdet.diagnosis.doctor.undoing import Boxes

# Input sizes (H, W) that are tried where the one of the model is unknown.
USUAL_INPUTS = tuple((side, side) for side in (300, 320, 384, 416, 448, 512, 640, 768, 800, 896, 1024, 1280, 1536))


class BoxFault(NamedTuple):
    """A fault that predicted boxes may have.

    Attributes:
        undone: what is changed to undo it, the row of the table.
        cause: what is wrong if that helps, the beginning of a sentence.
        remedy: what to do, its end.
        undo: the corrected boxes [M, 4] of boxes [M, 4], of the (H, W) of their images [M, 2], and of the (H, W) of the
            network input.
        by_input: whether the size of the network input matters.
        by_size: whether the sizes of the images matter.
    """

    undone: str
    cause: str
    remedy: str
    undo: Callable[[Boxes, Boxes, tuple[int, int]], Boxes]
    by_input: bool = False
    by_size: bool = False


_ORDER = "write boxes in the order that the format defines"
_SCALE = "divide boxes once by the scale with which the image was resized"
_LETTERBOX = "undo the resizing in the way in which the images were resized, see model.letterbox"
BOX_FAULTS = (
    BoxFault("x and y exchanged", "x and y of the boxes are exchanged", _ORDER, undoing.exchange_axes),
    BoxFault(
        "x2, y2 read as width, height",
        "boxes (x1, y1, x2, y2) were read as (x, y, width, height)",
        "write x, y, width and height, as COCO results have them",
        undoing.corners_to_sides,
    ),
    BoxFault(
        "width, height read as x2, y2",
        "boxes (x, y, width, height) were read as (x1, y1, x2, y2)",
        "add x and y to width and height",
        undoing.sides_to_corners,
    ),
    BoxFault(
        "centre read as corner",
        "the centre of the boxes was read as their upper left corner",
        "subtract half of width and height",
        undoing.centre_to_corner,
    ),
    BoxFault(
        "centre, width, height read as corners",
        "boxes (centre x, centre y, width, height) were read as (x1, y1, x2, y2)",
        "convert them to corners",
        undoing.centre_sides_to_corners,
    ),
    BoxFault(
        "corner read as centre",
        "the upper left corner of the boxes was read as their centre",
        "leave the corner as it is",
        undoing.corner_to_centre,
    ),
    BoxFault(
        "coordinates of 0..1 read as pixels",
        "box coordinates are fractions of the image, not pixels",
        "multiply x by the width and y by the height of the image",
        undoing.scale_by_image,
        by_size=True,
    ),
    BoxFault(
        "coordinates of 0..1 of the padded image",
        "box coordinates are fractions of the padded network input, not pixels",
        "multiply them by the size of the network input, then divide by the scale of the image",
        undoing.scale_by_padded_image,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "scale not undone (padded image)",
        "boxes are in pixels of the network input, the scale of the image was not undone",
        _SCALE,
        undoing.undo_padded_scale,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "scale not undone (stretched image)",
        "boxes are in pixels of the stretched network input, the scale of the image was not undone",
        _SCALE,
        undoing.undo_stretched_scale,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "scale and padding not undone (centred image)",
        "boxes are in pixels of the network input, neither the scale of the image nor the padding around it was undone",
        "subtract the padding, then divide by the scale of the image",
        undoing.undo_centred_scale,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "scale undone twice (padded image)",
        "the scale of the images was undone twice",
        _SCALE,
        undoing.repeat_padded_scale,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "scale undone twice (stretched image)",
        "the scale of the stretched images was undone twice",
        _SCALE,
        undoing.repeat_stretched_scale,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "padded image undone as stretched",
        "the images were padded to the network input, but boxes were scaled as if they had been stretched",
        _LETTERBOX,
        undoing.stretched_to_padded,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "stretched image undone as padded",
        "the images were stretched to the network input, but boxes were scaled as if they had been padded",
        _LETTERBOX,
        undoing.padded_to_stretched,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "padding not subtracted",
        "the padding before the centred image was not subtracted from the boxes",
        "subtract it once, before dividing by the scale",
        undoing.take_off_padding,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "padding subtracted twice or without need",
        "a padding was subtracted from the boxes that is not there, or twice",
        "subtract it once, and only if images are centred in the network input",
        undoing.put_back_padding,
        by_input=True,
        by_size=True,
    ),
    BoxFault(
        "left and right exchanged",
        "boxes are mirrored from left to right",
        "undo the flip of the image, or leave it out",
        undoing.mirror,
        by_size=True,
    ),
    BoxFault(
        "top and bottom exchanged",
        "boxes are upside down",
        "undo the flip of the image; y grows downwards from the top",
        undoing.upside_down,
        by_size=True,
    ),
)
