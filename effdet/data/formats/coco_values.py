"""Ids and numbers of COCO files, which some tools write as texts or as 1.0 for 1.

Which values a file must have is checked in `coco.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_WHOLE = re.compile(r"[+-]?\d{1,4000}(\.0*)?")  # Python refuses texts that are much longer


class IdLookup:
    """The row of each id of a list, however the id is written where it is referred to.

    1, 1.0 and "1" are one id, unless the list itself has two of them.

    Attributes:
        ids: the ids as in the file.
    """

    def __init__(self, ids: Iterable[Any]) -> None:
        self.ids = list(ids)
        self._exact = {str(own): row for row, own in enumerate(self.ids)}
        self._number: dict[int, int] = {}
        for row, own in enumerate(self.ids):
            number = as_integer(own)
            if number is not None:
                known = self._number.setdefault(number, row)
                self._number[number] = row if known >= 0 and str(self.ids[known]) == str(own) else -1

    def rows_of(self, values: Iterable[Any]) -> list[int]:
        """Row of each id, -1 if it is not in the list."""
        return [self._row(value) for value in values]

    def _row(self, value: Any) -> int:
        row = self._exact.get(str(value))
        if row is not None:
            return row
        number = as_integer(value)
        return -1 if number is None else self._number.get(number, -1)


def id_array(ids: Sequence[Any]) -> NDArray[Any]:
    """Ids [I] for a table: int64 if all are whole numbers of that range, else texts."""
    numbers = [None if isinstance(own, str) else as_integer(own) for own in ids]
    limits = np.iinfo(np.int64)
    whole = [number for number in numbers if number is not None and limits.min <= number <= limits.max]
    return np.array(whole, np.int64) if len(whole) == len(ids) else np.array([str(own) for own in ids], np.str_)


def as_integer(value: Any) -> int | None:
    """The integer that a number or a text stands for; None if it stands for none."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value.strip().partition(".")[0])
    return None


def as_number(value: Any) -> float:
    """The number that a value stands for; NaN if it stands for none."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan
