"""The table of formats and the functions that read any of them.

A new format is a file beside this one, a line in `FORMATS` and its name in `data.format` of the recipe.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from effdet.config import ClassificationData, DataConfig, DetectionData
from effdet.data.annotations import Annotations
from effdet.data.formats.boxes_csv import read_boxes_csv
from effdet.data.formats.classes import follow_classes
from effdet.data.formats.coco import read_coco
from effdet.data.formats.coco_layouts import find_coco
from effdet.data.formats.coco_writer import COCO_IMAGES, write_coco
from effdet.data.formats.csv_location import find_boxes_csv
from effdet.data.formats.csv_writer import CSV_IMAGES, write_csv
from effdet.data.formats.folders import find_folders, read_folders
from effdet.data.formats.image_files import require_images
from effdet.data.formats.image_list import find_image_lists, read_image_list
from effdet.data.formats.label_writers import CLASS_FOLDERS, write_folders, write_image_lists
from effdet.data.formats.listing import files_below
from effdet.data.formats.location import Format, LocatedSplit, UnknownFormatError, locate_split, validation_folders
from effdet.data.formats.shard_index import find_shards, read_shards, read_shards_split, task_of_shards
from effdet.data.formats.table import repair_boxes
from effdet.data.formats.voc import find_voc, read_voc
from effdet.data.formats.voc_writer import VOC_IMAGES, write_voc
from effdet.data.formats.yolo import find_yolo, read_yolo
from effdet.data.formats.yolo_writer import YOLO_IMAGES, write_yolo
from effdet.data.image_table import ImageTable
from effdet.data.images import is_image_name
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.shard_store import ShardAddress
from effdet.data.splitting import automatic_fraction, listed_rows, validation_rows
from effdet.errors import DataError
from effdet.files import full_path
from effdet.text import count_of
from effdet.types import Part, Task

# Formats of each task; the first that fits is chosen where `data.format` is 'auto'.
FORMATS: dict[Task, dict[str, Format]] = {
    "detection": {
        "shards": Format(find_shards, partial(read_shards_split, Annotations), own_ids=True),
        "coco": Format(find_coco, read_coco, own_ids=True, write=write_coco, images=COCO_IMAGES),
        "yolo": Format(find_yolo, read_yolo, own_ids=True, write=write_yolo, images=YOLO_IMAGES, file_lists=True),
        "voc": Format(find_voc, read_voc, write=write_voc, images=VOC_IMAGES, file_lists=True),
        "csv": Format(find_boxes_csv, read_boxes_csv, write=write_csv, images=CSV_IMAGES),
    },
    "classification": {
        "shards": Format(find_shards, partial(read_shards_split, ImageLabels), own_ids=True),
        "folders": Format(find_folders, read_folders, write=write_folders, images=CLASS_FOLDERS),
        "csv": Format(find_image_lists, read_image_list, write=write_image_lists, images=CSV_IMAGES),
    },
}
UNANNOTATED = "images in folders for validation that no annotation names left out"  # a cause in the repairs of a table
IN_BOTH = "images to validate on that are trained on too"  # a cause in the repairs of a table
NOT_LISTED = "names in data.val.file_list that are of no training image left out"  # the same
TABLES: dict[Task, type[ImageTable]] = {"detection": Annotations, "classification": ImageLabels}


class Tables(NamedTuple):
    """The tables of a training.

    Attributes:
        train: the images to train on.
        val: the images to validate on; None if there are none.
        split_off: whether `val` is split off the training split by a rule, and not a split of the data set.
        format: name of the format.
        unused: names of the splits that the data set has besides.
    """

    train: Any
    val: Any
    split_off: bool
    format: str
    unused: tuple[str, ...]

    def describe(self) -> str:
        """Format, splits, images, objects and classes in one line."""
        splits = [f"{_count(self.train)} to train on"]
        if self.val is not None:
            how = "split off to validate" if self.split_off else "to validate on"
            splits.append(f"{_count(self.val)} {how}")
        if self.unused:
            splits.append(f"not used: {', '.join(self.unused)}")
        names = self.train.label_map.names
        classes = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        return f"{self.format} data set: {'; '.join(splits)}; {count_of(len(names), 'class', 'classes')}: {classes}"


def read_tables(data: DataConfig) -> Tables:
    """The tables to train and to validate on, with the labels of the training split.

    Without a validation split, some training images are split off, see `data.splitting`.

    Raises:
        DataError: see `read_table`.
    """
    located = _locate(data, "train")
    whole = _read(data, "train", located)
    validation = None if data.val is None or _chosen_by_rule(data) else _locate(data, "val")
    used = {split.name for split in (located, validation) if split is not None}
    others = tuple(name for name in (located.names if located else ()) if name not in used)
    format_name = located.format if located else "shards"
    if data.val is None:
        return Tables(whole, None, False, format_name, others)
    if not _splits_off(data, validation):
        val = _read(data, "val", validation, whole.label_map)
        both = _common_files(whole, val)
        return Tables(whole, val.with_repairs(IN_BOTH, len(both), both), False, format_name, others)
    validating, absent = _validating(data, whole)
    val = replace(whole.subset(np.flatnonzero(validating)), repairs={}, places={})  # shown once, for all
    val = val.with_repairs(NOT_LISTED, len(absent), absent)
    if data.root is not None and not _chosen_by_rule(data):
        unused = _unannotated(full_path(data.root), whole)
        val = val.with_repairs(UNANNOTATED, len(unused), unused)
    return Tables(whole.subset(np.flatnonzero(~validating)), val, True, format_name, others)


@overload
def read_table(data: DetectionData, split: Part, label_map: LabelMap | None = None) -> Annotations: ...
@overload
def read_table(data: ClassificationData, split: Part, label_map: LabelMap | None = None) -> ImageLabels: ...
@overload
def read_table(data: DataConfig, split: Part, label_map: LabelMap | None = None) -> ImageTable: ...
def read_table(data: DataConfig, split: Part, label_map: LabelMap | None = None) -> ImageTable:
    """Table of one split of a data set, by its recipe; docs/data.md shows the formats and layouts.

    Args:
        data: section `data` of the recipe.
        split: train or val.
        label_map: classes that the labels must follow, such as those of the training split or of a model; None uses
            those of the files.

    Raises:
        DataError: a file is missing or is not what it should be, or its classes do not fit `label_map`.
    """
    if data.val is None and split == "val":
        raise DataError("the recipe has no validation split: data.val is null; set data.val.split=NAME")
    validation = None if data.val is None or _chosen_by_rule(data) else _locate(data, "val")
    splits_off = data.val is not None and _splits_off(data, validation)
    if split == "val" and not splits_off:
        return _read(data, "val", validation, label_map)
    whole = _read(data, "train", _locate(data, "train"), label_map)
    if not splits_off:
        return whole
    validating, _ = _validating(data, whole)
    return whole.subset(np.flatnonzero(validating if split == "val" else ~validating))


def task_of_data(sections: Sequence[DataConfig]) -> Task:
    """The task that a data set is for: that of the first section whose formats fit.

    Raises:
        DataError: none fits, which is the error of the first section; or the data set of the one that fits is damaged
            or has no split to train on.
    """
    errors: list[DataError] = []
    for data in sections:
        try:
            located = _locate(data, "train")
        except UnknownFormatError as error:
            errors.append(error)
        else:
            return task_of_shards(located.files) if located and located.format == "shards" else data.task
    raise errors[0]


def _locate(data: DataConfig, part: Part) -> LocatedSplit | None:
    """Where a split is; None for shards at an address, and if the data set has no validation split."""
    return None if data.url is not None else locate_split(data, part, FORMATS[data.task])


def _read(data: DataConfig, part: Part, located: LocatedSplit | None, label_map: LabelMap | None = None) -> ImageTable:
    """The repaired table of a split of the data set itself."""
    table: Any
    if data.url is not None:
        section = data.train if part == "train" else data.val
        name, own_ids = (section and section.split) or part, True
        table, format_name = read_shards(TABLES[data.task], ShardAddress(data.url), name), "shards"
    else:
        assert located is not None
        format_name = located.format
        chosen = FORMATS[data.task][format_name]
        table, own_ids = chosen.read(located.files), chosen.own_ids
    require_images(table)
    if isinstance(data, DetectionData):
        table = repair_boxes(table, data.crowd_as_objects)
    followed: ImageTable = follow_classes(table, data.classes, data.rename, label_map, own_ids)
    return replace(followed, value_range=data.value_range, format=format_name)


def _chosen_by_rule(data: DataConfig) -> bool:
    """Whether the recipe wants a validation split that is split off the training split."""
    return data.val is not None and not (data.val.fraction is None and data.val.file_list is None)


def _splits_off(data: DataConfig, validation: LocatedSplit | None) -> bool:
    """Whether some images of the training split are for validation."""
    return _chosen_by_rule(data) or (validation is None and data.url is None)


def _validating(data: DataConfig, table: ImageTable) -> tuple[NDArray[np.bool_], list[str]]:
    """Which images of the training split are for validation, [I] bool; and the names in a list of them of no image."""
    assert data.val is not None
    if data.val.file_list is not None:
        return listed_rows(table, data.val.file_list)
    return validation_rows(table, data.val.fraction or automatic_fraction(len(table))), []


def _common_files(train: ImageTable, val: ImageTable) -> list[str]:
    """The files of a validation split that are in the training split too."""
    if train.store is not None or val.store is not None:
        return []
    trained = set(_paths(train))
    return [name for name, path in zip(val.file_names.tolist(), _paths(val), strict=True) if path in trained]


def _unannotated(root: Path, table: ImageTable) -> list[str]:
    """The images in folders for validation, relative to `root`, that are not in the table of all annotated images."""
    folders = [] if table.store is not None else validation_folders(root)
    images = [
        os.path.abspath(folder / name) for folder in folders for name in files_below(folder) if is_image_name(name)
    ]
    known = set(_paths(table)) if images else set()
    return [os.path.relpath(image, root) for image in images if image not in known]


def _paths(table: ImageTable) -> list[str]:
    return [os.path.abspath(os.path.join(table.image_folder, name)) for name in table.file_names.tolist()]


def _count(table: ImageTable) -> str:
    """Such as "120 images with 480 objects"."""
    images, *objects = table.counts().items()
    return " with ".join(count_of(count, what.removesuffix("s")) for what, count in (images, *objects))
