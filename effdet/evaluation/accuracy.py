"""Accuracy of a classifier over a data set, the classes that it takes for each other, and its results image by image.

Running a model over a data set is not done here.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from effdet.data.images import Image, write_image
from effdet.data.label_map import LabelMap
from effdet.errors import DataError, WeightsError
from effdet.files import atomic_write, write_json
from effdet.postprocess import rank_classes

TOP = 5  # classes of an image that are kept
SCORE_DECIMALS = 5
MEANINGS = {
    "top1": "images whose most probable class is the true one",
    "top5": "images whose true class is among the five most probable",
    "mean_class_accuracy": "mean over the classes of the share of their images that is told right",
}
METRIC_NAMES = tuple(MEANINGS)

# Rows [I] of images, their true labels [I], their best classes [I, min(5, K)] and the scores of these.
Answers = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]

# Of the confusion picture, in pixels:
_LARGEST_WITH_TEXT = 30  # classes of one with names and counts
_SIDE_WITHOUT_TEXT = 1000  # most of a side of one without
_LONGEST_NAME, _LINE, _MARGIN = 220, 28, 4
_TEXT_SCALE = 0.5
_WHITE, _GREY, _DARK_BLUE, _BLACK = (255, 255, 255), (215, 215, 215), (8, 48, 107), (0, 0, 0)


class AccuracyEvaluator:
    """Collects the most probable classes of a data set batch by batch, and measures them.

    Only the best five classes of an image are kept, so that memory does not grow with the number of classes. Of classes
    with equal logits the one with the lower label is the more probable.
    """

    def __init__(self, label_map: LabelMap, file_names: Sequence[str] | NDArray[np.str_]) -> None:
        """An evaluator without results.

        Args:
            label_map: the classes of the model and of the data set.
            file_names: of all images of the data set.
        """
        self.label_map, self.file_names = label_map, file_names
        size = (len(file_names), min(TOP, len(label_map)))
        self._labels = np.full(len(file_names), -1, np.int64)  # -1 until the image is added
        self._best = np.empty(size, np.int64)
        self._scores = np.empty(size, np.float32)

    def add(self, indices: Sequence[int], logits: Tensor, labels: Tensor) -> None:
        """Take in the logits of a batch; for an image given twice, the later ones count.

        Args:
            indices: rows of the B images in `file_names`.
            logits: [B, K], before the softmax, on any device.
            labels: [B] int64, the true ones.

        Raises:
            DataError: the model has another number of classes than the data set.
            WeightsError: the logits of an image are not finite.
        """
        if logits.shape[1] != len(self.label_map):
            raise DataError(
                f"the model tells {logits.shape[1]} classes apart, but the data set has {len(self.label_map)};"
                " evaluate on a data set with the classes that the model was trained on"
            )
        scores, best = rank_classes(logits, TOP)
        finite = logits.isfinite().all(dim=1).cpu().numpy()
        rows = np.asarray(indices, np.int64)
        if not finite.all():
            raise WeightsError(
                f"{self.file_names[rows[~finite][0]]}: the network's logits of this image are not finite;"
                " its weights are damaged or its training has diverged, use an earlier checkpoint"
            )
        self._scores[rows] = scores.cpu().numpy()
        self._best[rows] = best.cpu().numpy()
        self._labels[rows] = labels.cpu().numpy()

    def collected(self) -> Answers:
        """What was added, to be taken in by an evaluator of another process."""
        rows = np.flatnonzero(self._labels >= 0)
        return rows, self._labels[rows], self._best[rows], self._scores[rows]

    def take(self, answers: Answers) -> None:
        """Take in what another evaluator of the same images has collected."""
        rows, labels, best, scores = answers
        self._labels[rows], self._best[rows], self._scores[rows] = labels, best, scores

    def metrics(self) -> dict[str, float]:
        """The numbers named in `METRIC_NAMES` as fractions; -1 before any image was added.

        With fewer than five classes top5 is 1; classes without images do not enter the mean over the classes.
        """
        labels, best = self._added()
        if not len(labels):
            return dict.fromkeys(METRIC_NAMES, -1.0)
        right = best == labels[:, None]
        images, hits = self._count(labels), self._count(labels[right[:, 0]])
        present = images > 0
        values = (right[:, 0].mean(), right.any(axis=1).mean(), (hits[present] / images[present]).mean())
        return dict(zip(METRIC_NAMES, map(float, values), strict=True))

    def confusion(self) -> NDArray[np.int64]:
        """Images of each class by the class they were taken for: [K, K], a row per true class, a column per answer."""
        labels, best = self._added()
        classes = len(self.label_map)
        return np.bincount(labels * classes + best[:, 0], minlength=classes**2).reshape(classes, classes)

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

    def write_confusion(self, path: Path) -> None:
        """Write `confusion` as a CSV file in one step; class names head the columns and begin the rows."""
        names = self.label_map.names
        with atomic_write(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("true class", *names))
            table.writerows((name, *row.tolist()) for name, row in zip(names, self.confusion(), strict=True))

    def write(self, folder: Path, metrics: dict[str, float]) -> None:
        """Writes metrics.json, predictions.json, and the confusion matrix as confusion.csv and confusion.png."""
        write_json(folder / "metrics.json", metrics)
        write_json(folder / "predictions.json", self.results())
        self.write_confusion(folder / "confusion.csv")
        write_image(folder / "confusion.png", confusion_picture(self.confusion(), self.label_map.names))

    def _added(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """True labels [I] and best classes [I, min(5, K)] of the images that were added."""
        added = self._labels >= 0
        return self._labels[added], self._best[added]

    def _count(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=len(self.label_map))


def named_classes(
    label_map: LabelMap, labels: NDArray[np.int64], scores: NDArray[np.float32]
) -> list[dict[str, str | int | float]]:
    """Classes of an image as they are written to files: name, class_id (the data set's own), score."""
    rounded = scores.astype(np.float64).round(SCORE_DECIMALS).tolist()
    return [
        {"name": label_map.names[label], "class_id": label_map.category_ids[label], "score": score}
        for label, score in zip(labels.tolist(), rounded, strict=True)
    ]


def confusion_picture(confusion: NDArray[np.int64], names: Sequence[str]) -> Image:
    """A confusion matrix [K, K] as a picture, uint8 RGB: a row per true class, a column per predicted one.

    The darker a cell, the larger its share of the row; the scale is that of the square root, so that a few percent are
    seen. Names and counts are given for up to 30 classes.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    if len(names) > _LARGEST_WITH_TEXT:
        return _heat_map(shares)
    return _labelled_cells(confusion, shares, names)


def _heat_map(shares: NDArray[np.float64]) -> Image:
    import cv2

    classes = len(shares)
    if classes > _SIDE_WITHOUT_TEXT:
        size = (_SIDE_WITHOUT_TEXT, _SIDE_WITHOUT_TEXT)
        return _shade(np.asarray(cv2.resize(shares, size, interpolation=cv2.INTER_AREA)))
    return _enlarged(_shade(shares), _SIDE_WITHOUT_TEXT // classes)


def _labelled_cells(confusion: NDArray[np.int64], shares: NDArray[np.float64], names: Sequence[str]) -> Image:
    classes = len(names)
    side = max(36, min(96, 960 // classes))  # of a cell
    cells = _enlarged(_shade(shares), side)
    for row, column in np.argwhere(confusion).tolist():
        cell = cells[row * side : (row + 1) * side, column * side : (column + 1) * side]
        _write(cell, str(confusion[row, column]), _WHITE if shares[row, column] > 0.3 else _BLACK)
    cells[::side] = cells[:, ::side] = cells[-1] = cells[:, -1] = _GREY
    shown = [_shortened(name) for name in names]
    width = max(map(_text_width, shown)) + 2 * _MARGIN
    left = np.concatenate([_strip(name, width, side, place=1) for name in shown])
    top = np.rot90(np.concatenate([_strip(name, width, side, place=0) for name in shown]))
    left = np.concatenate([np.rot90(_strip("true class", classes * side, _LINE)), left], axis=1)
    top = np.concatenate([_strip("predicted class", classes * side, _LINE), top])
    corner = np.full((len(top), left.shape[1], 3), 255, np.uint8)
    return np.block([[[corner], [top]], [[left], [cells]]])


def _shade(shares: NDArray[np.float64]) -> Image:
    """Colours [R, S, 3] of shares [R, S]: from white for 0 to dark blue for 1."""
    white, blue = np.array(_WHITE), np.array(_DARK_BLUE)
    colours: Image = (white + np.sqrt(shares)[..., None] * (blue - white)).round().astype(np.uint8)
    return colours


def _enlarged(picture: Image, times: int) -> Image:
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _strip(text: str, width: int, height: int, place: float = 0.5) -> Image:
    """A white picture of a text."""
    strip = np.full((height, width, 3), 255, np.uint8)
    _write(strip, text, _BLACK, place)
    return strip


def _write(picture: Image, text: str, ink: tuple[int, int, int], place: float = 0.5) -> None:
    """Text onto a picture, shrunk where it is too wide; `place` is 0 at the left, 1 at the right."""
    import cv2

    height, width = picture.shape[:2]
    room = width - 2 * _MARGIN
    scale = _TEXT_SCALE * min(1, room / max(1, _text_width(text)))
    left = _MARGIN + round(place * (room - _text_width(text, scale)))
    base = (height + cv2.getTextSize("0", cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][1]) // 2
    cv2.putText(picture, text, (left, base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)


def _shortened(name: str) -> str:
    if _text_width(name) <= _LONGEST_NAME:
        return name
    while _text_width(name + "..") > _LONGEST_NAME:
        name = name[:-1]
    return name + ".."


def _text_width(text: str, scale: float = _TEXT_SCALE) -> int:
    import cv2

    return cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)[0][0]
