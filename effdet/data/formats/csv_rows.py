"""The lines of a CSV file of boxes, brought into one form: one line per box, each with all its columns.

What the fields say is read in `boxes_csv.py`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from effdet.data.formats.csv_columns import Columns
from effdet.plain_data import parse_json

SOLE_CLASS = "object"  # of files without a column of classes

Rows = Iterator[tuple[int, list[str]]]  # line numbers with fields
Faults = list[tuple[int, str]]  # line numbers with what is wrong


def box_rows(rows: Rows, columns: Columns, faults: Faults) -> tuple[Rows, Columns]:
    """The lines without header and empty ones, one for each box, and the columns they have; others go to `faults`."""
    rows = _regular_rows(rows, columns, faults)
    if columns.form != "list":
        return rows, columns
    return _listed_boxes(rows, columns, faults), _after_listing(columns)


def _regular_rows(rows: Rows, columns: Columns, faults: Faults) -> Rows:
    """The lines of a file that have its number of columns, without its header; others are added to `faults`.

    Columns that are missing at the end of a line are empty.
    """
    header, count = columns.header, columns.total
    for line, fields in rows:
        if len(fields) != count or not fields[columns.image].strip():
            if not any(map(str.strip, fields)):
                continue
            if any(map(str.strip, fields[count:])):
                faults.append((line, f"{len(fields)} columns, the file has {count}"))
                continue
            fields = [*fields, *[""] * (count - len(fields))][:count]
        if header:
            header = False
            continue
        yield line, fields


def _after_listing(columns: Columns) -> Columns:
    """The columns of the lines that `_listed_boxes` makes: class and box stand behind the others."""
    count = columns.total
    box = (count + 1, count + 2, count + 3, count + 4)
    return columns._replace(total=count + 5, label=count, form="size", box=box)


def _listed_boxes(rows: Rows, columns: Columns, faults: Faults) -> Rows:
    """A line for each box of lines with a list of classes and a list of boxes."""
    for line, fields in rows:
        text = fields[columns.box[0]].strip()
        boxes = _parsed(text)
        if not isinstance(boxes, (list, tuple)):
            faults.append((line, f"'{text[:40]}' is not a list of boxes"))
            continue
        if boxes and not isinstance(boxes[0], (list, tuple)):
            boxes = [boxes]
        names = [SOLE_CLASS] if columns.label is None else _names(fields[columns.label].strip())
        names = names * len(boxes) if len(names) == 1 else names
        if len(names) != len(boxes) or any(not isinstance(box, (list, tuple)) or len(box) != 4 for box in boxes):
            expected = "expected a class for each [x, y, width, height]"
            faults.append((line, f"{len(boxes)} boxes and {len(names)} classes; {expected}"))
            continue
        if not boxes:
            yield line, [*fields, "", "", "", "", ""]
        for name, box in zip(names, boxes, strict=True):
            yield line, [*fields, name, *map(str, box)]


def _parsed(text: str) -> Any:
    """The list that a text is in JSON or Python; an empty one for no text, None for other text."""
    if not text or text in ("None", "null"):
        return []
    try:
        return parse_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _names(text: str) -> list[str]:
    """The class names of a list, or of a text that is one name."""
    names = _parsed(text)
    return [str(name).strip() for name in names] if isinstance(names, (list, tuple)) else [text]
