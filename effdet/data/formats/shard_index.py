"""Reader and writer of the index of shards: one file beside the tar files with the whole table of a split.

An index is an npz archive of plain arrays. The images in the shards are read by `data/shard_store.py`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.config import DataConfig
from effdet.data.formats.classes import match_classes
from effdet.data.formats.location import root_folder, split_section
from effdet.data.image_table import ImageTable, Table
from effdet.data.label_map import LabelMap
from effdet.data.shard_store import ShardAddress, ShardFolder, ShardStore
from effdet.errors import DataError
from effdet.files import atomic_write
from effdet.types import Part, Task

INDEX_SUFFIX = ".index.npz"
VERSION = 1

_CONTENT = {"detection": "images with boxes", "classification": "images with a class each"}
_STORE_COLUMNS = ("shards", "starts", "lengths", "checksums", "members")


def read_shards_split(table: type[Table], data: DataConfig, split: Part, label_map: LabelMap | None = None) -> Table:
    """Table of a split: SPLIT.index.npz in the root or at `data.url`; see `read_table`."""
    name = split_section(data, split).split or split
    if data.url is not None:
        return read_shards(table, ShardAddress(data.url), name, label_map)
    root = root_folder(data, None, "data.url=ADDRESS")
    assert root is not None
    path = root / f"{name}{INDEX_SUFFIX}"
    if not path.is_file():
        there = ", ".join(sorted(path.name.removesuffix(INDEX_SUFFIX) for path in root.glob(f"*{INDEX_SUFFIX}")))
        hint = f"of {there}" if there else "of a folder that `effdet shards` has written"
        raise DataError(f"{path}: no such index of shards; set data.{split}.split=NAME to one {hint}")
    return read_shards(table, ShardFolder(root), name, label_map)


def read_shards(
    table: type[Table], location: ShardFolder | ShardAddress, name: str, label_map: LabelMap | None = None
) -> Table:
    """Table of shards.

    Args:
        table: `Annotations` or `ImageLabels`.
        location: where shards and index are.
        name: name of the index without its suffix, such as train.
        label_map: classes that the labels must follow, matched by name; None uses those of the shards.

    Raises:
        DataError: the index is missing, no such index, of another version or task, does not fit the shards, or has
            labels of a class that `label_map` lacks.
    """
    columns, store = _read_index(location, name, table.task)
    own_map = LabelMap(tuple(columns["class_names"].tolist()), tuple(columns["category_ids"].tolist()))
    source = Path(str(location), f"{name}{INDEX_SUFFIX}")
    if label_map is not None:
        label_map, new_labels = _MATCH[table.task](f"{location}/{source.name}", columns["labels"], own_map, label_map)
        columns["labels"] = new_labels[columns["labels"]]
    labels: dict[str, Any] = {column: columns[column] for column in table.columns}
    return table(
        source=source,
        image_folder=Path(str(location)),
        file_names=columns["file_names"],
        label_map=label_map or own_map,
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


def _match_objects(
    index: str, labels: NDArray[np.int64], own_map: LabelMap, label_map: LabelMap
) -> tuple[LabelMap, NDArray[np.int64]]:
    """`label_map` with the category ids of the shards, and its label for each of theirs, -1 for unused ones."""
    label_of = {name: label for label, name in enumerate(label_map.names)}
    new_labels = np.array([label_of.get(name, -1) for name in own_map.names], np.int64)
    unknown = new_labels[labels] < 0
    if unknown.any():
        name = own_map.names[labels[unknown][0]]
        raise DataError(
            f"{index}: the class '{name}' is annotated but is not among the classes of the model; "
            f"add it to the training set or write the shards without its boxes"
        )
    return label_map.in_ids_of(own_map), new_labels


def _match_images(
    index: str, labels: NDArray[np.int64], own_map: LabelMap, label_map: LabelMap
) -> tuple[LabelMap, NDArray[np.int64]]:
    """`label_map`, and its label for each of the shards', -1 for unused ones."""
    used = [own_map.names[label] for label in np.unique(labels)]
    label_map, label_of = match_classes(index, used, label_map)
    return label_map, np.array([label_of.get(name, -1) for name in own_map.names], np.int64)


_MATCH = {"detection": _match_objects, "classification": _match_images}


def _read_index(
    location: ShardFolder | ShardAddress, name: str, task: Task
) -> tuple[dict[str, NDArray[Any]], ShardStore]:
    """The columns of an index for `task`, and the store of its images, once the sizes of the shards are checked."""
    where = f"{location}/{name}{INDEX_SUFFIX}"
    columns = _columns(where, location.content(f"{name}{INDEX_SUFFIX}"))
    version, written_for = int(columns["version"]), str(columns["task"])
    if version != VERSION:
        raise DataError(
            f"{where}: the index is of version {version}, expected {VERSION}; write the shards again with this version "
            f"of the package"
        )
    if written_for != task:
        raise DataError(
            f"{where}: the shards hold {_CONTENT.get(written_for, written_for)}, expected {_CONTENT[task]}; choose a "
            f"recipe of task: {written_for}, or other shards"
        )
    names = tuple(columns["shard_names"].tolist())
    for shard, size, known in zip(names, location.sizes(names), columns["shard_sizes"].tolist(), strict=True):
        if size is not None and size != known:
            fault = "cut off" if size < known else "of another data set"
            raise DataError(
                f"{location}/{shard}: the shard has {size} bytes, by the index {known}; it is {fault} or was changed, "
                f"copy shards and index again from the same place"
            )
    return columns, ShardStore(location, names, **{column: columns[column] for column in _STORE_COLUMNS})


def _columns(where: str, content: bytes) -> dict[str, NDArray[Any]]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            columns = dict(archive)
    except Exception:  # a damaged archive fails in a dozen ways
        columns = {}
    if not {"version", "task"} <= columns.keys():
        raise DataError(f"{where}: not a whole index of shards; copy it again, or write the shards again")
    return columns
