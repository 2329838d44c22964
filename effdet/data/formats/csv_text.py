"""CSV files as rows of text: encoding, delimiter, quotes and line numbers.

What the columns mean is in `csv_columns.py` (boxes) and `image_list.py` (one class per image).
"""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterator
from pathlib import Path

from effdet.data.formats.annotation_files import first_bytes, read_file
from effdet.errors import DataError

DELIMITERS = (",", ";", "\t")


def read_rows(path: Path) -> tuple[Iterator[tuple[int, list[str]]], str]:
    """The rows of a CSV file with their line numbers, empty ones included, and its delimiter.

    Fields may have blanks at their ends. A byte order mark is left out.

    Raises:
        DataError: the file cannot be read, or is not CSV in UTF-8; also while iterating.
    """
    text = _read_text(path)
    delimiter = delimiter_of(text)
    return _rows(path, text, delimiter), delimiter


def first_rows(path: Path, count: int) -> list[list[str]]:
    """The first rows of a CSV file that are not empty, without blanks; none if it is no such file.

    Only the start of the file is read.
    """
    try:
        start = first_bytes(path, 1 << 20).decode("utf-8-sig", "ignore")
        first = itertools.islice(_rows(path, start, delimiter_of(start)), 2 * count)
        rows = [[field.strip() for field in row] for _, row in first]
    except DataError:
        return []
    return [row for row in rows if any(row)][:count]


def delimiter_of(text: str) -> str:
    """The delimiter that occurs most often, outside of quotes, in the first line that is not empty."""
    line = next((line for line in text[: 1 << 16].splitlines() if line.strip()), "")
    plain = "".join(line.split('"')[::2])
    return max(DELIMITERS, key=plain.count)


def _rows(path: Path, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        for row in lines:
            yield lines.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}: line {lines.line_num}: not a CSV file: {error}; write the list again") from None


def _read_text(path: Path) -> str:
    data = read_file(path, "list of images")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}: line {line} is not UTF-8 text; save the list as a UTF-8 CSV file") from None
