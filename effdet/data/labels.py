"""The one table that every format of labelled images becomes: flat arrays over images, and the map of the classes.

Images with boxes have a table of their own in `data/annotations.py`. The readers are in `data/formats`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import LabelMap
from effdet.data.image_table import ImageTable, hash_columns, plain_names
from effdet.data.shard_store import ShardStore


@dataclass(frozen=True)
class ImageLabels(ImageTable):
    """All images of one part of a data set with the class of each.

    Attributes:
        source: file or folder that the table was read from, for messages.
        image_folder: folder that `file_names` are relative to.
        file_names: [I] str.
        labels: [I] int64 in 0..K-1.
        label_map: the classes; their category ids are 0..K-1.
        repairs: what was wrong with the data set and what was done about it -> how often.
        store: where the images lie in tar files; None where each is a file of its own.
    """

    source: Path
    image_folder: Path
    file_names: NDArray[np.str_]
    labels: NDArray[np.int64]
    label_map: LabelMap
    repairs: dict[str, int] = field(default_factory=dict)
    store: ShardStore | None = None

    def image_id(self, index: int) -> int | str:
        return str(self.file_names[index])

    def counts(self) -> dict[str, int]:
        return {"images": len(self)}

    def fingerprint(self) -> str:
        """SHA-256 of what the table says, see `Annotations.fingerprint`."""
        return hash_columns(plain_names(self.file_names), self.label_map.names, self.labels)

    def subset(self, indices: NDArray[np.int64]) -> ImageLabels:
        """The table of the given images alone, in the given order."""
        return replace(
            self,
            file_names=self.file_names[indices],
            labels=self.labels[indices],
            store=self.store.subset(indices) if self.store else None,
        )
