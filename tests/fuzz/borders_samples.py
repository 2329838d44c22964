"""Damaged data sets as they are used: checked, cleaned, and loaded as samples of a training.

The data sets are those of `borders_annotations.py`, some with damaged images.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from effdet.config import DetectionAugment, DetectionData
from effdet.data.annotations import Annotations
from effdet.data.check import check_data
from effdet.data.check.cleaning import write_cleaned
from effdet.data.data_set import read_data_set
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.formats.table import ALLOWED_OVERHANG
from effdet.data.train_order import Key
from effdet.errors import DataError

from .border import MARK, Border
from .borders_annotations import BORDERS as ANNOTATIONS
from .mutate import mutate_bytes
from .sound_tables import check_boxes, read_detection, tables_of

_SIZE = (64, 48)
_AUGMENT = DetectionAugment(mosaic=0.5, mixup=0.3, copy_paste=0.3, scale_jitter=(0.1, 2.0))
_WITH_BOXES = [border for border in ANNOTATIONS if border.name != "image list"]


def _make(rng: random.Random, folder: Path) -> Path:
    root = rng.choice(_WITH_BOXES).make(rng, folder)
    images = sorted(root.rglob("*.png"))
    if not (folder / MARK).exists() and rng.random() < 0.5:
        image = rng.choice(images)
        image.write_bytes(mutate_bytes(rng, image.read_bytes()))
    return root


def _read_checked(root: Path) -> None:
    check = check_data(DetectionData(root=root))
    try:
        json.dumps(check.to_dict(), allow_nan=False)
    except ValueError as error:
        raise AssertionError("the check has numbers that no JSON holds") from error
    out = root.parent / "cleaned"
    write_cleaned(check, out)
    try:
        for table in read_data_set(DetectionData(root=out)).tables.values():
            check_boxes(table)
    except DataError as error:
        raise AssertionError(f"the cleaned copy cannot be read: {error}") from error


def _read_samples(root: Path) -> None:
    for table in tables_of(read_detection(root)):
        for augment in (None, _AUGMENT):
            dataset = DetectionDataset(table, _SIZE, (0, 0, 0), True, "pad", augment, seed=0)
            for row in range(len(table)):
                _check_sample(table, dataset, row)


def _check_sample(table: Annotations, dataset: DetectionDataset, row: int) -> None:
    """Asserts that a sample is sound, or an error that says why it is none."""
    result = dataset[Key(0, row)]
    if isinstance(result, DataError):
        return
    image, target = result
    assert image.shape == (3, *_SIZE), f"shape {tuple(image.shape)}"
    boxes = target.boxes
    assert torch.isfinite(boxes).all(), "boxes that are NaN or infinite"
    assert (boxes[:, 2:] > boxes[:, :2]).all(), "boxes without area"
    overhang = (ALLOWED_OVERHANG + 0.1) * max(1.0, *target.scale)
    assert (boxes[:, :2] > -overhang).all(), "boxes outside of the sample"
    assert (boxes[:, 2:] < torch.tensor([_SIZE[1], _SIZE[0]]) + overhang).all(), "boxes outside of the sample"
    if len(target.labels):
        assert int(target.labels.min()) >= 0, "labels below zero"
        assert int(target.labels.max()) < len(table.label_map), "labels of no class"


BORDERS = (
    Border("checked data sets", _make, _read_checked, seconds=15.0),
    Border("samples", _make, _read_samples, seconds=15.0),
)
