"""The evaluator of detectors: collects detections image by image, and gives the metrics of the COCO challenge.

Detections come in with boxes in pixels of the original image and leave with the category ids of the data set. Matching
and metrics are computed in `matching.py` and `average_precision.py`; running a model over a data set is done in
`evaluate.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.evaluation.accuracy import SCORE_DECIMALS
from effdet.evaluation.average_precision import Tables, class_metrics, coco_metrics, mean_of_measured, tables
from effdet.evaluation.matching import COCO_CAP, Matches, Objects, Predictions, match
from effdet.files import write_json
from effdet.structures import Detections
from effdet.text import count_of

BOX_DECIMALS = 2  # of pixels, in written results


class CocoEvaluator:
    """Collects the detections of a data set image by image, and computes metrics of them.

    Every image of the table counts: the objects of an image without detections are missed.
    """

    def __init__(self, annotations: Annotations) -> None:
        self.annotations, self.label_map = annotations, annotations.label_map
        # Boxes [M, 4], scores [M] and labels [M] by row of the image.
        self._detections: dict[int, tuple[NDArray[Any], ...]] = {}
        self._tables: Tables | None = None  # of the detections so far

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
        self._tables = None
        self._detections[index] = (detections.boxes.cpu().numpy(), detections.scores.cpu().numpy(), labels)

    def state(self) -> dict[int, tuple[NDArray[Any], ...]]:
        """All that was added, for `merge`."""
        return self._detections

    def merge(self, state: dict[int, tuple[NDArray[Any], ...]]) -> None:
        """Add what another evaluator of the same table, in another process, has in its `state`."""
        self._tables = None
        self._detections.update(state)

    def results(self) -> list[dict[str, Any]]:
        """All detections as rows of a COCO results file, with the image and category ids of the data set."""
        rows = []
        for index in sorted(self._detections):
            boxes, scores, labels = map(torch.from_numpy, self._detections[index])
            image_id = self.annotations.image_ids[index].item()
            rows += coco_results(image_id, Detections(boxes, scores, labels), self.label_map)
        return rows

    def truth(self) -> Objects:
        """All objects of the data set."""
        table = self.annotations
        boxes = table.boxes.astype(np.float64)
        return Objects(table.image_of_label(), table.labels, boxes, _areas(boxes), table.areas, table.crowd)

    def predicted(self) -> Predictions:
        """All detections; of equal scores those of the image with the lower id come first, as in pycocotools."""
        indices = [int(index) for index in np.argsort(self.annotations.image_ids, kind="stable")]
        indices = [index for index in indices if index in self._detections]
        rows = [self._detections[index] for index in indices]
        boxes = np.concatenate([np.empty((0, 4)), *(boxes for boxes, _, _ in rows)])
        return Predictions(
            images=np.repeat(np.asarray(indices, np.int64), [len(scores) for _, scores, _ in rows]),
            labels=np.concatenate([np.empty(0, np.int64), *(labels for _, _, labels in rows)]),
            boxes=boxes,
            box_areas=_areas(boxes),
            scores=np.concatenate([np.empty(0), *(scores for _, scores, _ in rows)]),
        )

    def matches(self, most: int = COCO_CAP) -> Matches:
        """Detections matched to objects by COCO's rules, with at most so many detections per image and class."""
        return match(self.truth(), self.predicted(), len(self), len(self.label_map), most=most)

    def tables(self) -> Tables:
        """Precision and recall by size, class and IoU threshold."""
        if self._tables is None:
            self._tables = tables(self.matches(), self.annotations.labels)
        return self._tables

    def metrics(self) -> dict[str, float]:
        """The metrics named in `METRIC_NAMES`, as fractions.

        As in pycocotools a metric is -1 if the data set has no object of its size; without detections the others are 0.
        """
        return coco_metrics(self.tables())

    def class_metrics(self) -> dict[str, NDArray[np.float64]]:
        """AP, AP50, AP75, APs, APm, APl and AR100 of every class, [K] each; -1 without objects."""
        return class_metrics(self.tables())

    def notes(self, metrics: dict[str, float]) -> list[str]:
        """What the metrics do not show, one line each: images with more objects of a class than COCO counts.

        Args:
            metrics: what `metrics` gives.
        """
        most = self._most_objects()
        if most <= COCO_CAP:
            return []
        uncapped = mean_of_measured(tables(self.matches(most), self.annotations.labels).precision[0])
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

    def write(self, folder: Path, metrics: dict[str, float]) -> None:
        """Write metrics.json and predictions.json, a COCO results file."""
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "predictions.json", self.results())


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


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides: NDArray[np.float64] = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]
