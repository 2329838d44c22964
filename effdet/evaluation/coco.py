"""The twelve metrics of the COCO detection challenge, computed by pycocotools from arrays, and rows of result files.

Detections come in with boxes in pixels of the original image and leave with the category ids of the data set. Running a
model over a data set is done in `evaluate.py`.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.evaluation.accuracy import SCORE_DECIMALS
from effdet.files import write_json
from effdet.structures import Detections
from effdet.text import count_of

MEANINGS = {
    "AP": "average precision, IoU 0.50 to 0.95",
    "AP50": "average precision, IoU 0.50",
    "AP75": "average precision, IoU 0.75",
    "APs": "AP of small objects, area below 32\u00b2 pixels",
    "APm": "AP of medium objects, 32\u00b2 to 96\u00b2",
    "APl": "AP of large objects, above 96\u00b2",
    "AR1": "average recall, 1 detection per image and class",
    "AR10": "average recall, 10 detections",
    "AR100": "average recall, 100 detections",
    "ARs": "AR100 of small objects",
    "ARm": "AR100 of medium objects",
    "ARl": "AR100 of large objects",
}
METRIC_NAMES = tuple(MEANINGS)
COCO_CAP = 100  # detections per image and class that COCO's metrics count
BOX_DECIMALS = 2  # of pixels, in written results


class CocoEvaluator:
    """Collects the detections of a data set image by image, and computes metrics of them.

    Every image of the table counts: the objects of an image without detections are missed.
    """

    def __init__(self, annotations: Annotations) -> None:
        self.annotations, self.label_map = annotations, annotations.label_map
        # Boxes [M, 4], scores [M] and labels [M] by row of the image.
        self._detections: dict[int, tuple[NDArray[Any], ...]] = {}

    def __len__(self) -> int:
        return len(self.annotations)

    def add(self, index: int, detections: Detections) -> None:
        """Add the detections of image `index`, a row of the table; of an image added twice, the later ones count.

        The boxes are in pixels of the original image.

        Raises:
            DataError: a label is beyond those of the data set, because the model was trained on other classes.
        """
        labels, classes = detections.labels.cpu().numpy(), len(self.label_map)
        if len(labels) and int(labels.max()) >= classes:
            raise DataError(
                f"{self.annotations.source}: the model detects class number {int(labels.max())}, but the data set has"
                f" only {count_of(classes, 'class', 'classes')}; evaluate on a data set with the classes that the model"
                " was trained on"
            )
        self._detections[index] = (detections.boxes.cpu().numpy(), detections.scores.cpu().numpy(), labels)

    def state(self) -> dict[int, tuple[NDArray[Any], ...]]:
        """All that was added, for `merge`."""
        return self._detections

    def merge(self, state: dict[int, tuple[NDArray[Any], ...]]) -> None:
        """Add what another evaluator of the same table, in another process, has in its `state`."""
        self._detections.update(state)

    def results(self) -> list[dict[str, Any]]:
        """All detections as rows of a COCO results file, with the image and category ids of the data set."""
        rows = []
        for index in sorted(self._detections):
            boxes, scores, labels = map(torch.from_numpy, self._detections[index])
            image_id = self.annotations.image_ids[index].item()
            rows += coco_results(image_id, Detections(boxes, scores, labels), self.label_map)
        return rows

    def metrics(self) -> dict[str, float]:
        """The metrics named in `METRIC_NAMES`, as fractions.

        As in pycocotools a metric is -1 if the data set has no object of its size; without detections the others are 0.
        """
        evaluation = self._evaluation(COCO_CAP)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.summarize()
        return dict(zip(METRIC_NAMES, map(float, evaluation.stats), strict=True))

    def notes(self, metrics: dict[str, float]) -> list[str]:
        """What the metrics do not show, one line each: images with more objects of a class than COCO counts.

        Args:
            metrics: what `metrics` gives.
        """
        most = self._most_objects()
        if most <= COCO_CAP:
            return []
        precision = self._evaluation(most).eval["precision"][:, :, :, 0, -1]
        uncapped = float(precision[precision > -1].mean())
        return [
            f"COCO counts {COCO_CAP} detections per image and class, but images have up to {most} objects of a class: "
            f"AP is {metrics['AP']:.1%} with this limit and {uncapped:.1%} without it; postprocess.max_detections sets "
            f"how many detections the model gives per image"
        ]

    def _most_objects(self) -> int:
        """Most objects of one class in one image, without crowds."""
        table = self.annotations
        pairs = (table.image_of_label() * len(self.label_map) + table.labels)[~table.crowd]
        return int(np.unique(pairs, return_counts=True)[1].max()) if len(pairs) else 0

    def _evaluation(self, most_detections: int) -> Any:
        """The COCOeval of pycocotools after `accumulate`, with at most so many detections per image and class."""
        from pycocotools.cocoeval import COCOeval

        table = self.annotations
        # pycocotools breaks ties of scores by the order of image ids, so each image goes by the rank of its id.
        rank = np.empty(len(table), np.int64)
        rank[np.argsort(table.image_ids, kind="stable")] = np.arange(len(table))
        indices, boxes, scores, labels = self._columns()
        box_images = np.repeat(rank, np.diff(table.offsets))
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self._coco(
                box_images, table.labels, table.boxes, area=table.areas, iscrowd=table.crowd.astype(np.int64)
            )
            sides = boxes[:, 2:].astype(np.float64) - boxes[:, :2]
            predicted = self._coco(rank[indices], labels, boxes, area=sides.prod(1), score=scores.astype(np.float64))
            evaluation = COCOeval(truth, predicted, "bbox")
            evaluation.params.maxDets = [1, 10, most_detections]
            evaluation.evaluate()
            evaluation.accumulate()
        return evaluation

    def write(self, folder: Path, metrics: dict[str, float]) -> None:
        """Write metrics.json and predictions.json, a COCO results file."""
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "predictions.json", self.results())

    def _columns(self) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
        """All detections, sorted by the image's row: rows [M], boxes [M, 4], scores [M], labels [M]."""
        indices = sorted(self._detections)
        rows = [self._detections[index] for index in indices]
        counts = [len(scores) for _, scores, _ in rows]
        return (
            np.repeat(np.asarray(indices, np.int64), counts),
            np.concatenate([np.empty((0, 4), np.float32), *(boxes for boxes, _, _ in rows)]),
            np.concatenate([np.empty(0, np.float32), *(scores for _, scores, _ in rows)]),
            np.concatenate([np.empty(0, np.int64), *(labels for _, _, labels in rows)]),
        )

    def _coco(
        self,
        images: NDArray[np.int64],
        labels: NDArray[np.int64],
        boxes: NDArray[np.float32],
        **columns: NDArray[Any],
    ) -> Any:
        """A pycocotools COCO object of boxes, filled directly because its own reader fails without any detection."""
        from pycocotools.coco import COCO

        names = ["image_id", "category_id", "bbox", *columns]
        values = [images, labels, _xywh(boxes), *columns.values()]
        coco = COCO()
        coco.dataset = {
            "images": [{"id": image} for image in range(len(self.annotations))],
            "categories": [{"id": label} for label in range(len(self.annotations.label_map))],
            "annotations": [  # ids from 1: to pycocotools 0 means "not matched"
                {"id": number, "iscrowd": 0, **dict(zip(names, row, strict=True))}
                for number, row in enumerate(zip(*(value.tolist() for value in values), strict=True), start=1)
            ],
        }
        coco.createIndex()
        return coco


def coco_results(image_id: int | str, detections: Detections, label_map: LabelMap) -> list[dict[str, Any]]:
    """The detections of one image as rows of a COCO results file: image_id, category_id, bbox, score.

    Corners are rounded to 1/100 pixel and scores to 5 decimals. `bbox` is the (x, y, width, height) of the rounded
    corners, so that tables that list corners agree with it to the last digit.

    Args:
        image_id: the data set's own id of the image.
        detections: boxes in pixels of the original image.
        label_map: gives the category id of each label.
    """
    detections = detections.cpu()
    boxes = detections.boxes.double().numpy().round(BOX_DECIMALS)
    boxes[:, 2:] = (boxes[:, 2:] - boxes[:, :2]).round(BOX_DECIMALS)
    scores = detections.scores.double().numpy().round(SCORE_DECIMALS)
    return [
        {"image_id": image_id, "category_id": label_map.category_ids[label], "bbox": box, "score": score}
        for label, box, score in zip(detections.labels.tolist(), boxes.tolist(), scores.tolist(), strict=True)
    ]


def _xywh(boxes: NDArray[np.float32]) -> NDArray[np.float64]:
    wide = boxes.astype(np.float64)
    wide[:, 2:] -= wide[:, :2]
    return wide
