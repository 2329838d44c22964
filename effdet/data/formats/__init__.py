"""The table of formats and the functions that read any of them.

A new format is a file beside this one, a line in `FORMATS` and its name in `data.format` of the recipe.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from effdet.config import ClassificationData, DataConfig, DetectionData
from effdet.data.annotations import Annotations
from effdet.data.formats.classes import follow_classes
from effdet.data.formats.coco import find_coco, read_coco
from effdet.data.formats.folders import find_folders, read_folders
from effdet.data.formats.image_list import find_image_lists, read_image_list
from effdet.data.formats.location import Format, locate_split
from effdet.data.formats.shard_index import read_shards_split
from effdet.data.formats.table import repair_boxes
from effdet.data.formats.voc import find_voc, read_voc
from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.data.splitting import automatic_fraction, listed_rows, validation_rows
from effdet.errors import DataError
from effdet.types import Part, Task

# Formats of files, the first that fits is chosen where `data.format` is 'auto'.
FORMATS: dict[Task, dict[str, Format]] = {
    "detection": {
        "coco": Format(find_coco, read_coco, own_ids=True),
        "voc": Format(find_voc, read_voc),
    },
    "classification": {
        "folders": Format(find_folders, read_folders),
        "csv": Format(find_image_lists, read_image_list),
    },
}
TABLES: dict[Task, type[ImageTable]] = {"detection": Annotations, "classification": ImageLabels}


class Tables(NamedTuple):
    """The tables of a training.

    Attributes:
        train: the images to train on.
        val: the images to validate on; None if there are none.
        split_off: whether `val` is split off the training split by a rule, and not a split of the data set.
    """

    train: Any
    val: Any
    split_off: bool


def read_tables(data: DataConfig) -> Tables:
    """The tables to train and to validate on, with the labels of the training split.

    Without a validation split, some training images are split off, see `data.splitting`.

    Raises:
        DataError: see `read_table`.
    """
    whole = _read_split(data, "train")
    if data.val is None:
        return Tables(whole, None, False)
    own = None if _chosen_by_rule(data) else _read_split(data, "val", whole.label_map)
    if own is not None:
        return Tables(whole, own, False)
    validating = _validating(data, whole)
    val = replace(whole.subset(np.flatnonzero(validating)), repairs={}, places={})  # shown once, for all
    return Tables(whole.subset(np.flatnonzero(~validating)), val, True)


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
    own: ImageTable | None = None
    if split == "train" or not _chosen_by_rule(data):
        own = _read_split(data, split, label_map)
    if own is not None and (split == "val" or not _splits_off(data)):
        return own
    whole: ImageTable = _read_split(data, "train", label_map) if own is None else own
    validating = _validating(data, whole)
    return whole.subset(np.flatnonzero(validating if split == "val" else ~validating))


def _chosen_by_rule(data: DataConfig) -> bool:
    """Whether the recipe wants a validation split that is split off the training split."""
    return data.val is not None and not (data.val.fraction is None and data.val.file_list is None)


def _splits_off(data: DataConfig) -> bool:
    """Whether some images of the training split are for validation."""
    if data.val is None or data.format == "shards":
        return _chosen_by_rule(data)
    return _chosen_by_rule(data) or locate_split(data, "val", FORMATS[data.task]) is None


def _read_split(data: DataConfig, part: Part, label_map: LabelMap | None = None) -> Any:
    """The repaired table of a split of the data set itself; None if it has no validation split."""
    table: Any
    if data.format == "shards":
        table, own_ids = read_shards_split(TABLES[data.task], data, part), True
    else:
        located = locate_split(data, part, FORMATS[data.task])
        if located is None:
            return None
        name, _, files = located
        table, own_ids = FORMATS[data.task][name].read(files), FORMATS[data.task][name].own_ids
    if table is None:
        return None
    if isinstance(data, DetectionData):
        table = repair_boxes(table, data.crowd_as_objects)
    return follow_classes(table, data.classes, data.rename, label_map, own_ids)


def _validating(data: DataConfig, table: ImageTable) -> NDArray[np.bool_]:
    """Which images of the training split are for validation, [I] bool."""
    assert data.val is not None
    if data.val.file_list is not None:
        return listed_rows(table, data.val.file_list)
    return validation_rows(table, data.val.fraction or automatic_fraction(len(table)))
