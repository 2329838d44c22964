"""What must hold for every data set that the readers of annotations accept, whatever was in its files.

The inputs are made in `borders_annotations.py`, `borders_shards.py` and `borders_names.py`; images are checked in
`sound_images.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from effdet.config import ClassificationData, DetectionData
from effdet.data.annotations import Annotations
from effdet.data.formats import Tables, read_tables
from effdet.data.formats.table import ALLOWED_OVERHANG
from effdet.data.image_table import ImageTable
from effdet.data.labels import ImageLabels

from .scenes import read_truth

SLACK = 1e-3  # pixels by which rounding to float32 may move an edge


def read_detection(root: Path) -> Tables:
    """The tables of a data set with boxes, checked."""
    tables = read_tables(DetectionData(root=root))
    for table in (tables.train, tables.val):
        if table is not None:
            check_boxes(table)
            check_files(table, root)
    check_same_classes(tables)
    return tables


def read_classification(root: Path) -> Tables:
    """The tables of a data set with a class for each image, checked."""
    tables = read_tables(ClassificationData(root=root))
    for table in (tables.train, tables.val):
        if table is not None:
            check_labels(table)
            check_files(table, root)
    check_same_classes(tables)
    return tables


def check_boxes(table: Annotations) -> None:
    """Asserts that boxes are finite, have an area and lie in their images, and that labels are those of classes."""
    boxes, owners = table.boxes, table.image_of_label()
    assert (boxes.dtype, boxes.shape) == (np.float32, (len(table.labels), 4)), "boxes of another shape"
    assert np.isfinite(boxes).all(), "boxes that are NaN or infinite"
    assert (boxes[:, 2:] > boxes[:, :2]).all(), "boxes without area"
    sizes = table.sizes[owners].astype(np.float64)
    known = (sizes > 0).all(axis=1)
    overhang = np.maximum(-boxes[:, :2], boxes[:, 2:] - sizes[:, ::-1])[known]
    assert overhang.max(initial=0) <= ALLOWED_OVERHANG + SLACK, "boxes outside of their image"
    assert table.offsets[[0, -1]].tolist() == [0, len(boxes)], "offsets that leave objects out"
    assert (np.diff(table.offsets) >= 0).all(), "offsets that fall"
    assert table.sizes.shape == (len(table), 2), "sizes of another number than images"
    assert (table.sizes >= 0).all(), "sizes below zero"
    assert np.isfinite(table.areas).all(), "areas that are NaN or infinite"
    assert (table.areas >= 0).all(), "areas below zero"
    assert len(set(table.image_ids.tolist())) == len(table), "images of one id"
    for column in (table.crowd, table.areas, table.difficult):
        assert column.shape == (len(boxes),), "columns of another length than the boxes"
    check_classes(table)
    for row in range(len(table)):
        table.record(row)


def check_labels(table: ImageLabels) -> None:
    """Asserts that every image has the label of a class."""
    assert table.labels.shape == (len(table),), "labels of another number than images"
    check_classes(table)


def check_classes(table: ImageTable) -> None:
    """Asserts that labels are 0..K-1 and that classes have different names and ids, which are texts and integers."""
    names, ids = table.label_map.names, table.label_map.category_ids
    assert len(names) == len(ids) == len(set(names)) == len(set(ids)), "two classes of one name or id"
    assert {type(name) for name in names} <= {str}, "names that are no texts"
    assert {type(own) for own in ids} <= {int}, "ids that are no integers"
    "".join(names).encode()
    if len(table.labels):
        assert 0 <= table.labels.min() <= table.labels.max() < len(names), "labels that are of no class"
    assert all(type(count) is int and count > 0 for count in table.repairs.values()), "counts of repairs"
    assert table.places.keys() <= table.repairs.keys(), "places without a count"
    table.notes()


def check_files(table: ImageTable, root: Path) -> None:
    """Asserts that the images are different files, and that none of their names leads out of the folder."""
    if table.store is not None:
        return
    assert len(set(table.file_names.tolist())) == len(table), "an image is in the table twice"
    for row in range(len(table)):
        path = Path(os.path.abspath(table.path(row)))
        assert path.is_file(), f"{path} is no file"
        assert path.is_relative_to(root.absolute()), f"{path} is outside of {root}"


def check_same_classes(tables: Tables) -> None:
    """Asserts that both splits have the same labels."""
    if tables.val is not None:
        assert tables.train.label_map.names == tables.val.label_map.names, "the splits have other labels"


def check_truth(tables: Tables, root: Path) -> None:
    """Asserts that all of a data set is read that nobody has damaged, and nothing else."""
    truth = read_truth(root)
    if truth is None:
        return
    assert sum(map(len, tables_of(tables))) == truth["images"], "images are lost"
    read: dict[str, list[Any]] = {}
    for table in tables_of(tables):
        for row, image in enumerate(table.image_of_label().tolist()):
            key = f"{table.file_name(image).rpartition('/')[2]}/{table.label_map.names[table.labels[row]]}"
            read.setdefault(key, []).append(table.boxes[row].tolist())
    assert read.keys() == truth["boxes"].keys(), "objects of another image or class"
    for key, boxes in read.items():
        assert np.allclose(sorted(boxes), truth["boxes"][key], atol=SLACK), f"other boxes of {key}"


def tables_of(tables: Tables) -> list[Any]:
    """The tables of both splits."""
    return [table for table in (tables.train, tables.val) if table is not None]


def objects_of(tables: Tables) -> int:
    """The number of objects in both splits."""
    return sum(len(table.boxes) for table in tables_of(tables))


def dropped(tables: Tables, causes: Iterable[str]) -> int:
    """How many objects or images some causes have cost, by the counts that are shown to the user."""
    chosen = list(causes)
    return sum(table.repairs.get(cause, 0) for table in tables_of(tables) for cause in chosen)
