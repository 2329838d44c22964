"""Contact sheets: the images of a batch, with their boxes or classes, in rows on white.

Images are uint8 RGB arrays [H, W, 3] unless a function says otherwise. The drawing on single images is in `boxes.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effdet.report.boxes import draw_boxes, draw_lines

COLUMNS = 8  # most images in a row
SIDE = 384  # pixels of the longer side of an image in the sheet
GAP = 4  # pixels between images
_SMALLEST_PROBABILITY = 0.005  # of a class that is written onto an image; less would read 0.00
_MOST_CLASSES = 2  # written onto an image; mixup and cutmix mix two


class _Objects(Protocol):
    """The boxes and labels of one image, such as a `Target` or `Detections`."""

    @property
    def boxes(self) -> Tensor:
        """[N, 4], xyxy in pixels of the image."""

    @property
    def labels(self) -> Tensor:
        """[N] int64."""


def draw_detection_batch(
    images: Tensor, targets: Sequence[_Objects], class_names: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """A sheet of a detector's batch, every box with the name of its class.

    Args:
        images: [B, 3, H, W] uint8 RGB, on any device.
        targets: B targets, boxes in pixels of the images; boxes with NaN or infinite coordinates are left out.
        class_names: K names; labels without a name are drawn as numbers.
    """
    pictures = []
    for image, target in zip(images, targets, strict=True):
        picture, scale = _in_sheet(image)
        labels = target.labels.tolist()
        boxes = (target.boxes.float() * scale).tolist()
        pictures.append(draw_boxes(picture, boxes, labels, [_name(label, class_names) for label in labels]))
    return contact_sheet(pictures)


def draw_classification_batch(
    images: Tensor, probabilities: Tensor, class_names: Sequence[str] = ()
) -> NDArray[np.uint8]:
    """A sheet of a classifier's batch, every image with its classes: one, or two where images are mixed.

    Args:
        images: [B, 3, H, W] uint8 RGB, on any device.
        probabilities: [B, K], the target probability of every class in each image.
        class_names: K names; labels without a name are drawn as numbers.
    """
    pictures = []
    for image, row in zip(images, probabilities.float(), strict=True):
        picture, _ = _in_sheet(image)
        values, labels = row.topk(min(_MOST_CLASSES, len(row)))
        lines = [
            f"{value:.2f} {_name(label, class_names)}"
            for value, label in zip(values.tolist(), labels.tolist(), strict=True)
            if value >= _SMALLEST_PROBABILITY
        ]
        pictures.append(draw_lines(picture, lines))
    return contact_sheet(pictures)


def contact_sheet(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Images in rows of eight on white; every image has a cell of the size of the largest."""
    columns = min(COLUMNS, len(pictures))
    height = max((picture.shape[0] for picture in pictures), default=0) + GAP
    width = max((picture.shape[1] for picture in pictures), default=0) + GAP
    rows = -(-len(pictures) // COLUMNS)
    sheet: NDArray[np.uint8] = np.full((rows * height + GAP, columns * width + GAP, 3), 255, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = number // COLUMNS * height + GAP, number % COLUMNS * width + GAP
        sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sheet


def stack_sheets(sheets: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Sheets below each other, such as those of several batches; narrower ones are filled up with white."""
    width = max(sheet.shape[1] for sheet in sheets)
    filled = [
        np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0)), constant_values=255)[GAP if number else 0 :]
        for number, sheet in enumerate(sheets)
    ]
    stacked: NDArray[np.uint8] = np.concatenate(filled)
    return stacked


def _in_sheet(image: Tensor) -> tuple[NDArray[np.uint8], float]:
    """An image [3, H, W] as [H, W, 3] with its longer side as in the sheet, and the factor of its sides."""
    from effdet.opencv import cv2

    pixels = image.cpu().permute(1, 2, 0).numpy()
    scale = SIDE / max(pixels.shape[:2])
    size = max(round(pixels.shape[1] * scale), 1), max(round(pixels.shape[0] * scale), 1)
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    return cv2.resize(pixels, size, interpolation=interpolation), scale  # type: ignore[return-value]


def _name(label: int, class_names: Sequence[str]) -> str:
    return class_names[label] if 0 <= label < len(class_names) else str(label)
