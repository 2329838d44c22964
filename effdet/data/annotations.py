"""The table of images with boxes, which every detection format is read into.

The readers that fill it are in `data/formats`; images with one class each have the table of `labels.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.types import Task

OBJECT_COLUMNS = ("boxes", "labels", "crowd", "areas", "difficult")
MANY_CROWDS = 0.25  # fraction of the objects from which on crowds are questioned; COCO has 0.01


@dataclass(frozen=True, kw_only=True)
class Annotations(ImageTable):
    """All images of one split of a data set with their boxes; see `ImageTable` for the other attributes.

    Rows `offsets[i]:offsets[i + 1]` of the box arrays belong to image i.

    Attributes:
        image_ids: [I], the data set's own ids, integers or strings.
        sizes: [I, 2] int32 (H, W) as annotated; 0 if the file does not say.
        offsets: [I + 1] int64.
        boxes: [N, 4] float32, xyxy in pixels of the original image.
        crowd: [N] bool; crowd regions are left out of training and are treated as COCO defines in evaluation.
        areas: [N] float64, square pixels, for the size classes of the evaluation.
        difficult: [N] bool, VOC's mark of objects that are hard to recognize; they are trained on like others.
    """

    task: ClassVar[Task] = "detection"
    columns = ("image_ids", "sizes", "offsets", "boxes", "labels", "crowd", "areas", "difficult")

    image_ids: NDArray[Any]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    difficult: NDArray[np.bool_]

    def rows(self, index: int) -> slice:
        """Rows of the box arrays that belong to image `index`."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def image_id(self, index: int) -> int | str:
        """The data set's own id of image `index`."""
        own: int | str = self.image_ids[index].item()
        return own

    def counts(self) -> dict[str, int]:
        """Images and objects, crowd regions included."""
        return {**super().counts(), "objects": len(self.boxes)}

    def notes(self) -> list[str]:
        """One line for each cause in `repairs`, and one on crowd regions if there are some."""
        crowds = int(np.count_nonzero(self.crowd))
        if not crowds:
            return super().notes()
        note = f"{self.source.name}: {crowds} of {len(self.crowd)} objects are crowds, which are not trained on"
        if crowds > MANY_CROWDS * len(self.crowd):
            note += "; are these masks of single objects? Then set data.crowd_as_objects=true"
        return [*super().notes(), note]

    def select(self, kept: NDArray[np.bool_]) -> Annotations:
        """The table with the objects of `kept`, [N], alone; all images stay."""
        per_image = np.bincount(self.image_of_label()[kept], minlength=len(self))
        columns = {column: getattr(self, column)[kept] for column in OBJECT_COLUMNS}
        return replace(self, offsets=np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64), **columns)

    def image_of_label(self) -> NDArray[np.int64]:
        """Row of the image of every object, [N]."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def with_labels(self, new_labels: NDArray[np.int64], label_map: LabelMap) -> Annotations:
        """The table with other classes; objects whose class gets the label -1 are left out, all images stay."""
        labels = new_labels[self.labels]
        return replace(self, labels=labels, label_map=label_map).select(labels >= 0)

    def fingerprint(self) -> str:
        """See `ImageTable.fingerprint`; marks of difficult objects count only where there are some."""
        hashed = self.columns if self.difficult.any() else tuple(name for name in self.columns if name != "difficult")
        return self._fingerprint(hashed)

    def record(self, index: int) -> dict[str, Any]:
        """Id, size and objects of image `index` as plain values."""
        rows = self.rows(index)
        labels = self.labels[rows].tolist()
        return {
            "image_id": self.image_id(index),
            "size": self.sizes[index].tolist(),
            "boxes": self.boxes[rows].tolist(),
            "labels": labels,
            "category_ids": [self.label_map.category_ids[label] for label in labels],
            "names": [self.label_map.names[label] for label in labels],
            "crowd": self.crowd[rows].tolist(),
            "areas": self.areas[rows].tolist(),
        }

    def _subset_columns(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        rows = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices] or [np.empty(0, int)])
        return {
            "image_ids": self.image_ids[indices],
            "sizes": self.sizes[indices],
            "offsets": np.concatenate([[0], np.cumsum(np.diff(self.offsets)[indices])]).astype(np.int64),
            **{column: getattr(self, column)[rows] for column in OBJECT_COLUMNS},
        }
