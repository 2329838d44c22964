"""The columns of an index of shards as they must be: names, types, lengths and ranges, checked before they are used.

The index is read and written in `shard_index.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.formats.image_files import leads_out
from effdet.data.formats.image_names import plain_name
from effdet.types import Task

Columns = dict[str, NDArray[Any]]


class _Column(NamedTuple):
    """What a column must be: its lengths by their letters, the kinds of type that are read, and the type it gets."""

    shape: str  # S shards, K classes, I images, P images + 1, N objects, or a digit
    kinds: str  # of numpy's types
    dtype: Any


_INTEGER, _TEXT, _FLOAT, _MARK = ("iu", np.int64), ("U", None), ("fiu", np.float64), ("b", np.bool_)
_ALL = {
    "shard_names": _Column("S", *_TEXT),
    "shard_sizes": _Column("S", *_INTEGER),
    "class_names": _Column("K", *_TEXT),
    "category_ids": _Column("K", *_INTEGER),
    "file_names": _Column("I", *_TEXT),
    "shards": _Column("I", *_INTEGER),
    "starts": _Column("I", *_INTEGER),
    "lengths": _Column("I", *_INTEGER),
    "checksums": _Column("I", "iu", np.uint32),
    "members": _Column("I", *_TEXT),
}
_OF_TASK: dict[Task, dict[str, _Column]] = {
    "detection": {
        "image_ids": _Column("I", "iuU", None),
        "sizes": _Column("I2", "iu", np.int32),
        "offsets": _Column("P", *_INTEGER),
        "boxes": _Column("N4", "fiu", np.float32),
        "labels": _Column("N", *_INTEGER),
        "crowd": _Column("N", *_MARK),
        "areas": _Column("N", *_FLOAT),
        "difficult": _Column("N", *_MARK),
    },
    "classification": {"labels": _Column("I", *_INTEGER)},
}


def check_columns(columns: Columns, task: Task) -> Columns:
    """The columns of an index for a task in the types of the tables; other columns are left out.

    Names of images that would lead out of a folder lose what leads out.

    Raises:
        ValueError: a column is missing or is not what it must be; the message says which.
    """
    lengths: dict[str, int] = {}
    checked = {name: _typed(name, columns, column, lengths) for name, column in (_ALL | _OF_TASK[task]).items()}
    _check_classes(checked)
    _check_places(checked)
    if task == "detection":
        _check_offsets(checked["offsets"], len(checked["labels"]))
        _check_range("sizes", checked["sizes"], 0, 2**31 - 1)
        _check_areas(checked["areas"])
        if len(np.unique(checked["image_ids"])) < len(checked["image_ids"]):
            raise ValueError("two images have the same id")
    checked["file_names"] = _inner_names(checked["file_names"])
    return checked


def single(columns: Mapping[str, NDArray[Any]], name: str, kind: str) -> Any:
    """The one value of a column.

    Raises:
        ValueError: the column is missing, or holds something else.
    """
    value = columns.get(name)
    if value is None or value.ndim or value.dtype.kind not in kind:
        raise ValueError(f"'{name}' is not a single value")
    return value.item()


def _typed(name: str, columns: Columns, wanted: _Column, lengths: dict[str, int]) -> NDArray[Any]:
    """A column in the type that it gets; the lengths of those before it are known in `lengths`."""
    if name not in columns:
        raise ValueError(f"the column '{name}' is missing")
    column = columns[name]
    if column.dtype.kind not in wanted.kinds or column.ndim != len(wanted.shape):
        raise ValueError(f"the column '{name}' is {column.dtype} {list(column.shape)}")
    for letter, length in zip(wanted.shape, column.shape, strict=True):
        if letter == "P":
            letter, length = "I", length - 1
        expected = int(letter) if letter.isdecimal() else lengths.setdefault(letter, length)
        if length != expected:
            raise ValueError(f"the column '{name}' has {column.shape[0]} rows, which do not fit the other columns")
    if wanted.dtype is None:
        return column
    limits = np.iinfo(wanted.dtype) if np.dtype(wanted.dtype).kind in "iu" else None
    if limits is not None:
        _check_range(name, column, int(limits.min), int(limits.max))
    with np.errstate(over="ignore", invalid="ignore"):
        return column.astype(wanted.dtype, copy=False)


def _check_range(name: str, column: NDArray[Any], low: int, high: int) -> None:
    if column.size and not low <= int(column.min()) <= int(column.max()) <= high:
        raise ValueError(f"the column '{name}' has {int(column.min())} to {int(column.max())}, beyond {low} to {high}")


def _check_classes(columns: Columns) -> None:
    names, ids = columns["class_names"].tolist(), columns["category_ids"]
    if not names or len(set(names)) < len(names) or len(np.unique(ids)) < len(ids):
        raise ValueError("its classes are none, or two have the same name or id")
    _check_range("labels", columns["labels"], 0, len(names) - 1)
    for name in ("class_names", "shard_names", "file_names", "members", "image_ids"):
        if name in columns and columns[name].dtype.kind == "U":
            _check_text(name, columns[name])


def _check_text(name: str, column: NDArray[Any]) -> None:
    """Checks that a column of texts has characters alone; file names may have bytes that are none."""
    try:
        "".join(column.tolist()).encode(errors="strict" if name == "class_names" else "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"the column '{name}' has half of a character") from None


def _check_places(columns: Columns) -> None:
    """Checks that every image is in a shard, and every shard beside the index."""
    names, sizes = columns["shard_names"].tolist(), columns["shard_sizes"]
    for name in names:
        if name in ("", ".", "..") or any(sign in name for sign in "/\\\0:"):
            raise ValueError(f"the shard {name[:80]!r} is not beside the index")
    _check_range("shards", columns["shards"], 0, len(names) - 1)
    _check_range("starts", columns["starts"], 0, 2**61)
    _check_range("lengths", columns["lengths"], 1, 2**61)
    if (columns["starts"] + columns["lengths"] > sizes[columns["shards"]]).any():
        raise ValueError("an image lies beyond the end of its shard")


def _check_offsets(offsets: NDArray[np.int64], objects: int) -> None:
    if offsets[0] != 0 or offsets[-1] != objects or (np.diff(offsets) < 0).any():
        raise ValueError(f"the column 'offsets' does not divide {objects} objects among the images")


def _check_areas(areas: NDArray[np.float64]) -> None:
    if not (np.isfinite(areas) & (areas >= 0)).all():
        raise ValueError("the column 'areas' has numbers that are no areas")


def _inner_names(names: NDArray[Any]) -> NDArray[Any]:
    outer = [row for row, name in enumerate(names.tolist()) if leads_out(name)]
    if outer:
        names = names.copy()
        names[outer] = [plain_name(names[row]) or "image" for row in outer]
    return names
