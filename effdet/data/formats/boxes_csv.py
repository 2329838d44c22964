"""Reader of boxes in CSV files: one line per box, or FiftyOne's one line per image.

Which column holds what is decided in `csv_columns.py`; where the files of a data set are, in `csv_location.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.formats.classes import MOST_DIGITS, clean_name, ordered_names
from effdet.data.formats.csv_columns import Columns
from effdet.data.formats.csv_location import csv_box_columns
from effdet.data.formats.csv_rows import SOLE_CLASS, Faults, box_rows
from effdet.data.formats.csv_text import first_rows, read_rows
from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import build_table
from effdet.data.label_map import LabelMap
from effdet.errors import DataError

CHUNK = 50_000  # rows that are read at once
BAD_LINES = "lines without an image, a class or a whole box left out"
FRACTIONS = "boxes between 0 and 1 read as fractions of the image"
PIXELS = "boxes beyond 0 to 1 read as pixels, although the layout has fractions"
NO_CLASSES = f"no column of classes: all objects get the class '{SOLE_CLASS}'"
_TRUE = ("1", "1.0", "true", "yes", "t", "y")


@dataclass
class _Content:
    """What a file holds, in columns of one row per line; chunks of them until `read_boxes_csv` joins them.

    A line without a box has the label -1. `number_of_image` numbers the names in order of appearance.
    """

    number_of_image: dict[str, int] = field(default_factory=dict)
    number_of_class: dict[str, int] = field(default_factory=dict)
    images: list[NDArray[np.int64]] = field(default_factory=list)
    labels: list[NDArray[np.int64]] = field(default_factory=list)
    boxes: list[NDArray[np.float64]] = field(default_factory=list)
    sizes: list[NDArray[np.float64]] = field(default_factory=list)
    wanted: list[NDArray[np.bool_]] = field(default_factory=list)
    crowd: list[NDArray[np.bool_]] = field(default_factory=list)
    difficult: list[NDArray[np.bool_]] = field(default_factory=list)


def read_boxes_csv(files: SplitFiles) -> Annotations:
    """Table of the boxes of a CSV file.

    A line without a box is an image without objects. Lines that lack an image, a class or a number are left out and
    counted. Boxes are fractions of the image if they lie between 0 and 1. Classes are in the order of a file
    classes.csv (name,id) beside it, or sorted by name.

    Args:
        files: `annotations` is the file, UTF-8; `member` the value in its column of splits to read.

    Raises:
        DataError: the file cannot be read or is no such file, all its lines are faulty, or an image does not exist.
    """
    path = files.annotations
    rows, delimiter = read_rows(path)
    columns = csv_box_columns(path)
    if columns is None:
        raise DataError(
            f"{path}: not a list of boxes; expected a header such as filename,class,xmin,ymin,xmax,ymax, or lines such "
            f"as a.jpg,10,20,110,220,dog"
        )
    faults: Faults = []
    rows, columns = box_rows(rows, columns, faults)
    content = _Content()
    while chunk := list(islice(rows, CHUNK)):
        _add(content, chunk, columns, files.member, delimiter != ",", faults)
    if not content.images:
        line, fault = min(faults) if faults else (1, "no line has an image")
        raise DataError(f"{path}: line {line}: {fault}; expected lines such as a.jpg,10,20,110,220,dog")
    return _table(files, columns, content, faults)


def _add(
    content: _Content,
    chunk: list[tuple[int, list[str]]],
    columns: Columns,
    member: str | None,
    decimal_comma: bool,
    faults: Faults,
) -> None:
    """Adds lines to the content, those that are faulty to `faults`."""
    texts = [list(map(str.strip, column)) for column in zip(*(fields for _, fields in chunk), strict=True)]
    images = texts[columns.image]
    names = [SOLE_CLASS] * len(chunk) if columns.label is None else texts[columns.label]
    numbers = [_numbers(texts[column], decimal_comma) for column in columns.box]
    given = np.stack([there for _, there in numbers], axis=1)
    boxes, whole = _corners(np.stack([values for values, _ in numbers], axis=1), given, columns)
    has_box = np.asarray(given.any(axis=1))
    named, classed = (np.fromiter(map(bool, column), np.bool_, len(chunk)) for column in (images, names))
    good = named & (~has_box | (whole & classed))
    for row in np.flatnonzero(~good).tolist():
        what = "no image" if not named[row] else "no class" if whole[row] else "a box that is not four numbers"
        faults.append((chunk[row][0], what))
    if not good.any():
        return
    kept = np.flatnonzero(good).tolist()
    of_image, of_class, there = content.number_of_image, content.number_of_class, has_box.tolist()
    content.images.append(np.array([of_image.setdefault(images[row], len(of_image)) for row in kept], np.int64))
    labels = [of_class.setdefault(names[row], len(of_class)) if there[row] else -1 for row in kept]
    content.labels.append(np.array(labels, np.int64))
    content.boxes.append(boxes[good])
    content.sizes.append(_sizes(texts, columns, len(chunk), decimal_comma)[good])
    content.wanted.append(_equal(texts, None if member is None else columns.split, (str(member).lower(),))[good])
    content.crowd.append(_equal(texts, columns.crowd, _TRUE, otherwise=False)[good])
    content.difficult.append(_equal(texts, columns.difficult, _TRUE, otherwise=False)[good])


def _equal(
    texts: list[list[str]], column: int | None, values: tuple[str, ...], otherwise: bool = True
) -> NDArray[np.bool_]:
    """Which lines have one of the values in a column, [N]; `otherwise` for all lines without that column."""
    if column is None:
        return np.full(len(texts[0]), otherwise)
    return np.array([text.lower() in values for text in texts[column]], np.bool_)


def _sizes(texts: list[list[str]], columns: Columns, count: int, decimal_comma: bool) -> NDArray[np.float64]:
    """Height and width of the image of each line, [N, 2]; 0 where the file has no columns of them."""
    if columns.size is None:
        return np.zeros((count, 2))
    return np.stack([_numbers(texts[column], decimal_comma)[0] for column in columns.size], axis=1)


def _numbers(texts: Sequence[str], decimal_comma: bool) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The numbers of a column, infinity for text that is none; and where there is text."""
    if decimal_comma:
        texts = [text.replace(",", ".") for text in texts]
    try:
        return np.fromiter(map(float, texts), np.float64, len(texts)), np.ones(len(texts), np.bool_)
    except ValueError:
        given = np.fromiter(map(bool, texts), np.bool_, len(texts))
        return np.array([_number(text) for text in texts], np.float64), given


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return np.inf


def _corners(
    values: NDArray[np.float64], given: NDArray[np.bool_], columns: Columns
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Boxes [N, 4] xyxy of the numbers of each line, and which of them are whole, [N]."""
    whole = given & ~np.isposinf(values)
    if columns.form == "corners":
        return values, np.asarray(whole.all(axis=1))
    if columns.form == "vertices":
        xs, ys = ((values[:, start::2], whole[:, start::2]) for start in (0, 1))
        low = [np.where(there, side, np.inf).min(axis=1) for side, there in (xs, ys)]
        high = [np.where(there, side, -np.inf).max(axis=1) for side, there in (xs, ys)]
        enough = (xs[1].sum(axis=1) > 1) & (ys[1].sum(axis=1) > 1) & (whole == given).all(axis=1)
        return np.stack([*low, *high], axis=1), enough
    first, size = values[:, :2], values[:, 2:]
    if columns.form == "center":
        first = first - size / 2
    with np.errstate(invalid="ignore"):
        return np.concatenate([first, first + size], axis=1), np.asarray(whole.all(axis=1))


def _table(files: SplitFiles, columns: Columns, content: _Content, faults: Faults) -> Annotations:
    path = files.annotations
    wanted, labels = np.concatenate(content.wanted), np.concatenate(content.labels)
    images, boxes, sizes = np.concatenate(content.images), np.concatenate(content.boxes), np.concatenate(content.sizes)
    if not wanted.any():
        raise DataError(f"{path}: no line is of the split '{files.member}'; check data.train.split and data.val.split")
    repairs: dict[str, list[str]] = {BAD_LINES: [f"line {line}" for line, _ in sorted(faults)]}
    normalized = _are_fractions(boxes[labels >= 0])
    if normalized != columns.fractions and (labels >= 0).any():
        repairs[FRACTIONS if normalized else PIXELS] = [path.name]
    if columns.label is None:
        repairs[NO_CLASSES] = [path.name]
    all_names = list(content.number_of_image)
    rows, row_of = _appearing(images[wanted], len(all_names))
    known = np.zeros((len(all_names), 2))
    usable = np.isfinite(sizes).all(axis=1) & (sizes > 0).all(axis=1) & (sizes < 2**31).all(axis=1)
    known[images[usable][::-1]] = sizes[usable][::-1]  # the first line of an image counts
    label_map, new_labels = _label_map(path, list(content.number_of_class))
    kept = wanted & (labels >= 0)
    names = [all_names[row] for row in rows.tolist()]
    table = build_table(
        source=path,
        image_folder=files.images,
        file_names=names,
        image_ids=np.array(names, np.str_),
        sizes=np.rint(known[rows]).astype(np.int32),
        image_of_box=row_of[images[kept]],
        boxes=boxes[kept],
        labels=new_labels[labels[kept]],
        label_map=label_map,
        crowd=np.concatenate(content.crowd)[kept],
        difficult=np.concatenate(content.difficult)[kept],
        normalized=normalized,
        repairs=repairs,
    )
    return replace(table, image_ids=table.file_names)


def _are_fractions(boxes: NDArray[np.float64]) -> bool:
    """Whether boxes [N, 4] lie between 0 and 1, apart from a few that are wrong or extend beyond their image."""
    finite = boxes[np.isfinite(boxes).all(axis=1)]
    return len(finite) > 0 and float(np.mean(((finite > -0.1) & (finite < 1.1)).all(axis=1))) > 0.95


def _appearing(images: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images that appear, in order of appearance; and the place of each of `count` images among them."""
    numbers, first = np.unique(images, return_index=True)
    rows = numbers[np.argsort(first)]
    place = np.full(count, -1, np.int64)
    place[rows] = np.arange(len(rows))
    return rows, place


def _label_map(path: Path, names: list[str]) -> tuple[LabelMap, NDArray[np.int64]]:
    """The classes, and the label of each of `names`."""
    shown = _display_names(path)
    cleaned = [clean_name(shown.get(name, name)) for name in names]
    listed = [clean_name(row[0]) for row in _class_rows(path.with_name("classes.csv"))]
    listed = list(dict.fromkeys(listed)) if set(cleaned) <= set(listed) else []
    classes = tuple(listed) or ordered_names(cleaned)
    label_of = {name: label for label, name in enumerate(classes)}
    return LabelMap(classes, tuple(range(len(classes)))), np.array([label_of[name] for name in cleaned], np.int64)


def _class_rows(path: Path) -> list[list[str]]:
    """The lines name,id of a file of classes in the order of the ids; none without such a file."""
    rows = [row for row in first_rows(path, 100_000) if len(row) >= 2]
    rows = [row for row in rows if row[1].isdecimal() and len(row[1]) <= MOST_DIGITS]  # without a header
    return sorted(rows, key=lambda row: int(row[1]))


def _display_names(path: Path) -> dict[str, str]:
    """Name of each class code in the file class-descriptions*.csv beside an Open Images file."""
    described = sorted(path.parent.glob("class-descriptions*.csv"))
    return {row[0]: row[1] for file in described[:1] for row in first_rows(file, 100_000) if len(row) == 2}
