"""Where the parts of a data set lie, and the reader of each format.

Readers of images with boxes give an `Annotations` table, those of images with a class each an `ImageLabels` table;
every file that is missing is named together with the setting that tells where it is.
"""

from __future__ import annotations

from pathlib import Path

from effdet.config import ClassificationData, DataConfig, DetectionData, SplitConfig
from effdet.data.annotations import Annotations, LabelMap
from effdet.data.formats.coco import read_coco
from effdet.data.formats.folders import read_folders
from effdet.data.formats.image_list import read_image_list
from effdet.data.formats.shard_index import INDEX_SUFFIX, read_labelled_shards, read_shards
from effdet.data.formats.voc import read_voc
from effdet.data.labels import ImageLabels
from effdet.data.shard_store import ShardAddress, ShardFolder
from effdet.errors import DataError
from effdet.types import Part

__all__ = [
    "read_annotations",
    "read_coco",
    "read_folders",
    "read_image_list",
    "read_labelled_shards",
    "read_labels",
    "read_shards",
    "read_voc",
]


def read_annotations(data: DetectionData, part: Part, label_map: LabelMap | None = None) -> Annotations:
    """Table of one part of a data set of images with boxes.

    Paths that are not given follow from `data.root`. COCO: the images in train2017/ and val2017/, the boxes in
    annotations/instances_train2017.json and so on. VOC: JPEGImages/, Annotations/, ImageSets/Main/train.txt and so on.
    Shards: train.index.npz and so on, in the root or at `data.url`. A relative path is looked for as it stands, then
    below the root.

    Args:
        data: the data set.
        part: which part of it.
        label_map: classes that the labels must follow, such as those of the training part; None reads them from the
            files.

    Raises:
        DataError: a file is missing or is not what it should be, or its classes do not fit `label_map`.
    """
    split = _split(data, part)
    if data.format == "shards":
        return read_shards(_shards(data, split, part), split.split or part, label_map)
    what = "FILE" if data.format == "coco" else "FOLDER"
    root = _root(data, split.annotations, f"data.{part}.images=FOLDER and data.{part}.annotations={what}")
    read = _read_coco_part if data.format == "coco" else _read_voc_part
    return read(data, split, part, root, label_map)


def read_labels(data: ClassificationData, part: Part, label_map: LabelMap | None = None) -> ImageLabels:
    """Table of one part of a data set of images with a class each.

    Paths that are not given follow from `data.root`. Folders: train/CLASS/*.jpg and val/CLASS/*.jpg. CSV: train.csv and
    val.csv, whose images are relative to `images` or, where that is not given, to the folder of the list. Shards:
    train.index.npz and so on, in the root or at `data.url`. A relative path is looked for as it stands, then below the
    root.

    Args:
        data: the data set.
        part: which part of it.
        label_map: classes that the labels must follow, such as those of the training part; None takes the names found,
            sorted.

    Raises:
        DataError: a file is missing or is not what it should be, or its classes do not fit `label_map`.
    """
    split = _split(data, part)
    if data.format == "shards":
        return read_labelled_shards(_shards(data, split, part), split.split or part, label_map)
    if data.format == "folders":
        root = _root(data, split.images, f"data.{part}.images=FOLDER")
        folder = _locate(split.images, root, split.split or part)
        if folder is None or not folder.is_dir():
            raise _missing(folder, "folder of class folders", f"data.{part}.images=FOLDER, data.{part}.split=NAME")
        return read_folders(folder, label_map)
    root = _root(data, split.annotations, f"data.{part}.annotations=FILE")
    csv_path = _locate(split.annotations, root, f"{(split.split or part).removesuffix('.csv')}.csv")
    if csv_path is None or not csv_path.is_file():
        raise _missing(csv_path, "list of images", f"data.{part}.annotations=FILE, data.{part}.split=NAME")
    images = csv_path.parent if split.images is None else _locate(split.images, root, "")
    if images is None or not images.is_dir():
        raise _missing(images, "image folder", f"data.{part}.images=FOLDER")
    return read_image_list(csv_path, images, label_map)


def _split(data: DataConfig, part: Part) -> SplitConfig:
    """Where the part lies, as far as the recipe says."""
    split = data.train if part == "train" else data.val
    if split is None:
        raise DataError("the data set has no validation part: data.val is null; set data.val.split=... to name one")
    return split


def _root(data: DataConfig, given: Path | None, settings: str) -> Path | None:
    """Folder of the data set; None only where the path `given`, one of `settings`, stands in for it."""
    if data.root is None:
        if given is None:
            raise DataError(f"no data set is given: set data.root=FOLDER, or {settings}")
        return None
    root = data.root.expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root=... to the folder of the data set")
    return root


def _shards(data: DataConfig, split: SplitConfig, part: Part) -> ShardFolder | ShardAddress:
    """Where the shards of the part lie; in a folder their index is there."""
    if data.url is not None:
        return ShardAddress(data.url)
    root = _root(data, None, "data.url=ADDRESS")
    assert root is not None
    path = root / f"{split.split or part}{INDEX_SUFFIX}"
    if not path.is_file():
        there = ", ".join(sorted(path.name.removesuffix(INDEX_SUFFIX) for path in root.glob(f"*{INDEX_SUFFIX}")))
        hint = f"of {there}" if there else "of a folder that `effdet shards` has written"
        raise DataError(f"{path}: no such index of shards; set data.{part}.split=NAME to one {hint}")
    return ShardFolder(root)


def _read_coco_part(
    data: DetectionData, split: SplitConfig, part: Part, root: Path | None, label_map: LabelMap | None
) -> Annotations:
    name = split.split or f"{part}2017"
    json_path = _locate(split.annotations, root, f"annotations/instances_{name}.json")
    if json_path is None or not json_path.is_file():
        raise _missing(json_path, "annotation file", f"data.{part}.annotations=FILE")
    images = _locate(split.images, root, name)
    if images is not None and split.images is None and not images.is_dir():
        images = root  # file names that start with the folder, or images beside their annotations
    if images is None or not images.is_dir():
        raise _missing(images, "image folder", f"data.{part}.images=FOLDER")
    return read_coco(json_path, images, label_map)


def _read_voc_part(
    data: DetectionData, split: SplitConfig, part: Part, root: Path | None, label_map: LabelMap | None
) -> Annotations:
    images = _locate(split.images, root, "JPEGImages")
    if images is None or not images.is_dir():
        raise _missing(images, "image folder", f"data.{part}.images=FOLDER")
    annotations = _locate(split.annotations, root, "Annotations")
    if annotations is None or not annotations.is_dir():
        raise _missing(annotations, "folder of XML files", f"data.{part}.annotations=FOLDER")
    name = split.split or part
    given = Path(name) if "/" in name or name.endswith(".txt") else None
    image_list = _locate(given, root, f"ImageSets/Main/{name}.txt")
    if split.split is None and split.annotations is not None:
        image_list = None  # a folder of XML files that is the part by itself
    elif image_list is None or not image_list.is_file():
        raise _missing(image_list, "list of images", f"data.{part}.split=NAME or the path of a list")
    return read_voc(images, annotations, image_list, data.classes, label_map)


def _locate(given: Path | None, root: Path | None, usual: str) -> Path | None:
    """The path given, as it stands or below the root; otherwise the usual one below the root; None without either."""
    if given is None:
        return None if root is None else root / usual
    path = given.expanduser()
    return root / path if root is not None and not path.exists() and (root / path).exists() else path


def _missing(path: Path | None, what: str, setting: str) -> DataError:
    where = f"{path}: no such {what}" if path is not None else f"no {what} is given"
    return DataError(f"{where}; set {setting}, or data.root=... to the folder of the data set")
