"""Metrics for the terminal: the table of a data set, the table of its classes, and the settings that they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.table import Table

from effdet.evaluation import average_precision, voc
from effdet.text import percent

# The metrics of classifiers are described here, so that those of a detector can be shown without PyTorch.
ACCURACY_MEANINGS = {
    "top1": "images whose most probable class is the true one",
    "top5": "images whose true class is among the five most probable",
    "mean_class_accuracy": "mean over the classes of the fraction of their images classified correctly",
}
MEANINGS = {**average_precision.MEANINGS, **voc.MEANINGS, **ACCURACY_MEANINGS}
MOST_CLASSES = 100  # rows of the table of classes
_NMS = {"class": "NMS within each class", "agnostic": "NMS across classes", "soft": "soft-NMS"}


def metrics_table(metrics: Mapping[str, float], settings: Mapping[str, Any] | None = None) -> RenderableType:
    """Metrics as a table: name, value in percent, meaning; a dash for -1, which stands for none.

    Args:
        metrics: as fractions.
        settings: how the detections were made, see `CocoEvaluator.settings`; they become a line below the table.
    """
    table = Table("metric", box=None, pad_edge=False)
    table.add_column("%", justify="right")
    table.add_column("meaning", style="dim")
    for name, value in metrics.items():
        table.add_row(name, percent(value), MEANINGS.get(name, ""))
    return Group(table, settings_text(settings)) if settings else table


def settings_text(settings: Mapping[str, Any]) -> str:
    """The settings of an evaluation of a detector in a line; those that are unknown are left out."""
    texts = []
    if settings["score_threshold"] is not None:
        texts.append(f"confidence threshold {settings['score_threshold']:g}")
    if settings["nms"] is not None:
        iou = "" if settings["nms"] == "soft" else f" at IoU {settings['iou_threshold']:g}"
        texts.append(f"{_NMS[settings['nms']]}{iou}")
    if settings["max_detections"] is not None:
        texts.append(f"at most {settings['max_detections']} detections per image")
    made = ", ".join(texts)
    return f"{made}{'; ' * bool(made)}COCO counts {settings['coco_cap']} detections per image and class"


def class_table(
    names: Sequence[str], objects: NDArray[np.int64], metrics: Mapping[str, NDArray[np.float64]]
) -> RenderableType:
    """Metrics of every class as a table, values in percent; of many classes those with most objects.

    Args:
        names: of the K classes.
        objects: [K] objects of each.
        metrics: name -> [K], as fractions, -1 for none.
    """
    shown = np.argsort(-objects, kind="stable")[:MOST_CLASSES]
    table = Table("class", box=None, pad_edge=False)
    for column in ("objects", *metrics):
        table.add_column(column, justify="right")
    for label in np.sort(shown).tolist():
        values = (percent(float(column[label])) for column in metrics.values())
        table.add_row(names[label], str(objects[label]), *values)
    if len(shown) == len(names):
        return table
    return Group(table, f"the {len(shown)} classes of {len(names)} with most objects")
