"""A COCO file with the truth and a COCO results file, read leniently, and checks of the ids in the results.

A results file with faults is what is diagnosed here, so only rows that cannot be understood are left out; the rows are
read in `effdet/evaluation/results_file.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.coco import read_coco
from effdet.data.formats.coco_values import IdLookup, as_integer
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import repair_boxes
from effdet.diagnosis.doctor.scoring import average_precision
from effdet.diagnosis.doctor.verdict import Check
from effdet.evaluation.matching import Predictions
from effdet.evaluation.results_file import read_columns
from effdet.evaluation.truth_file import LARGEST, are_usable
from effdet.plain_data import shortened
from effdet.text import count_of, some_of


class Results(NamedTuple):
    """The rows of a results file.

    Attributes:
        image_ids: as in the file, D ids.
        category_ids: as in the file, D ids.
        boxes: [D, 4] float64, xyxy of a `bbox` of x, y, width and height.
        scores: [D] float64.
        notes: lines on the rows that are left out.
    """

    image_ids: list[Any]
    category_ids: list[Any]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    notes: list[str]


def read_truth(path: Path) -> Annotations:
    """The table of a COCO file; its images need not be there.

    Raises:
        DataError: see `read_coco`.
    """
    return repair_boxes(read_coco(SplitFiles(path, path)))  # a file has no images below, so none are looked for


def read_results(path: Path) -> Results:
    """The rows of a COCO results file.

    Raises:
        DataError: the file is missing, or is no list of predictions.
    """
    columns, notes = read_columns(path)
    if not columns.scores.size:
        notes = []  # an empty file has a verdict of its own
    usable = are_usable(columns.boxes).all(axis=1) & are_usable(columns.scores)
    if not usable.all():
        count = count_of(int((~usable).sum()), "prediction")
        notes = [*notes, f"{count} left out: bbox or score is NaN, Inf or beyond {LARGEST:,.0f}"]
    rows = np.flatnonzero(usable)
    corner, sides = columns.boxes[rows, :2], columns.boxes[rows, 2:]
    return Results(
        [columns.image_ids[row] for row in rows],
        [columns.category_ids[row] for row in rows],
        np.concatenate([corner, corner + sides], axis=1),
        columns.scores[rows],
        notes,
    )


def predictions_by_id(table: Annotations, results: Results) -> tuple[Predictions, list[str]]:
    """The predictions of known images and classes, and a line on each kind of row that is left out."""
    images, labels = _image_rows(table, results), _labels(table, results)
    facts = list(results.notes)
    for rows, ids, what, own in (
        (images, results.image_ids, "image_id", table.image_ids.tolist()),
        (labels, results.category_ids, "category_id", list(table.label_map.category_ids)),
    ):
        unknown = [shortened(str(ids[row])) for row in np.flatnonzero(rows < 0)]
        if unknown:
            theirs, ours = some_of(list(dict.fromkeys(unknown))), some_of(list(map(str, own)))
            facts.append(
                f"{len(unknown)} of {count_of(len(ids), 'prediction')} left out, because the annotations do not have "
                f"their {what}: {theirs}; the annotations have {ours}"
            )
    return _predictions(results, images, labels), facts


def id_checks(table: Annotations, results: Results, before: float) -> Iterator[Check]:
    """AP with the ids of categories, and of images, read as positions that are counted from 0 or from 1."""
    images, labels = _image_rows(table, results), _labels(table, results)
    for first in (0, 1):
        positions = _positions(results.category_ids, first, len(table.label_map))
        if not np.array_equal(positions, labels):
            yield Check(
                f"category_id read as the class counted from {first}",
                average_precision(table, _predictions(results, images, positions)),
                before,
                f"category_id in the predictions is not the annotations' id but the number of the class, from {first}",
                f"write the category ids of the annotations, {some_of(list(map(str, table.label_map.category_ids)))}",
            )
    for first in (0, 1):
        positions = _positions(results.image_ids, first, len(table))
        if not np.array_equal(positions, images):
            yield Check(
                f"image_id read as the image counted from {first}",
                average_precision(table, _predictions(results, positions, labels)),
                before,
                f"image_id in the predictions is not the annotations' id but the number of the image, from {first}",
                "write the image ids of the annotations",
            )


def _image_rows(table: Annotations, results: Results) -> NDArray[np.int64]:
    """Row of the image of every prediction, [D]; -1 if it is unknown. File names are ids too."""
    rows = np.array(IdLookup(table.image_ids.tolist()).rows_of(results.image_ids), np.int64)
    names = table.file_names.tolist()
    row_of = {key: row for row, name in enumerate(names) for key in (name, Path(name).name, Path(name).stem)}
    for place in np.flatnonzero(rows < 0).tolist():
        rows[place] = row_of.get(str(results.image_ids[place]), -1)
    return rows


def _labels(table: Annotations, results: Results) -> NDArray[np.int64]:
    """Label of every prediction, [D]; -1 if its category is unknown."""
    return np.array(IdLookup(table.label_map.category_ids).rows_of(results.category_ids), np.int64)


def _positions(ids: list[Any], first: int, length: int) -> NDArray[np.int64]:
    """Ids as positions of a list whose first entry has the number `first`; -1 beyond its ends."""
    numbers = [as_integer(value) for value in ids]
    places = (-1 if number is None else number - first for number in numbers)  # of any number of digits
    return np.array([place if 0 <= place < length else -1 for place in places], np.int64)


def _predictions(results: Results, images: NDArray[np.int64], labels: NDArray[np.int64]) -> Predictions:
    """The predictions of known images and labels."""
    known = (images >= 0) & (labels >= 0)
    boxes = results.boxes[known]
    sides = boxes[:, 2:] - boxes[:, :2]
    return Predictions(images[known], labels[known], boxes, sides.prod(axis=1), results.scores[known])
