"""Reader and writer of the index of shards: one file beside the tar files with the whole table of a part of a data set.

An index is an npz archive of plain arrays. The bytes of the images are the business of `data/shards.py`.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations, LabelMap
from effdet.data.formats.classes import match_classes
from effdet.data.labels import ImageLabels
from effdet.data.shard_store import ShardAddress, ShardFolder, ShardStore
from effdet.errors import DataError
from effdet.files import atomic_write
from effdet.types import Task

INDEX_SUFFIX = ".index.npz"
VERSION = 1
Columns = dict[str, NDArray[Any]]


_HOLDS = {"detection": "images with boxes", "classification": "images with a class each"}
_OF_BOXES = ("image_ids", "sizes", "offsets", "boxes", "crowd", "areas")
_OF_STORE = ("shards", "starts", "lengths", "checksums", "members")


def read_shards(place: ShardFolder | ShardAddress, part: str, label_map: LabelMap | None = None) -> Annotations:
    """Table of shards of images with boxes.

    Args:
        place: where shards and index lie.
        part: which of the indexes there, such as train.
        label_map: classes that the labels must follow, matched by name; None takes those of the shards.

    Raises:
        DataError: the index is missing, no such index, of another version or task, does not fit the shards, or has
            boxes of a class that `label_map` lacks.
    """
    columns, store = _read_index(place, part, "detection")
    own_map, labels = _label_map(columns), columns["labels"]
    if label_map is not None:
        label_of = {name: label for label, name in enumerate(label_map.names)}
        new = np.array([label_of.get(name, -1) for name in own_map.names], np.int64)
        labels = new[labels]
        if (labels < 0).any():
            name = own_map.names[columns["labels"][labels < 0][0]]
            raise DataError(
                f"{place}/{part}{INDEX_SUFFIX}: the class '{name}' is annotated but is not among the classes of the "
                f"model; add it to the training set or write the shards without its boxes"
            )
    return Annotations(
        source=Path(str(place), f"{part}{INDEX_SUFFIX}"),
        image_folder=Path(str(place)),
        file_names=columns["file_names"],
        image_ids=columns["image_ids"],
        sizes=columns["sizes"],
        offsets=columns["offsets"],
        boxes=columns["boxes"],
        labels=labels,
        crowd=columns["crowd"],
        areas=columns["areas"],
        label_map=label_map.in_ids_of(own_map) if label_map else own_map,
        store=store,
    )


def read_labelled_shards(
    place: ShardFolder | ShardAddress, part: str, label_map: LabelMap | None = None
) -> ImageLabels:
    """Table of shards of images with a class each; see `read_shards`."""
    columns, store = _read_index(place, part, "classification")
    own_map, labels = _label_map(columns), columns["labels"]
    if label_map is not None:
        found = [own_map.names[label] for label in np.unique(labels)]
        label_map, label_of = match_classes(Path(f"{part}{INDEX_SUFFIX}"), found, label_map)
        labels = np.array([label_of.get(name, -1) for name in own_map.names], np.int64)[labels]
    return ImageLabels(
        source=Path(str(place), f"{part}{INDEX_SUFFIX}"),
        image_folder=Path(str(place)),
        file_names=columns["file_names"],
        labels=labels,
        label_map=label_map or own_map,
        store=store,
    )


def write_index(path: Path, table: Annotations | ImageLabels, shard_sizes: list[int]) -> None:
    """Writes the index of a table whose images lie in shards.

    Args:
        path: the index, ending in `INDEX_SUFFIX`.
        table: the table.
        shard_sizes: bytes of every shard.
    """
    assert table.store is not None
    task: Task = "detection" if isinstance(table, Annotations) else "classification"
    columns: dict[str, Any] = {
        "version": VERSION,
        "task": task,
        "shard_names": table.store.names,
        "shard_sizes": np.array(shard_sizes, np.int64),
        "class_names": np.array(table.label_map.names, np.str_),
        "category_ids": np.array(table.label_map.category_ids, np.int64),
        "file_names": table.file_names,
        "labels": table.labels,
        **{column: getattr(table.store, column) for column in _OF_STORE},
    }
    if isinstance(table, Annotations):
        columns |= {column: getattr(table, column) for column in _OF_BOXES}
    with atomic_write(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, **columns)


def _read_index(place: ShardFolder | ShardAddress, part: str, task: Task) -> tuple[Columns, ShardStore]:
    """The columns of an index for `task`, and the store of its images, whose shards are as large as they should be."""
    where = f"{place}/{part}{INDEX_SUFFIX}"
    columns = _columns(where, place.content(f"{part}{INDEX_SUFFIX}"))
    version, found = int(columns["version"]), str(columns["task"])
    if version != VERSION:
        raise DataError(
            f"{where}: the index is of version {version}, expected {VERSION}; write the shards again with this version "
            f"of the package"
        )
    if found != task:
        raise DataError(
            f"{where}: the shards hold {_HOLDS.get(found, found)}, expected {_HOLDS[task]}; choose a recipe of "
            f"task: {found}, or other shards"
        )
    names = tuple(columns["shard_names"].tolist())
    for name, size, known in zip(names, place.sizes(names), columns["shard_sizes"].tolist(), strict=True):
        if size is not None and size != known:
            fault = "cut off" if size < known else "of another data set"
            raise DataError(
                f"{place}/{name}: the shard has {size} bytes, by the index {known}; it is {fault} or was changed, "
                f"copy shards and index again from the same place"
            )
    return columns, ShardStore(place, names, **{column: columns[column] for column in _OF_STORE})


def _columns(where: str, content: bytes) -> Columns:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            columns = dict(archive)
    except Exception:  # a damaged archive fails in a dozen ways
        columns = {}
    if not {"version", "task"} <= columns.keys():
        raise DataError(f"{where}: not a whole index of shards; copy it again, or write the shards again")
    return columns


def _label_map(columns: Columns) -> LabelMap:
    return LabelMap(tuple(columns["class_names"].tolist()), tuple(columns["category_ids"].tolist()))
