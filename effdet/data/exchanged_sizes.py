"""Whether width and height are exchanged in the annotations of images, and not by the EXIF rotation of the images.

Sizes of images are compared with their annotations when images are decoded, in `detection_dataset.py`.
"""

from __future__ import annotations

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.image_header import read_header
from effdet.errors import DataError

_MOST_COMPARED = 200  # images that are opened to see how many are concerned


def describe_exchange(table: Annotations, index: int) -> str:
    """Why the annotated height of image `index` is its width, with advice: EXIF, or a fault of the annotations."""
    if read_header(table.read(index), str(table.path(index))).orientation >= 5:
        return "the annotations seem to be made without the EXIF rotation, annotate the upright image"
    exchanged, compared = exchanged_sizes(table)
    return (
        f"width and height are exchanged in the annotations, correct them there; so they are in {exchanged} of "
        f"{compared} images that were compared"
    )


def exchanged_sizes(table: Annotations) -> tuple[int, int]:
    """How many images that are stored upright have the annotated height as width, and how many were compared.

    Of a large table, images at equal distances are compared.
    """
    rows = np.flatnonzero((table.sizes > 0).all(axis=1) & (table.sizes[:, 0] != table.sizes[:, 1]))
    rows = rows[:: max(1, -(-len(rows) // _MOST_COMPARED))]
    exchanged = 0
    for row in rows.tolist():
        try:
            header = read_header(table.read(row), str(table.path(row)))
        except DataError:  # is reported when the image is used
            continue
        exchanged += header.orientation < 5 and list(header.size[::-1]) == table.sizes[row].tolist()
    return exchanged, len(rows)
