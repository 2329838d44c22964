"""What the tables of both tasks share: where the images of a part of a data set lie, and how they are read.

What is known of each image is in `annotations.py` and `labels.py`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.images import read_file
from effdet.data.shard_store import ShardStore
from effdet.errors import DataError


class ImageTable:
    """The images of one part of a data set; the fields stand in the tables themselves.

    Attributes:
        source: file or folder that the table was read from, for messages.
        image_folder: folder that `file_names` are relative to.
        file_names: [I] str.
        repairs: what was wrong with the data set and what was done about it -> how often.
        store: where the images lie in tar files; None where each is a file of its own.
    """

    source: Path
    image_folder: Path
    file_names: NDArray[np.str_]
    repairs: dict[str, int]
    store: ShardStore | None

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
        """Path of image `index` as the data set spells it, or its shard and what it is called there."""
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

    def notes(self) -> list[str]:
        """One line for every kind of repair, to be shown once to whoever uses the data set."""
        return [f"{self.source.name}: {what}: {count}" for what, count in self.repairs.items()]


def plain_names(file_names: NDArray[np.str_]) -> list[str]:
    """The file names, of absolute paths the last part alone, so that they are the same on every machine."""
    return [os.path.basename(name) if os.path.isabs(name) else name for name in file_names.tolist()]


def hash_columns(*columns: NDArray[Any] | Iterable[object]) -> str:
    """SHA-256 of the columns of a table, arrays by their bytes and others by the text of their items."""
    total = hashlib.sha256()
    for column in columns:
        array = isinstance(column, np.ndarray)
        data = (
            np.ascontiguousarray(column).data if array else "\0".join(map(str, column)).encode(errors="surrogateescape")
        )
        total.update(f"{len(data)} ".encode())
        total.update(data)
    return total.hexdigest()
