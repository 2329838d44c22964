"""Detections as rows of a COCO results file: here alone labels become category ids, and corners width and height.

The file is written by `coco.py` after an evaluation and by `effdet/inference/writers.py` after a prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.label_map import LabelMap
from effdet.files import SCORE_DECIMALS

if TYPE_CHECKING:  # a results file is evaluated without PyTorch
    from effdet.structures import Detections

BOX_DECIMALS = 2  # of pixels
RESULT_KEYS = ("image_id", "category_id", "bbox", "score")


def coco_results(image_id: int | str, detections: Detections, label_map: LabelMap) -> list[dict[str, Any]]:
    """The detections of one image as rows of a COCO results file: image_id, category_id, bbox, score.

    Corners are rounded to 1/100 pixel and scores to 5 decimals. `bbox` is the (x, y, width, height) of the rounded
    corners, so that tables that list corners agree with it to the last digit.

    Args:
        image_id: the data set's own id of the image.
        detections: boxes in pixels of the original image.
        label_map: gives the category id of each label.
    """
    found = detections.cpu()
    columns = found.boxes.double().numpy(), found.labels.numpy(), found.scores.double().numpy()
    return result_rows([image_id] * len(found), *columns, label_map)


def result_rows(
    image_ids: Sequence[int | str],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    label_map: LabelMap,
) -> list[dict[str, Any]]:
    """Detections of any images as rows of a COCO results file, see `coco_results`.

    Args:
        image_ids: [M] the data set's own id of the image of each.
        boxes: [M, 4] xyxy in pixels of the original image.
        labels: [M].
        scores: [M].
        label_map: gives the category id of each label.
    """
    boxes = boxes.round(BOX_DECIMALS)
    boxes[:, 2:] = (boxes[:, 2:] - boxes[:, :2]).round(BOX_DECIMALS)
    columns = (image_ids, labels.tolist(), boxes.tolist(), scores.round(SCORE_DECIMALS).tolist())
    ids = label_map.category_ids
    return [
        {"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}
        for image_id, label, box, score in zip(*columns, strict=True)
    ]
