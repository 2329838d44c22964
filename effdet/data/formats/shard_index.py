"""Reader and writer of the index of shards: one file beside the tar files with the whole table of a split.

An index is an npz archive of plain arrays. The images in the shards are read by `data/shard_store.py`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from effdet.data.formats.shard_columns import Columns, check_columns, single
from effdet.data.formats.split_files import SplitFiles
from effdet.data.image_table import ImageTable, Table
from effdet.data.label_map import LabelMap
from effdet.data.shard_store import ShardAddress, ShardFolder, ShardStore
from effdet.errors import DataError
from effdet.files import atomic_write
from effdet.types import Task

INDEX_SUFFIX = ".index.npz"
VERSION = 1

_CONTENT = {"detection": "images with boxes", "classification": "images with a class each"}
_STORE_COLUMNS = ("shards", "starts", "lengths", "checksums", "members")


def find_shards(path: Path) -> dict[str, SplitFiles]:
    """The splits of shards in a folder: NAME.index.npz."""
    indexes = sorted(path.glob(f"*{INDEX_SUFFIX}")) if path.is_dir() else []
    return {index.name.removesuffix(INDEX_SUFFIX): SplitFiles(index, path) for index in indexes}


def read_shards_split(table: type[Table], files: SplitFiles) -> Table:
    """Table of the shards of an index in a folder; see `read_shards`."""
    return read_shards(table, ShardFolder(files.images), files.annotations.name.removesuffix(INDEX_SUFFIX))


def task_of_shards(files: SplitFiles) -> Task:
    """The task that shards are written for.

    Raises:
        DataError: the file is no index of shards.
    """
    _, _, task = _opened(str(files.annotations), ShardFolder(files.images).content(files.annotations.name))
    return "classification" if task == "classification" else "detection"


def read_shards(table: type[Table], location: ShardFolder | ShardAddress, name: str) -> Table:
    """Table of shards.

    Args:
        table: `Annotations` or `ImageLabels`.
        location: where shards and index are.
        name: name of the index without its suffix, such as train.

    Raises:
        DataError: the index is missing, no such index, of another version or task, or does not fit the shards.
    """
    columns, store = _read_index(location, name, table.task)
    labels: dict[str, Any] = {column: columns[column] for column in table.columns}
    return table(
        source=Path(str(location), f"{name}{INDEX_SUFFIX}"),
        image_folder=Path(str(location)),
        file_names=columns["file_names"],
        label_map=LabelMap(tuple(columns["class_names"].tolist()), tuple(columns["category_ids"].tolist())),
        store=store,
        **labels,
    )


def write_index(path: Path, table: ImageTable, shard_sizes: list[int]) -> None:
    """Writes the index of a table whose images are in shards.

    Args:
        path: the index, ending in `INDEX_SUFFIX`.
        table: the table.
        shard_sizes: bytes of every shard.
    """
    assert table.store is not None
    columns: dict[str, Any] = {
        "version": VERSION,
        "task": table.task,
        "shard_names": table.store.names,
        "shard_sizes": np.array(shard_sizes, np.int64),
        "class_names": np.array(table.label_map.names, np.str_),
        "category_ids": np.array(table.label_map.category_ids, np.int64),
        "file_names": table.file_names,
        **{column: getattr(table.store, column) for column in _STORE_COLUMNS},
        **{column: getattr(table, column) for column in table.columns},
    }
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **columns)


def _read_index(location: ShardFolder | ShardAddress, name: str, task: Task) -> tuple[Columns, ShardStore]:
    """The columns of an index for `task`, and the store of its images, once the sizes of the shards are checked."""
    where = f"{location}/{name}{INDEX_SUFFIX}"
    columns, version, written_for = _opened(where, location.content(f"{name}{INDEX_SUFFIX}"))
    if version != VERSION:
        raise DataError(
            f"{where}: the index is of version {version}, expected {VERSION}; write the shards again with this version "
            f"of the package"
        )
    if written_for not in _CONTENT:
        raise DataError(f"{where}: the index is damaged: its task is {written_for[:80]!r}; write the shards again")
    if written_for != task:
        raise DataError(
            f"{where}: the shards hold {_CONTENT[written_for]}, expected {_CONTENT[task]}; choose a "
            f"recipe of task: {written_for}, or other shards"
        )
    columns.setdefault("difficult", np.zeros(columns.get("labels", np.empty(0)).shape, np.bool_))  # older ones lack it
    try:
        columns = check_columns(columns, task)
    except ValueError as error:
        raise DataError(f"{where}: the index is damaged: {error}; write the shards again") from None
    names = tuple(columns["shard_names"].tolist())
    for shard, size, known in zip(names, location.sizes(names), columns["shard_sizes"].tolist(), strict=True):
        if size is not None and size != known:
            fault = "cut off" if size < known else "of another data set"
            raise DataError(
                f"{location}/{shard}: the shard has {size} bytes, by the index {known}; it is {fault} or was changed, "
                f"copy shards and index again from the same place"
            )
    return columns, ShardStore(location, names, **{column: columns[column] for column in _STORE_COLUMNS})


def _opened(where: str, content: bytes) -> tuple[Columns, int, str]:
    """The columns of an index as they are, its version, and the task that it is written for."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive}
        columns = {name: column for name, column in columns.items() if isinstance(column, np.ndarray)}
        return columns, single(columns, "version", "iu"), single(columns, "task", "U")
    except Exception:  # a damaged archive fails in a dozen ways
        raise DataError(f"{where}: not a whole index of shards; copy it again, or write the shards again") from None
