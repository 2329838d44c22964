"""Detections as rows of a COCO results file: here alone labels become category ids, and corners width and height.

The file is written by `coco.py` after an evaluation and by `effdet/inference/writers.py` after a prediction.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.label_map import LabelMap
from effdet.files import SCORE_DECIMALS, write_text

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
    columns = image_ids, *_rounded(boxes, labels, scores, label_map)
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
        for image_id, category_id, box, score in zip(*columns, strict=True)
    ]


def write_results(
    path: Path,
    images: NDArray[np.int64],
    boxes: NDArray[np.float64],
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    label_map: LabelMap,
    image_ids: Sequence[int | str],
    file_names: Sequence[str] | None = None,
) -> None:
    """Write detections of any images as a COCO results file, a row in each line; quicker than by `result_rows`.

    Args:
        path: the file.
        images: [M] row of the image of each.
        boxes: [M, 4] xyxy in pixels of the original image.
        labels: [M].
        scores: [M].
        label_map: gives the category id of each label.
        image_ids: [I] the data set's own id of every image.
        file_names: [I] a name that is written too; None for none.
    """
    starts = [f'{{"image_id": {json.dumps(image_id)}, "category_id": ' for image_id in image_ids]
    ends = (
        ["}"] * len(starts) if file_names is None else [f', "file_name": {json.dumps(name)}}}' for name in file_names]
    )
    columns = images.tolist(), *_rounded(boxes, labels, scores, label_map)
    # Lists and numbers look the same in Python and JSON.
    lines = ",\n".join(
        f'{starts[image]}{category_id}, "bbox": {box}, "score": {score}{ends[image]}'
        for image, category_id, box, score in zip(*columns, strict=True)
    )
    write_text(path, f"[\n{lines}\n]\n" if lines else "[]\n")


def _rounded(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], scores: NDArray[np.float64], label_map: LabelMap
) -> tuple[list[int], list[list[float]], list[float]]:
    """Category ids, boxes as corner, width and height, and scores, with the decimals of written results."""
    boxes = boxes.round(BOX_DECIMALS)
    boxes[:, 2:] = (boxes[:, 2:] - boxes[:, :2]).round(BOX_DECIMALS)
    ids = label_map.category_ids
    return [ids[label] for label in labels.tolist()], boxes.tolist(), scores.round(SCORE_DECIMALS).tolist()
