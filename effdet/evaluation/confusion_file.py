"""The confusion matrix as a CSV file, of classifiers and of detectors.

Drawing it is in `effdet/report/confusion.py`; how detections are matched for it is in `confusion.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.files import atomic_write
from effdet.text import name_cell

LARGEST_MATRIX = 1000  # classes K up to which confusion.csv is a K x K matrix


def write_confusion(
    path: Path,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    counts: NDArray[np.int64],
    names: Sequence[str],
    largest_matrix: int = LARGEST_MATRIX,
    counted: str = "images",
) -> None:
    """Write the entries of a confusion matrix, as `AccuracyEvaluator.confusion` gives them, as a CSV file.

    Up to `largest_matrix` classes the file is the matrix: a row per true class, a column per predicted class, with the
    class names in the first row and column. For more classes it lists the entries: true class, predicted class and
    how many; `counted` is the name of that column.
    """
    with (
        atomic_write(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        cells = list(map(name_cell, names))
        if len(names) <= largest_matrix:
            matrix = confusion_matrix(rows, columns, counts, len(names))
            table.writerow(("true class", *cells))
            table.writerows((name, *row.tolist()) for name, row in zip(cells, matrix, strict=True))
        else:
            table.writerow(("true class", "predicted class", counted))
            entries = zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True)
            table.writerows((cells[row], cells[column], count) for row, column, count in entries)


def confusion_matrix(
    rows: NDArray[np.int64], columns: NDArray[np.int64], counts: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """The whole confusion matrix [K, K] of its entries: a row per true class, a column per predicted class."""
    matrix = np.zeros((classes, classes), np.int64)
    matrix[rows, columns] = counts
    return matrix
