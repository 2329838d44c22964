"""The one table that every format of labelled images becomes: flat arrays over images, and the map of the classes.

Images with boxes have a table of their own in `data/annotations.py`. The readers are in `data/formats`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import LabelMap, hash_columns, plain_names
from effdet.data.images import read_file
from effdet.data.shards import ShardStore
from effdet.errors import DataError


@dataclass(frozen=True)
class ImageLabels:
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

    def __post_init__(self) -> None:
        if not len(self.file_names):
            raise DataError(f"{self.source}: the data set has no images; expected at least one")

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def shards(self) -> NDArray[np.int64] | None:
        """Number of the shard that holds each image, [I]; None where each is a file of its own."""
        return self.store.shards if self.store else None

    def path(self, index: int) -> Path:
        """Path of image `index`, or its shard and what it is called there."""
        return self.image_folder / (self.store.path(index) if self.store else str(self.file_names[index]))

    def identity(self, index: int) -> Path:
        """What a cache knows image `index` by: its path, or its shard with the image's place and checksum in it."""
        return self.image_folder / self.store.identity(index) if self.store else self.path(index)

    def read(self, index: int) -> bytes:
        """Content of the file of image `index`.

        Raises:
            DataError: it cannot be read.
        """
        return self.store.read(index) if self.store else read_file(self.path(index))

    def fingerprint(self) -> str:
        """SHA-256 of what the table says, see `Annotations.fingerprint`."""
        return hash_columns(plain_names(self.file_names), self.label_map.names, self.labels)

    def notes(self) -> list[str]:
        """One line for every kind of repair, to be shown once to whoever uses the data set."""
        return [f"{self.source.name}: {what}: {count}" for what, count in self.repairs.items()]

    def subset(self, indices: NDArray[np.int64]) -> ImageLabels:
        """The table of the given images alone, in the given order."""
        return replace(
            self,
            file_names=self.file_names[indices],
            labels=self.labels[indices],
            store=self.store.subset(indices) if self.store else None,
        )
