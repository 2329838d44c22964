"""Findings about image files: missing, damaged, unnamed, of another size than annotated, rotated, or decoded by a rule.

Copies of images are the subject of `duplicates.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.check.findings import Finding, Place, Split, image_places
from effdet.data.check.scan import ImageFacts
from effdet.data.images import is_image_name

_WRONG_SIZES = {
    "rotated-size": (
        "sizes annotated for the picture before its EXIF rotation",
        "the boxes were drawn on the picture as stored; rotate them, or export the annotations anew",
    ),
    "exchanged-size": ("sizes with height and width exchanged", "exchange them in the annotations"),
    "wrong-size": (
        "sizes that are not those of the image",
        "correct them, or put the images back for which the boxes were drawn",
    ),
}


def image_findings(split: Split, facts: Sequence[ImageFacts]) -> list[Finding]:
    """What is wrong with the images of a split, and what to know about them."""
    missing = [row for row, fact in enumerate(facts) if fact.missing]
    damaged = [row for row, fact in enumerate(facts) if fact.error]
    findings = [
        Finding(
            "missing-image",
            "problem",
            split.name,
            "images that do not exist",
            len(missing),
            f"correct the image folder {split.table.image_folder}, or remove the images from the annotations",
            image_places(split, missing),
        ),
        Finding(
            "damaged-image",
            "problem",
            split.name,
            "images that cannot be read",
            len(damaged),
            "copy or download them again, or remove them",
            image_places(split, damaged, [facts[row].error for row in damaged]),
        ),
        *_size_findings(split, facts),
        *_decoding_findings(split, facts),
    ]
    return [finding for finding in findings if finding.count]


def wrong_sizes(table: Annotations, facts: Sequence[ImageFacts]) -> dict[str, NDArray[np.int64]]:
    """Rows of the images whose annotated size is not that of the file, by the kind of the fault."""
    true = np.array([fact.size for fact in facts], np.int64).reshape(-1, 2)
    rotated = np.array([fact.orientation >= 5 for fact in facts], np.bool_)
    differing = (true > 0).all(axis=1) & (table.sizes > 0).all(axis=1) & (true != table.sizes).any(axis=1)
    exchanged = differing & (true[:, ::-1] == table.sizes).all(axis=1)
    masks = {
        "rotated-size": exchanged & rotated,
        "exchanged-size": exchanged & ~rotated,
        "wrong-size": differing & ~exchanged,
    }
    return {kind: np.flatnonzero(mask) for kind, mask in masks.items() if mask.any()}


def unnamed_images(splits: Sequence[Split]) -> list[Finding]:
    """A note on images in the folders of the splits that no annotation names."""
    tables = [split.table for split in splits if split.table.store is None]
    named = {os.path.normpath(table.path(row)) for table in tables for row in range(len(table))}
    unnamed = []
    for folder in {table.image_folder for table in tables}:
        unnamed += [path for path in _images_below(folder) if os.path.normpath(path) not in named]
    different = sorted(set(unnamed))
    if not different:
        return []
    root = Path(os.path.commonpath([table.image_folder for table in tables]))
    return [
        Finding(
            "unnamed-image",
            "note",
            "",
            "images on disk that no annotation names",
            len(different),
            "they are not used; annotate them or remove them",
            tuple(Place("", os.path.relpath(path, root)) for path in different),
        )
    ]


def _size_findings(split: Split, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    if not isinstance(split.table, Annotations):
        return
    for kind, rows in wrong_sizes(split.table, facts).items():
        cause, advice = _WRONG_SIZES[kind]
        details = [
            f"annotated {_size(split.table.sizes[row].tolist())}, the image has {_size(facts[row].size)}"
            for row in rows
        ]
        places = image_places(split, rows.tolist(), details)
        yield Finding(kind, "problem", split.name, cause, len(rows), advice, places)


def _decoding_findings(split: Split, facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    wrong = wrong_sizes(split.table, facts) if isinstance(split.table, Annotations) else {}
    known = set(wrong.get("rotated-size", np.empty(0, np.int64)).tolist())
    turned = [row for row, fact in enumerate(facts) if fact.readable and fact.orientation > 1 and row not in known]
    yield Finding(
        "exif-rotation",
        "note",
        split.name,
        "images that EXIF rotates",
        len(turned),
        "they are turned upright when they are decoded; boxes must be those of the upright picture",
        image_places(split, turned),
    )
    for note in dict.fromkeys(note for fact in facts for note in fact.notes):
        rows = [row for row, fact in enumerate(facts) if note in fact.notes]
        advice = "docs/data.md describes how images are decoded"
        yield Finding(
            "decoding", "note", split.name, f"images with {note}", len(rows), advice, image_places(split, rows)
        )


def _size(size: Sequence[int]) -> str:
    return f"{size[1]} x {size[0]}"


def _images_below(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in names if is_image_name(name) and not name.startswith("."))
