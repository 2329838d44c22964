"""Accuracy of a classifier over a data set, its confusion matrix, and its predictions image by image.

Running a model over a data set is done in `evaluate.py`, drawing the matrix in `effdet/report/confusion.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effdet.data.label_map import LabelMap
from effdet.errors import DataError, WeightsError
from effdet.evaluation.accuracy_analysis import analyze_accuracy
from effdet.evaluation.confusion_file import write_confusion
from effdet.evaluation.tables import ACCURACY_MEANINGS
from effdet.files import SCORE_DECIMALS, write_json
from effdet.postprocess import rank_classes
from effdet.report.confusion import draw_confusion
from effdet.text import count_of

TOP = 5  # classes stored per image
METRIC_NAMES = tuple(ACCURACY_MEANINGS)


class AccuracyEvaluator:
    """Collects the most probable classes of a data set's images batch by batch, and computes metrics of them.

    Only the best five classes of an image are stored, so that memory does not grow with the number of classes. Of
    classes with equal logits the lower label counts as more probable.
    """

    def __init__(self, label_map: LabelMap, file_names: Sequence[str] | NDArray[np.str_]) -> None:
        """An evaluator without predictions.

        Args:
            label_map: the classes of the model and of the data set.
            file_names: all images of the data set.
        """
        self.settings: dict[str, Any] = {}
        self.label_map, self.file_names = label_map, file_names
        size = (len(file_names), min(TOP, len(label_map)))
        self._labels = np.full(len(file_names), -1, np.int64)  # -1 until the image is added
        self._best = np.empty(size, np.int64)
        self._scores = np.empty(size, np.float32)

    def __len__(self) -> int:
        return len(self.file_names)

    def add(self, indices: Sequence[int], logits: Tensor, labels: Tensor) -> None:
        """Add a batch; of an image added twice, the later logits count.

        Args:
            indices: rows of the B images in `file_names`.
            logits: [B, K], before the softmax, on any device.
            labels: [B] int64, the true classes.

        Raises:
            DataError: the model has another number of classes than the data set.
            WeightsError: the logits of an image are NaN or Inf.
        """
        if logits.shape[1] != len(self.label_map):
            raise DataError(
                f"the model has {count_of(logits.shape[1], 'class', 'classes')}, but the data set has"
                f" {len(self.label_map)}; evaluate on a data set with the classes that the model was trained on"
            )
        scores, best = rank_classes(logits, TOP)
        finite = logits.isfinite().all(dim=1).cpu().numpy()
        rows = np.asarray(indices, np.int64)
        if not finite.all():
            raise WeightsError(not_finite(self.file_names[rows[~finite][0]], "logits"))
        self._scores[rows] = scores.cpu().numpy()
        self._best[rows] = best.cpu().numpy()
        self._labels[rows] = labels.cpu().numpy()

    def state(self) -> tuple[NDArray[Any], ...]:
        """All that was added, for `merge`: rows [I], true labels [I], best classes [I, min(5, K)] and their scores."""
        rows = np.flatnonzero(self._labels >= 0)
        return rows, self._labels[rows], self._best[rows], self._scores[rows]

    def merge(self, state: tuple[NDArray[Any], ...]) -> None:
        """Add what another evaluator of the same images, in another process, has in its `state`."""
        rows, *columns = state
        self._labels[rows], self._best[rows], self._scores[rows] = columns

    def metrics(self) -> dict[str, float]:
        """The metrics named in `METRIC_NAMES`, as fractions; -1 before any image was added.

        With fewer than five classes top5 is 1; classes without images do not enter the mean over the classes.
        """
        labels, best = self._added()
        if not len(labels):
            return dict.fromkeys(METRIC_NAMES, -1.0)
        correct = best == labels[:, None]
        images, hits = self._count(labels), self._count(labels[correct[:, 0]])
        present = images > 0
        values = (correct[:, 0].mean(), correct.any(axis=1).mean(), (hits[present] / images[present]).mean())
        return dict(zip(METRIC_NAMES, map(float, values), strict=True))

    def confusion(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The confusion matrix as its non-zero entries: true label [P], predicted label [P], images [P].

        Sorted by true label, then by predicted label. The whole matrix would need gigabytes for 20 000 classes.
        """
        labels, best = self._added()
        classes = len(self.label_map)
        pairs, counts = np.unique(labels * classes + best[:, 0], return_counts=True)
        return pairs // classes, pairs % classes, counts

    def notes(self, metrics: dict[str, float]) -> list[str]:
        """Nothing: the metrics show all."""
        return []

    def card_values(self) -> dict[str, Any]:
        """Nothing: a classifier has no threshold."""
        return {}

    def results(self) -> list[dict[str, Any]]:
        """For each image its file name, the name of its true class, and its best classes as in `named_classes`."""
        rows = np.flatnonzero(self._labels >= 0)
        columns = zip(rows.tolist(), self._labels[rows].tolist(), self._best[rows], self._scores[rows], strict=True)
        return [
            {
                "file_name": str(self.file_names[row]),
                "label": self.label_map.names[label],
                "classes": named_classes(self.label_map, best, scores),
            }
            for row, label, best, scores in columns
        ]

    def analysis(self, metrics: Mapping[str, float], weights: str | None = None) -> dict[str, Any]:
        """Intervals, classes, calibration and worst images as plain values, see `accuracy_analysis.py`.

        Args:
            metrics: what `metrics` gives.
            weights: name of the weights; None if that is not known.
        """
        rows, labels, best, scores = self.state()
        names = [str(name) for name in np.asarray(self.file_names)[rows]]
        return {
            **analyze_accuracy(self.label_map, rows, names, labels, best, scores, dict(metrics)),
            "weights": weights,
        }

    def write(self, folder: Path, metrics: Mapping[str, float], weights: str | None = None) -> None:
        """Write metrics.json, predictions.json, analysis.json, and the confusion matrix as CSV and PNG files."""
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "predictions.json", self.results())
        write_json(folder / "analysis.json", self.analysis(metrics, weights))
        entries = self.confusion()
        write_confusion(folder / "confusion.csv", *entries, self.label_map.names)
        draw_confusion(folder / "confusion.png", *entries, self.label_map.names)

    def _added(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True labels [I] and best classes [I, min(5, K)] of the images that were added."""
        added = self._labels >= 0
        return self._labels[added], self._best[added]

    def _count(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=len(self.label_map))


def not_finite(file_name: str, outputs: str) -> str:
    """The message for an image that a model turns into NaN or Inf."""
    return (
        f"{file_name}: the {outputs} of the model for this image are NaN or Inf; its weights are damaged or its "
        "training has diverged, use an earlier checkpoint"
    )


def named_classes(
    label_map: LabelMap, labels: NDArray[np.int64], scores: NDArray[np.float32]
) -> list[dict[str, str | int | float]]:
    """Classes of an image as they are written to files: name, class_id (the data set's own), score."""
    rounded = scores.astype(np.float64).round(SCORE_DECIMALS).tolist()
    return [
        {"name": label_map.names[label], "class_id": label_map.category_ids[label], "score": score}
        for label, score in zip(labels.tolist(), rounded, strict=True)
    ]
