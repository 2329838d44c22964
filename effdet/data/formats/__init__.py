"""The table of formats and the functions that read any of them.

A new format is a file beside this one, a line in `FORMATS` and its name in `data.format` of the recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
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
from effdet.data.formats.location import Format, LocatedSplit, locate_split
from effdet.data.formats.shard_index import find_shards, read_shards, read_shards_split, task_of_shards
from effdet.data.formats.table import repair_boxes
from effdet.data.formats.voc import find_voc, read_voc
from effdet.data.formats.voc_writer import VOC_IMAGES, write_voc
from effdet.data.formats.yolo import find_yolo, read_yolo
from effdet.data.formats.yolo_writer import YOLO_IMAGES, write_yolo
from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.shard_store import ShardAddress
from effdet.data.splitting import automatic_fraction, listed_rows, validation_rows
from effdet.errors import DataError
from effdet.text import count_of
from effdet.types import Part, Task

# Formats of each task; the first that fits is chosen where `data.format` is 'auto'.
FORMATS: dict[Task, dict[str, Format]] = {
    "detection": {
        "shards": Format(find_shards, partial(read_shards_split, Annotations), own_ids=True),
        "coco": Format(find_coco, read_coco, own_ids=True, write=write_coco, images=COCO_IMAGES),
        "yolo": Format(find_yolo, read_yolo, own_ids=True, write=write_yolo, images=YOLO_IMAGES),
        "voc": Format(find_voc, read_voc, write=write_voc, images=VOC_IMAGES),
        "csv": Format(find_boxes_csv, read_boxes_csv, write=write_csv, images=CSV_IMAGES),
    },
    "classification": {
        "shards": Format(find_shards, partial(read_shards_split, ImageLabels), own_ids=True),
        "folders": Format(find_folders, read_folders, write=write_folders, images=CLASS_FOLDERS),
        "csv": Format(find_image_lists, read_image_list, write=write_image_lists, images=CSV_IMAGES),
    },
}
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
    unused = tuple(name for name in (located.names if located else ()) if name not in used)
    format_name = located.format if located else "shards"
    if data.val is None:
        return Tables(whole, None, False, format_name, unused)
    if not _splits_off(data, validation):
        return Tables(whole, _read(data, "val", validation, whole.label_map), False, format_name, unused)
    validating = _validating(data, whole)
    val = replace(whole.subset(np.flatnonzero(validating)), repairs={}, places={})  # shown once, for all
    return Tables(whole.subset(np.flatnonzero(~validating)), val, True, format_name, unused)


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
    validating = _validating(data, whole)
    return whole.subset(np.flatnonzero(validating if split == "val" else ~validating))


def task_of_data(sections: Sequence[DataConfig]) -> Task:
    """The task that a data set is for: that of the first section whose formats fit.

    Raises:
        DataError: none fits; the error of the first section.
    """
    errors: list[DataError] = []
    for data in sections:
        try:
            located = _locate(data, "train")
        except DataError as error:
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
        table = read_shards(TABLES[data.task], ShardAddress(data.url), name)
    else:
        assert located is not None
        chosen = FORMATS[data.task][located.format]
        table, own_ids = chosen.read(located.files), chosen.own_ids
    require_images(table)
    if isinstance(data, DetectionData):
        table = repair_boxes(table, data.crowd_as_objects)
    followed: ImageTable = follow_classes(table, data.classes, data.rename, label_map, own_ids)
    return replace(followed, value_range=data.value_range)


def _chosen_by_rule(data: DataConfig) -> bool:
    """Whether the recipe wants a validation split that is split off the training split."""
    return data.val is not None and not (data.val.fraction is None and data.val.file_list is None)


def _splits_off(data: DataConfig, validation: LocatedSplit | None) -> bool:
    """Whether some images of the training split are for validation."""
    return _chosen_by_rule(data) or (validation is None and data.url is None)


def _validating(data: DataConfig, table: ImageTable) -> NDArray[np.bool_]:
    """Which images of the training split are for validation, [I] bool."""
    assert data.val is not None
    if data.val.file_list is not None:
        return listed_rows(table, data.val.file_list)
    return validation_rows(table, data.val.fraction or automatic_fraction(len(table)))


def _count(table: ImageTable) -> str:
    """Such as "120 images with 480 objects"."""
    images, *objects = table.counts().items()
    return " with ".join(count_of(count, what.removesuffix("s")) for what, count in (images, *objects))
