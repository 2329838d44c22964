"""The evaluator of detectors: collects detections image by image, and gives the metrics of COCO and of Pascal VOC.

Detections come in with boxes in pixels of the original image and leave with the category ids of the data set. Matching
and metrics are computed in `matching.py`, `average_precision.py` and `voc.py`; running a model over a data set is done
in `evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.coco_writer import coco_image_ids, write_coco_file
from effdet.errors import DataError
from effdet.evaluation.analysis import detection_analysis
from effdet.evaluation.average_precision import Tables, class_metrics, coco_metrics, mean_of_measured, tables
from effdet.evaluation.calibration import fit_temperature
from effdet.evaluation.confusion import write_detector_confusion
from effdet.evaluation.matching import COCO_CAP, SIZE_RANGES, Matches, Objects, Predictions, match
from effdet.evaluation.result_rows import result_rows, write_results
from effdet.evaluation.thresholds import best_threshold, class_thresholds, count
from effdet.evaluation.voc import voc_metrics
from effdet.files import write_json
from effdet.text import count_of
from effdet.types import PostprocessOptions

if TYPE_CHECKING:  # a results file is evaluated without PyTorch
    from effdet.structures import Detections

_NAMED = 5  # classes that a note names


class CocoEvaluator:
    """Collects the detections of a data set image by image, and computes metrics of them.

    Every image of the table counts: the objects of an image without detections are missed.

    Attributes:
        annotations: images, objects and classes of the data set.
        label_map: its classes.
        settings: how the detections were made: score_threshold, nms, iou_threshold and max_detections, null where
            unknown, and coco_cap, detections per image and class that COCO counts.
        voc: whether the metrics of VOC are computed too.
        image_ids: [I], ids of the images in results: those of the file if the data set has COCO's format, else
            those of truth.json.
    """

    def __init__(
        self,
        annotations: Annotations,
        options: PostprocessOptions | None = None,
        columns: tuple[Objects, Predictions] | None = None,
        voc: bool = False,
    ) -> None:
        """An evaluator without detections.

        Args:
            annotations: images, objects and classes of the data set.
            options: by which the detections are made; None if unknown.
            columns: objects and detections to use in place of those of the table and of `add`, from a results file.
            voc: whether to compute the metrics of VOC where neither the format nor difficult objects ask for them.
        """
        self.annotations, self.label_map = annotations, annotations.label_map
        self.settings = _settings(options)
        self.voc = voc or has_voc_metrics(annotations)
        own_ids = annotations.format == "coco"
        self.image_ids = annotations.image_ids if own_ids else np.asarray(coco_image_ids(annotations))
        self._columns = columns
        # Boxes [M, 4], scores [M] and labels [M] by row of the image.
        self._detections: dict[int, tuple[NDArray[Any], ...]] = {}
        # Of the detections so far:
        self._predicted: Predictions | None = None
        self._not_finite = 0  # detections left out
        self._matches: Matches | None = None
        self._tables: Tables | None = None

    def __len__(self) -> int:
        return len(self.annotations)

    def add(self, index: int, detections: Detections) -> None:
        """Add the detections of image `index`, a row of the table; of an image added twice, the later ones count.

        The boxes are in pixels of the original image. Detections whose box or score is NaN or Inf are left out and
        counted in `notes`.

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
        self.merge({index: (detections.boxes.cpu().numpy(), detections.scores.cpu().numpy(), labels)})

    def state(self) -> dict[int, tuple[NDArray[Any], ...]]:
        """All that was added, for `merge`."""
        return self._detections

    def merge(self, state: dict[int, tuple[NDArray[Any], ...]]) -> None:
        """Add what another evaluator of the same table, in another process, has in its `state`."""
        self._predicted = self._matches = self._tables = None
        self._detections.update(state)

    def results(self) -> list[dict[str, Any]]:
        """All detections as rows of a COCO results file, with the ids of the data set and the file name of the image.

        Rounded like those of `coco_results`.
        """
        images, boxes, labels, scores = self._result_columns()
        ids, names = self.image_ids.tolist(), self.annotations.file_names.tolist()
        rows = result_rows([ids[image] for image in images], boxes, labels, scores, self.label_map)
        return [{**row, "file_name": names[image]} for row, image in zip(rows, images, strict=True)]

    def _result_columns(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64], NDArray[np.float64]]:
        """Rows of images, boxes, labels and scores in the order of the table."""
        found = self.predicted()
        order = np.argsort(found.images, kind="stable")
        return found.images[order], found.boxes[order], found.labels[order], found.scores[order]

    def truth(self) -> Objects:
        """All objects of the data set."""
        if self._columns:
            return self._columns[0]
        table = self.annotations
        boxes = table.boxes.astype(np.float64)
        return Objects(table.image_of_label(), table.labels, boxes, _areas(boxes), table.areas, table.crowd)

    def predicted(self) -> Predictions:
        """All detections; of equal scores those of the image with the lower id come first, as in pycocotools."""
        if self._columns:
            return self._columns[1]
        if self._predicted is None:
            added = [row for row in np.argsort(self.image_ids, kind="stable").tolist() if row in self._detections]
            rows = [self._detections[row] for row in added]
            counts = np.fromiter((len(scores) for _, scores, _ in rows), np.int64, len(rows))
            boxes = np.concatenate([np.empty((0, 4), np.float32), *(boxes for boxes, _, _ in rows)]).astype(np.float64)
            scores = np.concatenate([np.empty(0, np.float32), *(scores for _, scores, _ in rows)]).astype(np.float64)
            labels = np.concatenate([np.empty(0, np.int64), *(labels for _, _, labels in rows)])
            images = np.repeat(np.asarray(added, np.int64), counts)
            finite = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
            self._not_finite = int(np.count_nonzero(~finite))
            if self._not_finite:
                images, labels, boxes, scores = images[finite], labels[finite], boxes[finite], scores[finite]
            self._predicted = Predictions(images, labels, boxes, _areas(boxes), scores)
        return self._predicted

    def matches(self) -> Matches:
        """Detections matched to objects by COCO's rules, with COCO's limit of detections per image and class."""
        if self._matches is None:
            self._matches = match(self.truth(), self.predicted(), len(self), len(self.label_map))
        return self._matches

    def tables(self) -> Tables:
        """Precision and recall by size, class and IoU threshold."""
        if self._tables is None:
            self._tables = tables(self.matches(), self.truth().labels)
        return self._tables

    def metrics(self) -> dict[str, float]:
        """COCO's metrics as fractions, and those of VOC if the data set has its format or marks difficult objects.

        As in pycocotools a metric is -1 if the data set has no object of its size; without detections the others are 0.
        """
        metrics = coco_metrics(self.tables())
        if self.voc:
            size = len(self), len(self.label_map)
            metrics.update(voc_metrics(self.truth(), self.predicted(), self.annotations.difficult, *size))
        return metrics

    def class_metrics(self) -> dict[str, NDArray[np.float64]]:
        """AP, AP50, AP75, APs, APm, APl and AR100 of every class, [K] each; -1 without objects."""
        return class_metrics(self.tables())

    def class_objects(self) -> NDArray[np.int64]:
        """Objects of every class that count, [K]: without crowds."""
        truth = self.truth()
        return np.bincount(truth.labels[~truth.crowd], minlength=len(self.label_map)).astype(np.int64)

    def notes(self, metrics: Mapping[str, float]) -> list[str]:
        """What the metrics do not show, one line each.

        They are on detections with NaN, on classes without objects, and on images with more objects of a class than
        COCO counts.

        Args:
            metrics: what `metrics` gives.
        """
        notes = []
        self.predicted()
        if self._not_finite:
            notes.append(f"{count_of(self._not_finite, 'detection')} with NaN or Inf in box or score left out")
        absent = np.flatnonzero(self.class_objects() == 0).tolist()
        source = self.annotations.source.name
        if len(absent) == len(self.label_map):
            notes.append(f"{source}: no objects, so that nothing can be measured: all metrics are -1")
        elif absent:
            names = ", ".join(self.label_map.names[label] for label in absent[:_NAMED])
            notes.append(
                f"{len(absent)} of {count_of(len(self.label_map), 'class', 'classes')} without objects in "
                f"{source} do not count in AP and AR: {names}{', ...' * (len(absent) > _NAMED)}"
            )
        most = self._most_objects()
        if most > COCO_CAP:
            advice = "; postprocess.max_detections sets how many detections the model gives per image"
            notes.append(
                f"COCO counts {COCO_CAP} detections per image and class, but images have up to {most} objects of a "
                f"class: AP is {metrics['AP']:.1%} with this limit and {self.uncapped_ap():.1%} without it"
                f"{advice if self.settings['max_detections'] else ''}"
            )
        return notes

    def uncapped_ap(self) -> float:
        """AP without COCO's limit of detections per image and class; -1 without objects."""
        truth, found = self.truth(), self.predicted()
        whole = match(
            *(truth, found, len(self), len(self.label_map)),
            size_ranges=[SIZE_RANGES["all"]],
            most=max(len(found.scores), 1),
        )
        return mean_of_measured(tables(whole, truth.labels, caps=()).precision)

    def card_values(self) -> dict[str, Any]:
        """The fields of the model card that prediction uses: the best confidence thresholds and the temperature."""
        matches = self.matches()
        counts = count(matches, self.annotations.labels)
        by_class = class_thresholds(counts)
        return {
            "score_threshold": best_threshold(counts),
            "class_thresholds": () if by_class is None else tuple(by_class.tolist()),
            "temperature": fit_temperature(matches),
        }

    def _most_objects(self) -> int:
        """Most objects of one class in one image, without crowds."""
        truth = self.truth()
        pairs = (truth.images * len(self.label_map) + truth.labels)[~truth.crowd]
        return int(np.unique(pairs, return_counts=True)[1].max()) if len(pairs) else 0

    def write(self, folder: Path, metrics: Mapping[str, float], weights: str | None = None) -> None:
        """Write metrics.json, analysis.json, the confusion matrix as CSV and PNG files, and predictions.json.

        predictions.json is a COCO results file with file names. The ids of its images are those of the data set, or of
        truth.json, the objects as a COCO file, which is written if the data set has another format.
        """
        write_json(folder / "metrics.json", metrics)
        names = self.annotations.file_names.tolist()
        ids = self.image_ids.tolist()
        write_results(folder / "predictions.json", *self._result_columns(), self.label_map, ids, names)
        if self.annotations.format != "coco":
            write_coco_file(folder / "truth.json", self.annotations)
        analysis = detection_analysis(self, metrics, weights)
        write_json(folder / "analysis.json", analysis)
        write_detector_confusion(folder, analysis["confusion"]["entries"], self.label_map.names)

    def save_results(self, file: Path) -> None:
        """Write the results file that COCO's server takes: image_id, category_id, bbox and score alone.

        Raises:
            DataError: the ids of the images are texts, which the server does not know.
        """
        if self.image_ids.dtype.kind not in "iu":
            raise DataError(
                f"{self.annotations.source}: images have ids such as '{self.image_ids[0]}', but COCO's server expects "
                f"integers; number the images in that file, or use predictions.json, which has the ids as they are"
            )
        write_results(file, *self._result_columns(), self.label_map, self.image_ids.tolist())


def has_voc_metrics(annotations: Annotations) -> bool:
    """Whether a data set is evaluated by VOC's rules too: it has VOC's format, or marks difficult objects as VOC."""
    return annotations.format == "voc" or bool(annotations.difficult.any())


def _settings(options: PostprocessOptions | None) -> dict[str, Any]:
    """The settings of an evaluation as plain values, null where unknown."""
    names = ("score_threshold", "nms", "iou_threshold", "max_detections")
    return {**{name: options and getattr(options, name) for name in names}, "coco_cap": COCO_CAP}


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides: NDArray[np.float64] = boxes[:, 2:] - boxes[:, :2]
    return sides[:, 0] * sides[:, 1]
