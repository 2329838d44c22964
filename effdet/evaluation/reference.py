"""The metrics of COCO by pycocotools from the same columns, to compare with `matching.py` and `average_precision.py`.

Nothing else computes metrics by pycocotools.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.average_precision import AR_CAPS, METRIC_NAMES, Tables
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import Objects, Predictions


def reference_tables(
    objects: Objects, predictions: Predictions, num_images: int, num_classes: int
) -> tuple[dict[str, float], Tables]:
    """The twelve metrics and the tables of precision and recall, computed by pycocotools.

    Of detections with equal scores pycocotools takes those of the image with the lower id first, so that images are
    numbered in the order of their first detections. The corners of boxes become widths and heights again, which may
    round the last digit of coordinates that are no float32.

    Args:
        objects: those of the data set.
        predictions: all detections.
        num_images: rows of images are below this number.
        num_classes: K.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    seen, first = np.unique(predictions.images, return_index=True)
    id_of_image = np.full(num_images, len(predictions.images), np.int64)
    id_of_image[seen] = first
    id_of_image = np.argsort(np.argsort(id_of_image, kind="stable"))
    truth_rows = [
        {**row, "area": area, "iscrowd": int(crowd)}
        for row, area, crowd in zip(
            _rows(objects, id_of_image), objects.areas.tolist(), objects.crowd.tolist(), strict=True
        )
    ]
    detected_rows = [
        {**row, "area": area, "iscrowd": 0, "score": score}
        for row, area, score in zip(
            _rows(predictions, id_of_image), predictions.box_areas.tolist(), predictions.scores.tolist(), strict=True
        )
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        data = []
        for rows in (truth_rows, detected_rows):
            coco = COCO()
            coco.dataset = {
                "images": [{"id": image} for image in range(num_images)],
                "categories": [{"id": label} for label in range(num_classes)],
                "annotations": rows,
            }
            coco.createIndex()
            data.append(coco)
        evaluation = COCOeval(*data, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision: NDArray[np.float64] = evaluation.eval["precision"]  # T, R, K, S, caps
    recall: NDArray[np.float64] = evaluation.eval["recall"]  # T, K, S, caps
    by_cap = np.moveaxis(recall, 3, 0).transpose(0, 3, 2, 1)
    tables = Tables(precision[..., -1].transpose(3, 2, 0, 1), by_cap[-1], dict(zip(AR_CAPS, by_cap, strict=False)))
    return dict(zip(METRIC_NAMES, evaluation.stats.tolist(), strict=True)), tables


def comparison_line(evaluator: CocoEvaluator) -> str:
    """The largest difference between the metrics and tables of an evaluator and those of pycocotools, in a line."""
    size = len(evaluator), len(evaluator.label_map)
    metrics, tables = reference_tables(evaluator.truth(), evaluator.predicted(), *size)
    own, own_tables = evaluator.metrics(), evaluator.tables()
    of_metrics = max(abs(own[name] - metrics[name]) for name in METRIC_NAMES)
    of_tables = max(
        _difference(own_tables.precision, tables.precision),
        _difference(own_tables.recall, tables.recall),
        *(_difference(own_tables.recall_capped[cap], tables.recall_capped[cap]) for cap in AR_CAPS),
    )
    return (
        f"pycocotools gives AP {metrics['AP']:.6f}; the largest difference is {of_metrics:.1g} in the {len(metrics)} "
        f"metrics and {of_tables:.1g} in the tables of precision and recall"
    )


def _difference(values: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    return float(np.abs(values - others).max(initial=0.0))


def _rows(columns: Objects | Predictions, id_of_image: NDArray[np.int64]) -> list[dict[str, Any]]:
    """What a row of annotations and a row of results have in common."""
    sides = columns.boxes[:, 2:] - columns.boxes[:, :2]
    boxes = np.concatenate([columns.boxes[:, :2], sides], axis=1).tolist()
    rows = zip(id_of_image[columns.images].tolist(), columns.labels.tolist(), boxes, strict=True)
    return [
        {"id": number, "image_id": image, "category_id": label, "bbox": box}
        for number, (image, label, box) in enumerate(rows, start=1)
    ]
