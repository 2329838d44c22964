"""The analysis of a detector's evaluation as plain values, for analysis.json and the report.

Each section of it is computed in a module of its own; here they are put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.data.annotations import Annotations
from effdet.data.images import decode_image
from effdet.errors import DataError
from effdet.evaluation.average_precision import Tables, class_metrics
from effdet.evaluation.bootstrap import FEWEST_IMAGES, class_intervals, intervals, sample
from effdet.evaluation.calibration import calibration
from effdet.evaluation.confusion import IOU_THRESHOLD, Confusion, confusion
from effdet.evaluation.error_types import error_types, errors_analysis
from effdet.evaluation.matching import Matches, Objects
from effdet.evaluation.thresholds import Counts, class_operating_points, count, curves, thresholds
from effdet.evaluation.worst import worst_images

if TYPE_CHECKING:
    from effdet.evaluation.coco import CocoEvaluator

FALLBACK_THRESHOLD = 0.3  # where no detection is correct, so that no confidence threshold is best
_DECIMALS = 5


def detection_analysis(
    evaluator: CocoEvaluator, metrics: Mapping[str, float], weights: str | None = None
) -> dict[str, Any]:
    """Everything that the detections of a data set say about a model, as plain values.

    Fractions are in 0..1. What cannot be measured is None, except in `metrics`, where it is COCO's -1.

    Args:
        evaluator: with the detections of all images.
        metrics: those that it gave.
        weights: name of the weights; None if that is not known.
    """
    objects, predictions, matches = evaluator.truth(), evaluator.predicted(), evaluator.matches()
    table, names = evaluator.annotations, evaluator.label_map.names
    tables, counts = evaluator.tables(), count(matches, objects.labels)
    summary = thresholds(counts)
    threshold = FALLBACK_THRESHOLD if summary["best"]["score"] is None else float(summary["best"]["score"])
    types = error_types(objects, predictions, matches)
    worst = worst_images(objects, predictions, matches, types, threshold, table.file_names, table.sizes)
    interval, of_classes = _intervals(matches, objects, len(evaluator), len(names))
    return {
        "task": "detection",
        "weights": weights,
        "images": len(evaluator),
        "objects": int(np.count_nonzero(~objects.crowd)),
        "crowds": int(np.count_nonzero(objects.crowd)),
        "detections": len(predictions.scores),
        "settings": evaluator.settings,
        "metrics": dict(metrics),
        "intervals": interval,
        "classes": _classes(evaluator, tables, counts, objects, of_classes),
        "thresholds": summary,
        "curves": curves(counts, tables),
        "confusion": _confusion(confusion(objects, predictions, matches, threshold, len(names)), threshold, names),
        "errors": errors_analysis(objects, matches, types, threshold),
        "calibration": calibration(matches),
        "worst": [_with_size(image, table) for image in worst],
    }


def _intervals(
    matches: Matches, objects: Objects, num_images: int, num_classes: int
) -> tuple[dict[str, Any] | None, list[list[float] | None]]:
    """The intervals of the metrics and of the AP of each class; None with too few images."""
    if num_images < FEWEST_IMAGES:
        return None, [None] * num_classes
    sampled = sample(matches, objects, num_images)
    return intervals(sampled), class_intervals(sampled)


def _classes(
    evaluator: CocoEvaluator, tables: Tables, counts: Counts, objects: Objects, of_classes: list[list[float] | None]
) -> list[dict[str, Any]]:
    """A row per class: its images and objects, AP by size, and precision and recall at its threshold."""
    columns = {
        name: [None if value < 0 else round(value, _DECIMALS) for value in values.tolist()]
        for name, values in class_metrics(tables).items()
    }
    labels, names = evaluator.label_map, evaluator.label_map.names
    pairs = np.unique((objects.images * len(names) + objects.labels)[~objects.crowd])
    images = np.bincount(pairs % len(names), minlength=len(names)).tolist()
    points = class_operating_points(counts)
    return [
        {
            "name": name,
            "category_id": labels.category_ids[label],
            "images": images[label],
            "objects": int(counts.objects[label]),
            **{column: values[label] for column, values in columns.items()},
            "interval": of_classes[label],
            **points[label],
        }
        for label, name in enumerate(names)
    ]


def _confusion(entries: Confusion, score_threshold: float, names: tuple[str, ...]) -> dict[str, Any]:
    rows = zip(*(column.tolist() for column in entries), strict=True)
    return {
        "score_threshold": score_threshold,
        "iou_threshold": IOU_THRESHOLD,
        "names": list(names),
        "entries": [list(row) for row in rows],
    }


def _with_size(image: dict[str, Any], table: Annotations) -> dict[str, Any]:
    """An image of the worst ones with its size, which is read from the file if the annotations do not say it.

    The size of an image that cannot be read is that of what its boxes cover.
    """
    if min(image["size"]) > 0:
        return image
    index = image["index"]
    try:
        height, width, _ = decode_image(table.read(index), table.file_name(index)).shape
    except DataError:
        boxes = [each["box"] for each in (*image["objects"], *image["detections"])]
        width, height = (max(1, ceil(max(box[side] for box in boxes))) for side in (2, 3))
    return {**image, "size": [height, width]}
