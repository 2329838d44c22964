"""What the check of a data set reports: findings, and the places in the data set that each is about.

How they are obtained is in the files beside this one, one subject each; they are shown by `effdet check`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable

Severity = Literal["problem", "note"]
SplitPart = Literal["train", "val", "test", "other"]


class Split(NamedTuple):
    """One split of a data set, with its labels as written.

    Attributes:
        name: the data set's own name of it.
        part: what it is for.
        table: its images and labels.
    """

    name: str
    part: SplitPart
    table: ImageTable


@dataclass(frozen=True)
class Place:
    """A file of a split, one box in it, or a class.

    Attributes:
        split: name of the split; empty for a file of no split.
        file: name of the file; empty for a class.
        row: row of the image in the table of its split; None if it has none.
        box: number of the box among those of its image, from 1; None for the whole file.
        detail: more about this place, such as why an image cannot be read.
        other: the place that it repeats.
        class_name: the class; empty for a file.
    """

    split: str
    file: str = ""
    row: int | None = None
    box: int | None = None
    detail: str = ""
    other: Place | None = None
    class_name: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without what this place lacks."""
        values = {
            "split": self.split,
            "file": self.file,
            "class": self.class_name,
            "box": self.box,
            "detail": self.detail,
        }
        plain = {key: value for key, value in values.items() if value not in (None, "")}
        return plain if self.other is None else {**plain, "other": self.other.to_dict()}


@dataclass(frozen=True)
class Finding:
    """One cause of faults in a split, or something to know about it.

    Attributes:
        kind: fixed name of the cause, for programs.
        severity: problems make the check fail, notes do not.
        split: name of the split; empty for the whole data set.
        cause: what it is, in plain words.
        count: how many images, boxes or classes.
        advice: what to do about it.
        places: where it is, all of them.
    """

    kind: str
    severity: Severity
    split: str
    cause: str
    count: int
    advice: str
    places: tuple[Place, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "split": self.split,
            "cause": self.cause,
            "count": self.count,
            "advice": self.advice,
            "places": [place.to_dict() for place in self.places],
        }


def image_places(split: Split, rows: Iterable[int], details: Sequence[str] | None = None) -> tuple[Place, ...]:
    """Places of images of a split.

    Args:
        split: the split.
        rows: rows of its table.
        details: more about each of them.
    """
    places = (Place(split.name, split.table.file_name(row), row) for row in rows)
    if details is None:
        return tuple(places)
    return tuple(replace(place, detail=detail) for place, detail in zip(places, details, strict=True))


def box_places(split: Split, offsets: NDArray[np.int64], boxes: NDArray[np.bool_]) -> tuple[Place, ...]:
    """Places of the boxes, [N] bool, of a split whose images have the rows `offsets`, [I + 1]."""
    numbers = np.flatnonzero(boxes)
    images = np.searchsorted(offsets, numbers, side="right") - 1
    in_image = numbers - offsets[images] + 1
    return tuple(
        Place(split.name, split.table.file_name(row), row, box)
        for row, box in zip(images.tolist(), in_image.tolist(), strict=True)
    )
