"""All splits of a data set by its own names, test splits too, with the same classes in each.

A training reads its two splits with `effdet.data.formats.read_tables`; writing a data set is in `convert.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from effdet.config import DataConfig, DetectionData
from effdet.data.formats import FORMATS
from effdet.data.formats.classes import follow_classes, ordered_names
from effdet.data.formats.image_files import require_images
from effdet.data.formats.location import UnknownFormatError, find_format
from effdet.data.formats.shard_index import task_of_shards
from effdet.data.formats.table import repair_boxes
from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.files import full_path
from effdet.text import count_of
from effdet.types import Task

_ROLES = {"train": "train(ing|val)?|default", "val": "val(id|idation|idate)?", "test": "test(ing)?"}


class DataSet(NamedTuple):
    """A data set as it was read.

    Attributes:
        format: name of the format.
        tables: the splits by their names: those for training, validation and test first.
        names: the file names of the images of each split, without the folders that all of them have in common.
        notes: what was left out besides the repairs of the tables.
    """

    format: str
    tables: dict[str, Any]
    names: dict[str, list[str]]
    notes: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """A line for each split: images, objects and classes."""
        width = max(map(len, self.tables))
        return [f"  {split:{width}}  {describe_table(table)}" for split, table in self.tables.items()]


def describe_table(table: ImageTable) -> str:
    """Such as "12 images, 40 objects of 3 classes"."""
    counts = ", ".join(count_of(count, what.removesuffix("s")) for what, count in table.counts().items())
    return f"{counts} of {count_of(len(table.label_map), 'class', 'classes')}"


def task_at(path: Path) -> Task:
    """The task of the data set at a path: detection if it has a format with boxes.

    Raises:
        DataError: there is no such path, or no data set of a known format.
    """
    refusal: DataError | None = None
    for task, formats in FORMATS.items():
        try:
            name, files = find_format(path, formats)
        except UnknownFormatError as error:
            refusal = refusal or error
        else:
            return task_of_shards(next(iter(files.values()))) if name == "shards" else task
    assert refusal is not None
    raise refusal


def read_data_set(data: DataConfig, only: str | None = None) -> DataSet:
    """The splits of the data set at `data.root`, repaired and with the classes of the recipe.

    Splits whose images are those of two or more others, such as trainval of VOC, are left out and noted.

    Args:
        data: section `data` of a recipe; where it says nothing, names of splits and classes are the data set's own.
        only: name of the only split to read.

    Raises:
        DataError: there is no data set, no such split, or a file of it cannot be used.
    """
    assert data.root is not None
    formats = FORMATS[data.task]
    root = full_path(data.root)
    name, files = find_format(root, formats, data.format)
    if only is not None and only not in files:
        raise DataError(f"{root}: no split '{only}'; the {name} data set has {', '.join(files)}")
    splits = [split for split in sorted(files, key=_by_role) if only in (None, split)]
    if data.train.images is not None and len(splits) == 1:
        files = {splits[0]: files[splits[0]]._replace(images=full_path(data.train.images))}
    tables: dict[str, Any] = {split: formats[name].read(files[split]) for split in splits}
    for table in tables.values():
        require_images(table)
    joined = _unions(tables)
    tables = {split: table for split, table in tables.items() if split not in joined}
    notes = tuple(f"split {split} left out: its images are those of {' and '.join(joined[split])}" for split in joined)
    if isinstance(data, DetectionData):
        tables = {split: repair_boxes(table, data.crowd_as_objects) for split, table in tables.items()}
    tables = same_classes(tables, data)
    return DataSet(name, tables, {split: short_names(table) for split, table in tables.items()}, notes)


def same_classes(tables: Mapping[str, ImageTable], data: DataConfig) -> dict[str, Any]:
    """The tables with the classes of all of them, renamed, selected and ordered as the recipe says."""
    union = _united([table.label_map for table in tables.values()])
    whole = {split: follow_classes(table, label_map=union) for split, table in tables.items()}
    if data.classes is None and not data.rename:
        return whole
    label_map: LabelMap | None = None
    followed: dict[str, Any] = {}
    for split, table in whole.items():
        chosen = follow_classes(table, data.classes, data.rename, label_map)
        followed[split], label_map = chosen, chosen.label_map
    return followed


def short_names(table: ImageTable) -> list[str]:
    """File names with slashes, without the folder that all have in common; those outside of the image folder bare."""
    names = [name.replace("\\", "/") if os.sep == "\\" else name for name in table.file_names.tolist()]
    names = [os.path.basename(name) if os.path.isabs(name) or name.startswith("../") else name for name in names]
    folders = [os.path.dirname(name) for name in names]
    common = os.path.commonpath(folders) if all(folders) else ""
    return [name[len(common) :].lstrip("/") for name in names]


def pool(data_set: DataSet) -> tuple[Any, list[str]]:
    """One table of the images of all splits, each image once, and their short names.

    Raises:
        DataError: the images are in tar files.
    """
    whole = joined_tables(list(data_set.tables.values()))
    names = [name for split in data_set.tables for name in data_set.names[split]]
    _, first = np.unique(whole.file_names, return_index=True)
    rows = np.sort(first)
    return whole.subset(rows), [names[row] for row in rows.tolist()]


def joined_tables(tables: Sequence[Any]) -> Any:
    """One table of the images of several with the same classes; its file names are absolute paths.

    Raises:
        DataError: the images of one are in tar files.
    """
    for table in tables:
        if table.store is not None:
            raise DataError(
                f"{table.source}: the images are in tar files; write them as files first: effdet convert IN OUT --to "
                f"{'coco' if table.task == 'detection' else 'folders'}"
            )
    first = tables[0]
    columns: dict[str, Any] = {}
    for column in first.columns:
        arrays = [getattr(table, column) for table in tables]
        if column == "image_ids" and len({array.dtype.kind for array in arrays}) > 1:
            arrays = [array.astype(np.str_) for array in arrays]
        columns[column] = np.concatenate(arrays)
    if "offsets" in columns:
        sizes = np.concatenate([np.diff(table.offsets) for table in tables])
        columns["offsets"] = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    paths = [os.path.abspath(table.path(row)) for table in tables for row in range(len(table))]
    return replace(first, file_names=np.array(paths, np.str_), repairs={}, places={}, **columns)


def split_role(split: str) -> str | None:
    """train, val or test for the names that splits for these usually have, years included; None for others."""
    fitting = (role for role, names in _ROLES.items() if re.fullmatch(rf"({names})([-_ ]?set)?[-_]?\d*", split.lower()))
    return next(fitting, None)


def _by_role(split: str) -> int:
    roles = [*_ROLES, None]
    return roles.index(split_role(split))


def _unions(tables: Mapping[str, ImageTable]) -> dict[str, list[str]]:
    """Splits whose images are those of two or more others: name -> names of the others."""
    paths = {split: {str(table.path(row)) for row in range(len(table))} for split, table in tables.items()}
    unions = {}
    for split, own in paths.items():
        inner = [other for other, theirs in paths.items() if other != split and theirs < own]
        if len(inner) > 1 and set().union(*(paths[other] for other in inner)) == own:
            unions[split] = inner
    return unions


def _united(label_maps: Sequence[LabelMap]) -> LabelMap:
    """The classes of all; names that differ in case alone from an earlier one are not added."""
    if all(label_map == label_maps[0] for label_map in label_maps):
        return label_maps[0]
    ids: dict[str, int] = {}
    known: set[str] = set()  # without regard to case
    for number, label_map in enumerate(label_maps):
        for name, category_id in zip(label_map.names, label_map.category_ids, strict=True):
            if number == 0 or name.casefold() not in known:
                ids.setdefault(name, category_id)
                known.add(name.casefold())
    names = tuple(ids)
    if all(label_map.names == ordered_names(label_map.names) for label_map in label_maps):
        names = ordered_names(names)
    if len(set(ids.values())) == len(ids):  # ids of their own, which all splits agree on
        names = tuple(sorted(ids, key=ids.__getitem__))
        return LabelMap(names, tuple(ids[name] for name in names))
    return LabelMap(names, tuple(range(1, len(names) + 1)))
