"""Reads a COCO results file for an evaluator: its detections by image and class of an annotation file.

The annotation file is read in `truth_file.py`; metrics are computed in `coco.py`. Boxes stay as exact as JSON has them,
so that the metrics are those of pycocotools.
"""

from __future__ import annotations

import contextlib
import gc
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.coco_values import IdLookup, as_number
from effdet.errors import DataError
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.matching import Predictions
from effdet.evaluation.result_images import match_images
from effdet.evaluation.result_rows import RESULT_KEYS
from effdet.evaluation.truth_file import LARGEST, are_usable, read_truth
from effdet.files import read_bytes
from effdet.plain_data import kind_of, parse_json, shortened, shown
from effdet.text import count_of, some_of

LOW_SCORE = 0.05  # a file whose lowest score is above it is questioned
_MOST = 0.5  # fraction of the detections from which on something is a fault of the whole file
_EXPECTED = 'expected a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}'


class Columns(NamedTuple):
    """The rows of a results file: D detections.

    Attributes:
        image_ids: [D] as written.
        category_ids: [D] as written.
        boxes: [D, 4] x, y, width, height.
        scores: [D].
        file_names: [D] name of the image of each row, None where the row has none; or empty if no row has one.
    """

    image_ids: list[Any]
    category_ids: list[Any]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    file_names: list[Any]


def read_results(annotations: Path, results: Path, voc: bool = False) -> tuple[CocoEvaluator, list[str]]:
    """An evaluator with the detections of a COCO results file, and lines on what was left out or looks wrong.

    Example:
        >>> evaluator, notes = read_results(Path("truth.json"), Path("results.json"))
        >>> evaluator.metrics()["AP"]

    Args:
        annotations: the objects, as COCO instances; no images are needed.
        results: the detections: image_id, category_id, bbox and score. An `image_id` that is none of the annotation
            file is matched with the file names of its images.
        voc: whether to compute VOC's metrics as well, and to use marks `ignore` as marks of difficult objects.

    Raises:
        DataError: a file is missing or holds something else, or most detections are of other images or categories.
    """
    with _no_garbage_collection():  # nothing of a million new objects is garbage
        table, objects, notes = read_truth(annotations, voc)
        predictions, more = read_predictions(results, table)
    return CocoEvaluator(table, None, (objects, predictions), voc), [*notes, *more]


def read_predictions(results: Path, table: Annotations) -> tuple[Predictions, list[str]]:
    """The detections of a COCO results file on the images of a table, and lines on what was left out or looks wrong.

    Raises:
        DataError: the file is missing or holds something else, or most detections are of other images or categories.
    """
    columns, notes = read_columns(results)
    images, more = match_images(results, columns.image_ids, columns.file_names, table)
    notes += more
    labels, more = _labels(results, columns.category_ids, table)
    notes += more
    boxes, scores = columns.boxes, columns.scores
    usable = are_usable(boxes).all(axis=1) & are_usable(scores)
    if not usable.all():
        notes.append(f"{results.name}: {_count(~usable)} with NaN, Inf or a number beyond {LARGEST:,.0f} left out")
    kept = usable & (images >= 0) & (labels >= 0)
    images, labels, boxes, scores = images[kept], labels[kept], boxes[kept], scores[kept]
    notes += [f"{results.name}: {line}" for line in _doubts(table, images, labels, boxes, scores)]
    return _predictions(table, images, labels, boxes, scores), notes


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _predictions(
    table: Annotations,
    images: NDArray[np.int64],
    labels: NDArray[np.int64],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> Predictions:
    """The detections in the order of the ids of their images, of which pycocotools takes those with equal scores."""
    rank = np.empty(len(table), np.int64)
    rank[np.argsort(table.image_ids, kind="stable")] = np.arange(len(table))
    order = np.argsort(rank[images], kind="stable")
    x, y, width, height = boxes[order].T
    corners = np.stack([x, y, x + width, y + height], axis=1)
    return Predictions(images[order], labels[order], corners, width * height, scores[order])


def read_columns(path: Path) -> tuple[Columns, list[str]]:
    """The complete rows of a results file, whose numbers may be NaN or Inf, and lines on the others.

    Raises:
        DataError: there is no list of results, or no row is complete.
    """
    rows = _read_list(path)
    if not rows:
        return Columns([], [], np.empty((0, 4)), np.empty(0), []), [f"{path.name}: holds no detections"]
    try:
        columns = _columns(rows)
        return columns, _odd_names(path, rows, columns)
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    faults = [_fault(row) for row in rows]
    causes = Counter(fault for fault in faults if fault)
    complete = [row for row, fault in zip(rows, faults, strict=True) if fault is None]
    if not complete:
        (cause, _), *_ = causes.most_common(1)
        raise DataError(f"{path}: no detections with boxes: {cause}; {_EXPECTED}")
    lines = [f"{path.name}: {count_of(count, 'row')} left out: {cause}" for cause, count in causes.items()]
    for row in complete:
        row.update(bbox=[as_number(side) for side in row["bbox"]], score=as_number(row["score"]))
    columns = _columns(complete)
    return columns, [*lines, *_odd_names(path, complete, columns)]


def _odd_names(path: Path, rows: Sequence[dict[str, Any]], columns: Columns) -> list[str]:
    """A line on names of images that are no texts."""
    count = sum(row.get("file_name") is not None for row in rows) - sum(name is not None for name in columns.file_names)
    what = f"{path.name}: {count_of(count, 'row')} with a file_name that is no text; the image_id is used"
    return [what] if columns.file_names and count else []


def _read_list(path: Path) -> list[Any]:
    """The rows of a results file as they stand there."""
    try:
        content = parse_json(read_bytes(path))
    except FileNotFoundError:
        raise DataError(f"{path}: no such results file; check the path") from None
    except OSError as error:
        raise DataError(f"{path}: the results file cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a JSON text; {_EXPECTED}") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}: {error.msg.lower()}" if error.doc.strip() else "it is empty"
        raise DataError(f"{path}: not valid JSON, {where}; {_EXPECTED}") from None
    except ValueError as error:
        raise DataError(f"{path}: cannot be read as results: {error}; {_EXPECTED}") from None
    if isinstance(content, list):
        return content
    if isinstance(content, dict):
        rows = content.get("annotations")
        if "images" in content and isinstance(rows, list) and not any(_has(row, "score") for row in rows[:1]):
            raise DataError(
                f"{path}: holds annotations without scores, not results; are the two files exchanged? {_EXPECTED}"
            )
        keys = shortened(", ".join(map(str, list(content)[:8]))) or "nothing"
        raise DataError(f"{path}: holds one object with the keys {keys}; {_EXPECTED}")
    raise DataError(f"{path}: holds JSON of the type {kind_of(content)}; {_EXPECTED}")


def _columns(rows: Sequence[dict[str, Any]]) -> Columns:
    """The columns of complete rows; other rows raise KeyError, TypeError, ValueError or OverflowError."""
    images, categories, boxes, scores = ([row[key] for row in rows] for key in RESULT_KEYS)
    if any(len(box) != 4 for box in boxes):
        raise ValueError
    if not {*map(type, images), *map(type, categories)} <= {int, float, str}:
        raise TypeError
    names = [_name(row.get("file_name")) for row in rows] if any("file_name" in row for row in rows) else []
    return Columns(
        image_ids=images,
        category_ids=categories,
        boxes=np.fromiter(chain.from_iterable(boxes), np.float64, 4 * len(boxes)).reshape(-1, 4),
        scores=np.fromiter(scores, np.float64, len(scores)),
        file_names=names,
    )


def _name(value: Any) -> Any:
    """The name of an image; None where a row has none, or something else."""
    return value if isinstance(value, (str, int, float)) else None


def _fault(row: Any) -> str | None:
    """What a row of a results file lacks; None if it is complete."""
    if not isinstance(row, dict):
        return f"an element is a {kind_of(row)}, not an object"
    if "bbox" not in row and "segmentation" in row:
        return "rows have a mask (segmentation) and no bbox; write the boxes of the masks"
    for key in RESULT_KEYS:
        if key not in row:
            seen = (
                " (annotations have none: are the two files exchanged?)" if key == "score" and "iscrowd" in row else ""
            )
            return f"rows without {key}{seen}"
    if not all(type(row[key]) in (int, float, str) for key in ("image_id", "category_id")):
        return "image_id or category_id is neither a number nor a text"
    if not isinstance(row["bbox"], list) or len(row["bbox"]) != 4:
        return "bbox is not of four numbers"
    return None


def _has(row: Any, key: str) -> bool:
    return isinstance(row, dict) and key in row


def _labels(path: Path, category_ids: list[Any], table: Annotations) -> tuple[NDArray[np.int64], list[str]]:
    """The label of each detection, -1 where its category is unknown; and a line if there are such."""
    different = list(dict.fromkeys(category_ids))
    known = table.label_map.category_ids
    label_of = dict(zip(different, IdLookup(known).rows_of(different), strict=True))
    labels = np.fromiter(map(label_of.__getitem__, category_ids), np.int64, len(category_ids))
    unknown = [category_id for category_id in different if label_of[category_id] < 0]
    if not unknown:
        return labels, []
    count = int(np.count_nonzero(labels < 0))
    seen = f"such as {some_of(list(map(shown, unknown)))}; the annotations have {some_of(list(map(shown, known)))}"
    if count > _MOST * len(labels):
        advice = "write the ids of the annotation file, not labels counted from 0 or 1"
        raise DataError(f"{path}: {count} of {len(labels)} detections have an unknown category_id, {seen}; {advice}")
    return labels, [f"{path.name}: {count_of(count, 'detection')} with an unknown category_id left out, {seen}"]


def _doubts(
    table: Annotations,
    images: NDArray[np.int64],
    labels: NDArray[np.int64],
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> list[str]:
    """What looks wrong with detections that are used all the same, a line each."""
    if not len(scores):
        return []
    lines = []
    flat = np.asarray((boxes[:, 2:] <= 0).any(axis=1))
    if flat.any():
        lines.append(f"detections of no or negative size, which match nothing and count as wrong: {flat.sum()}")
    repeated = len(scores) - _different(images * len(table.label_map) + labels, scores, *boxes.T)
    if repeated:
        lines.append(f"detections that repeat another exactly, which count as wrong: {repeated}")
    sizes = table.sizes[images][:, ::-1]
    beyond = np.asarray((sizes > 0).all(axis=1) & (boxes[:, :2] + boxes[:, 2:] > sizes + 1).any(axis=1))
    if beyond.mean() > _MOST:
        lines.append(
            f"detections that extend beyond their images: {beyond.sum()} of {len(beyond)}; bbox is expected as "
            "[x, y, width, height], not as two corners"
        )
    if boxes.max() <= 1:
        lines.append("no bbox has a number above 1; they are expected in pixels, not as fractions of the image")
    if scores.min() > LOW_SCORE:
        lines.append(
            f"the lowest score is {scores.min():.3g}; a confidence threshold lowers AP, use 0.001 for an evaluation"
        )
    return lines


def _different(groups: NDArray[np.int64], *columns: NDArray[np.float64]) -> int:
    """How many different rows there are, by a hash of 64 bits."""
    total = groups.astype(np.uint64)
    for column in columns:
        total = total * np.uint64(0x9E3779B97F4A7C15) + np.ascontiguousarray(column + 0.0).view(np.uint64)
        total ^= total >> np.uint64(29)
    return len(np.unique(total))


def _count(which: NDArray[np.bool_]) -> str:
    return count_of(int(np.count_nonzero(which)), "detection")
