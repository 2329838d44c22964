"""Whether boxes were annotated on images without their EXIF rotation, while the model sees the upright images.

Where height and width differ by it, reading the image fails already and says so.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.image_header import read_header
from effdet.diagnosis.doctor.scoring import average_precision, in_images, with_boxes
from effdet.diagnosis.doctor.verdict import Check
from effdet.errors import DataError
from effdet.evaluation.matching import Predictions

# Coordinates in the file of (left, top, right, bottom) of the upright image, by the EXIF orientation: `-` counts from
# the other side of the upright image.
_STORED = {
    2: ("-right", "top", "-left", "bottom"),
    3: ("-right", "-bottom", "-left", "-top"),
    4: ("left", "-bottom", "right", "-top"),
    5: ("top", "left", "bottom", "right"),
    6: ("top", "-right", "bottom", "-left"),
    7: ("-bottom", "-right", "-top", "-left"),
    8: ("-bottom", "left", "-top", "right"),
}
_PLACES = ("left", "top", "right", "bottom")


def exif_checks(table: Annotations, predictions: Predictions) -> Iterator[Check]:
    """AP on the images that EXIF turns, with the boxes turned back; nothing if there are none."""
    orientations = np.array([_orientation(table, row) for row in range(len(table))])
    rows = np.flatnonzero((orientations > 1) & (np.diff(table.offsets) > 0) & (table.sizes > 0).all(axis=1))
    if not len(rows):
        return
    turned, own = table.subset(rows), in_images(predictions, rows, len(table))
    boxes = stored_boxes(own.boxes, turned.sizes[own.images], orientations[rows][own.images])
    yield Check(
        f"boxes without EXIF rotation ({len(rows)} of {len(table)} images)",
        average_precision(turned, with_boxes(own, boxes)),
        average_precision(turned, own),
        f"the {len(rows)} images with EXIF rotation were annotated without it",
        "annotate the upright images, or remove the EXIF orientation from the files",
    )


def stored_boxes(
    boxes: NDArray[np.float64], sizes: NDArray[np.int32], orientations: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Boxes [M, 4] of upright images as they are in the files.

    Args:
        boxes: xyxy in pixels of the upright image.
        sizes: (H, W) of the upright image of each box, [M, 2].
        orientations: EXIF orientation of it, [M], 1..8.
    """
    stored: NDArray[np.float64] = boxes.copy()
    limits = sizes[:, [1, 0, 1, 0]]
    for orientation, places in _STORED.items():
        rows = orientations == orientation
        for column, place in enumerate(places):
            source = _PLACES.index(place.removeprefix("-"))
            values = boxes[rows, source]
            stored[rows, column] = limits[rows, source] - values if place.startswith("-") else values
    return stored


def _orientation(table: Annotations, row: int) -> int:
    """The EXIF orientation of an image; 1 if its header cannot be read."""
    try:
        source = table.path(row) if table.store is None else table.read(row)
        return read_header(source, str(table.path(row))).orientation
    except DataError:
        return 1
