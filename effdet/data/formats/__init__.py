"""The table of formats and the one function that reads any of them.

A new format is a file beside this one, a line in `READERS` and its name in `data.format` of the recipe. A reader of
images with boxes returns `Annotations`, one of images with classes `ImageLabels`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, overload

from effdet.config import ClassificationData, DataConfig, DetectionData
from effdet.data.annotations import Annotations
from effdet.data.formats.coco import read_coco_split
from effdet.data.formats.folders import read_folders_split
from effdet.data.formats.image_list import read_image_list_split
from effdet.data.formats.shard_index import read_shards_split
from effdet.data.formats.voc import read_voc_split
from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.types import Part

# Section of the recipe -> `data.format` -> reader of a split, given the section, the split and the classes to follow.
READERS: dict[type[DataConfig], dict[str, Callable[[Any, Part, LabelMap | None], ImageTable]]] = {
    DetectionData: {
        "coco": read_coco_split,
        "voc": read_voc_split,
        "shards": partial(read_shards_split, Annotations),
    },
    ClassificationData: {
        "folders": read_folders_split,
        "csv": read_image_list_split,
        "shards": partial(read_shards_split, ImageLabels),
    },
}


@overload
def read_table(data: DetectionData, split: Part, label_map: LabelMap | None = None) -> Annotations: ...
@overload
def read_table(data: ClassificationData, split: Part, label_map: LabelMap | None = None) -> ImageLabels: ...
@overload
def read_table(data: DataConfig, split: Part, label_map: LabelMap | None = None) -> ImageTable: ...
def read_table(data: DataConfig, split: Part, label_map: LabelMap | None = None) -> ImageTable:
    """Table of one split of a data set.

    Paths that are not given follow from `data.root`; a relative path is searched for as it stands, then below the root.

    - COCO: images in train2017/ and val2017/, boxes in annotations/instances_train2017.json and so on.
    - VOC: JPEGImages/, Annotations/, ImageSets/Main/train.txt and so on.
    - Folders: train/CLASS/*.jpg and val/CLASS/*.jpg.
    - CSV: train.csv and val.csv, whose images are relative to `images` or, without it, to the folder of the list.
    - Shards: train.index.npz and so on, in the root or at `data.url`.

    Args:
        data: section `data` of the recipe.
        split: train or val.
        label_map: classes that the labels must follow, such as those of the training split or of a model; None reads
            them from the files.

    Raises:
        DataError: a file is missing or is not what it should be, or its classes do not fit `label_map`.
    """
    return READERS[type(data)][data.format](data, split, label_map)
