"""The one table that every annotation format becomes: flat arrays over images and boxes, and the map of the classes.

There is no Python object per box, so that the table stays small and is shared with loader processes without being
copied. The readers that fill it are in `data/formats`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable, hash_columns, plain_names
from effdet.data.shard_store import ShardStore


@dataclass(frozen=True)
class LabelMap:
    """Label <-> category id <-> name. Label k is the k-th category by rising id; there is no background class.

    Attributes:
        names: name of each label, K names.
        category_ids: the data set's own id of each label, K ids: 0-based, 1-based or sparse.
    """

    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def label_of(self) -> dict[int, int]:
        """Label of every category id."""
        return {category_id: label for label, category_id in enumerate(self.category_ids)}

    def in_ids_of(self, other: LabelMap) -> LabelMap:
        """The same labels with the ids that another data set has for their names.

        A class that the other lacks keeps its id, or gets one above all others if that stands for another class there.
        """
        own_ids, taken = dict(zip(other.names, other.category_ids, strict=True)), set(other.category_ids)
        free = itertools.count(max((*self.category_ids, *other.category_ids)) + 1)
        ids = (
            own_ids[name] if name in own_ids else next(free) if category_id in taken else category_id
            for name, category_id in zip(self.names, self.category_ids, strict=True)
        )
        return replace(self, category_ids=tuple(ids))


@dataclass(frozen=True)
class Annotations(ImageTable):
    """All images of one part of a data set with their boxes.

    Rows `offsets[i]:offsets[i + 1]` of the box arrays belong to image i.

    Attributes:
        source: file or folder that the table was read from, for messages.
        image_folder: folder that `file_names` are relative to.
        file_names: [I] str.
        image_ids: [I], the data set's own ids, integers or strings.
        sizes: [I, 2] int32 (H, W) as annotated; 0 where the file does not tell.
        offsets: [I + 1] int64.
        boxes: [N, 4] float32, xyxy in pixels of the original image.
        labels: [N] int64 in 0..K-1.
        crowd: [N] bool; crowd regions are left out of training and are treated as COCO defines in evaluation.
        areas: [N] float64, square pixels, for the size classes of the evaluation.
        label_map: the classes.
        repairs: what was wrong with the file and what was done about it -> how often.
        store: where the images lie in tar files; None where each is a file of its own.
    """

    source: Path
    image_folder: Path
    file_names: NDArray[np.str_]
    image_ids: NDArray[Any]
    sizes: NDArray[np.int32]
    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    label_map: LabelMap
    repairs: dict[str, int] = field(default_factory=dict)
    store: ShardStore | None = None

    def rows(self, index: int) -> slice:
        """Rows of the box arrays that belong to image `index`."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def image_id(self, index: int) -> int | str:
        own: int | str = self.image_ids[index].item()
        return own

    def counts(self) -> dict[str, int]:
        return {"images": len(self), "objects": len(self.boxes)}

    def fingerprint(self) -> str:
        """SHA-256 of what the table says, wherever its images lie: equal for equal data in the same order.

        The bytes of the images are not part of it.
        """
        return hash_columns(
            plain_names(self.file_names),
            self.image_ids.tolist(),
            self.label_map.names,
            self.label_map.category_ids,
            *(self.sizes, self.offsets, self.boxes, self.labels, self.crowd, self.areas),
        )

    def subset(self, indices: NDArray[np.int64]) -> Annotations:
        """The table of the given images alone, in the given order."""
        rows = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in indices] or [np.empty(0, int)])
        return replace(
            self,
            file_names=self.file_names[indices],
            image_ids=self.image_ids[indices],
            sizes=self.sizes[indices],
            offsets=np.concatenate([[0], np.cumsum(np.diff(self.offsets)[indices])]).astype(np.int64),
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            crowd=self.crowd[rows],
            areas=self.areas[rows],
            store=self.store.subset(indices) if self.store else None,
        )
