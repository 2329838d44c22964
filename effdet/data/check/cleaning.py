"""A cleaned copy of a data set: what the check can repair is repaired, what it cannot is left out, all of it counted.

The files are written by the writers of the formats; pixels stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.config import DetectionData
from effdet.data.annotations import Annotations
from effdet.data.check.boxes import CONVENTIONS, repeated_boxes
from effdet.data.check.checking import DataCheck
from effdet.data.check.duplicates import Copies, Item
from effdet.data.check.findings import Split
from effdet.data.check.images import wrong_sizes
from effdet.data.check.scan import ImageFacts
from effdet.data.convert import write_data_set
from effdet.data.data_set import same_classes, short_names
from effdet.data.formats import FORMATS
from effdet.data.formats.table import ALLOWED_OVERHANG, box_faults
from effdet.data.image_table import ImageTable
from effdet.errors import DataError
from effdet.text import count_of
from effdet.types import Task

_UNREPAIRABLE = (*CONVENTIONS, "unreadable-annotations")
_FORMAT_OF_SHARDS: dict[Task, str] = {"detection": "coco", "classification": "folders"}
# Of identical images the one in the first of these is kept.
_KEPT_FIRST = ("val", "test", "train", "other")


def write_cleaned(check: DataCheck, folder: Path) -> list[str]:
    """Writes the cleaned copy in the format of the data set; says in lines what was done.

    Args:
        check: the check of the data set.
        folder: where to write; it must not exist or be empty.

    Raises:
        DataError: the copy cannot be written, see `clean_splits`.
    """
    splits, done = clean_splits(check)
    if not splits:
        raise DataError(f"{check.name}: a cleaned copy would have no images")
    tables = same_classes({split.name: split.table for split in splits}, DetectionData())
    format_name = check.format if check.format in FORMATS[check.task] else _FORMAT_OF_SHARDS[check.task]
    written = write_data_set(folder, format_name, tables, {name: short_names(tables[name]) for name in tables})
    images = count_of(sum(map(len, tables.values())), "image")
    lines = [f"{cause}: {count}" for cause, count in done.items()]
    lines += [f"not held by the format: {cause}: {count}" for cause, count in written.lost.items()]
    return [*lines, f"{images} written to {folder}; check them with effdet check {folder}"]


def clean_splits(check: DataCheck) -> tuple[list[Split], dict[str, int]]:
    """The cleaned splits of a data set, and how often what was done.

    Images that are missing, damaged or there twice are left out; of a copy in train and val, that in train is. Sizes
    are corrected where the boxes fit the image, boxes are sorted and clipped, and those without area, outside or there
    twice are left out.

    Raises:
        DataError: the labels cannot be read, or look as if they were written in another convention.
    """
    for finding in check.findings:
        if finding.kind in _UNREPAIRABLE:
            where = f"{finding.split}: " if finding.split else ""
            raise DataError(
                f"{check.name}: a cleaned copy cannot be written: {where}{finding.cause}"
                f"{f'; {finding.advice}' if finding.advice else ''}"
            )
    done: dict[str, int] = {}
    without = _left_out(check.splits, check.copies)
    cleaned = []
    for number, (split, facts) in enumerate(zip(check.splits, check.facts, strict=True)):
        kept = np.array([fact.readable for fact in facts], np.bool_)
        _count(done, "images that do not exist left out", sum(fact.missing for fact in facts))
        _count(done, "images that cannot be read left out", sum(bool(fact.error) for fact in facts))
        for cause, items in without.items():
            rows = np.array([item.row for item in items if item.split == number], np.int64)
            _count(done, cause, int(kept[rows].sum()))
            kept[rows] = False
        table = _clean_table(split.table, facts, kept, done)
        if table is None:
            _count(done, f"splits left without images: {split.name}", 1)
        else:
            cleaned.append(split._replace(table=table))
    return cleaned, done


def _left_out(splits: Sequence[Split], copies: Iterable[Copies]) -> dict[str, list[Item]]:
    """The images to leave out of groups of identical ones, by cause."""
    causes: dict[str, list[Item]] = {}
    for group in copies:
        if group.contradicting:
            causes.setdefault("copies of an image under several classes left out", []).extend(group.items)
            continue
        order = sorted(group.items, key=lambda item: _KEPT_FIRST.index(splits[item.split].part))
        for item in order[1:]:
            leaking = splits[item.split].part == "train" and item.split != order[0].split
            cause = "images of other splits left out of the training split" if leaking else "copies of images left out"
            causes.setdefault(cause, []).append(item)
    return causes


def _clean_table(
    table: Any, facts: Sequence[ImageFacts], kept: NDArray[np.bool_], done: dict[str, int]
) -> ImageTable | None:
    """A table with the images of `kept`, [I], and with valid boxes; None if no image is left."""
    table = replace(table, repairs={}, places={})
    if isinstance(table, Annotations):
        table, kept = _correct_sizes(table, facts, kept, done)
    if not kept.any():
        return None
    cleaned: ImageTable = table.subset(np.flatnonzero(kept))
    return _clean_boxes(cleaned, done) if isinstance(cleaned, Annotations) else cleaned


def _correct_sizes(
    table: Annotations, facts: Sequence[ImageFacts], kept: NDArray[np.bool_], done: dict[str, int]
) -> tuple[Annotations, NDArray[np.bool_]]:
    """The table with the sizes of the files, and which images to keep, [I]."""
    sizes, boxes, kept = table.sizes.copy(), table.boxes.copy(), kept.copy()
    for kind, rows in wrong_sizes(table, facts).items():
        for row in rows[kept[rows]].tolist():
            own, true = table.rows(row), facts[row].size
            if kind == "rotated-size":
                boxes[own] = _turned(boxes[own], table.sizes[row], facts[row].orientation)
                _count(done, "images whose boxes were rotated as EXIF rotates the picture", 1)
            elif not _fit(boxes[own], true):
                kept[row] = False
                _count(done, "images whose boxes are for a picture of another size left out", 1)
                continue
            else:
                _count(done, "sizes of images corrected", 1)
            sizes[row] = true
    return replace(table, sizes=sizes, boxes=boxes), kept


def _clean_boxes(table: Annotations, done: dict[str, int]) -> Annotations:
    faults, boxes, valid = box_faults(table)
    for cause, faulty in faults.items():
        _count(done, cause, int(faulty.sum()))
    table = replace(table, boxes=boxes).select(valid)
    repeated = repeated_boxes(table)
    _count(done, "boxes that were there twice dropped", int(repeated.sum()))
    return table.select(~repeated)


def _fit(boxes: NDArray[np.float32], size: tuple[int, int]) -> bool:
    """Whether boxes, [N, 4], lie within an image of `size` (H, W)."""
    limits = np.array([size[1], size[0]] * 2) + ALLOWED_OVERHANG
    return bool(((boxes >= -ALLOWED_OVERHANG) & (boxes <= limits)).all())


def _turned(boxes: NDArray[np.float32], size: NDArray[np.int32], orientation: int) -> NDArray[np.float32]:
    """Boxes, [N, 4], of a picture as stored, of `size` (H, W), in the picture that EXIF turns upright (5 to 8)."""
    height, width = size.tolist()
    x1, y1, x2, y2 = boxes.T
    corners = {
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }[orientation]
    return np.stack(corners, axis=1).astype(np.float32)


def _count(done: dict[str, int], cause: str, count: int) -> None:
    if count:
        done[cause] = done.get(cause, 0) + count
