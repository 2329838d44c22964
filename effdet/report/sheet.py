"""Contact sheets: pictures in rows on white, such as the images of a batch.

What is drawn onto the pictures is the business of those who make them.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from effdet.data.images import Image

COLUMNS = 8  # most images in a row
SIDE = 384  # pixels of the longer side of an image in the sheet
GAP = 4  # pixels between images
WHITE = (255, 255, 255)


def contact_sheet(batches: list[list[Image]]) -> Image:
    """Pictures, uint8 RGB and at most `SIDE` high and wide, in rows on white; every batch begins a row."""
    columns = min(COLUMNS, max(map(len, batches)))
    rows = [pictures[first : first + columns] for pictures in batches for first in range(0, len(pictures), columns)]
    height = max(picture.shape[0] for row in rows for picture in row) + GAP
    width = max(picture.shape[1] for row in rows for picture in row) + GAP
    sheet: Image = np.full((len(rows) * height + GAP, columns * width + GAP, 3), WHITE, np.uint8)
    for line, row in enumerate(rows):
        for column, picture in enumerate(row):
            top, left = line * height + GAP, column * width + GAP
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def in_sheet(image: Tensor) -> tuple[Image, float]:
    """An image [3, H, W] as [H, W, 3] with its longer side as in the sheet, and the scale from one to the other."""
    import cv2

    pixels = image.permute(1, 2, 0).numpy()
    scale = SIDE / max(pixels.shape[:2])
    size = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(pixels, size, interpolation=smooth), scale  # type: ignore[return-value]
