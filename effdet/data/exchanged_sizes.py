"""Whether width and height are exchanged in the annotations of images, and not by the EXIF rotation of the images.

Sizes of images are compared with their annotations when images are decoded, in `detection_dataset.py`.
"""

from __future__ import annotations

import io

import numpy as np

from effdet.data.annotations import Annotations
from effdet.errors import DataError

_EXIF_ORIENTATION = 0x0112
_MOST_COMPARED = 200  # images that are opened to see whether all are concerned


def exif_orientation(data: bytes) -> int:
    """EXIF orientation of an encoded image, 1..8; from 5 on, height and width are exchanged. 1 if it has none."""
    _, _, orientation = _header(data)
    return orientation


def exchanged_sizes(table: Annotations) -> tuple[int, int]:
    """How many images that are stored upright have the annotated height as width, and how many were compared.

    Of a large table, images at equal distances are compared.
    """
    known = np.flatnonzero((table.sizes > 0).all(axis=1) & (table.sizes[:, 0] != table.sizes[:, 1]))
    rows = known[:: -(-len(known) // _MOST_COMPARED) or 1].tolist()
    exchanged = 0
    for row in rows:
        try:
            height, width, orientation = _header(table.read(row))
        except DataError:  # is reported when the image is used
            continue
        exchanged += orientation < 5 and [width, height] == table.sizes[row].tolist()
    return exchanged, len(rows)


def _header(data: bytes) -> tuple[int, int, int]:
    """Stored height and width and the EXIF orientation of an image; 0, 0, 1 for one that Pillow cannot open."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.height, image.width, int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (OSError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return 0, 0, 1
