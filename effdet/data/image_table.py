"""The image columns of a table, which both tasks have: where the images of a split are and how they are read.

The labels of the images are in `annotations.py` (boxes) and `labels.py` (classes).
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from effdet.data.images import read_file
from effdet.data.label_map import LabelMap
from effdet.data.shard_store import ShardStore
from effdet.errors import DataError
from effdet.types import Task

Table = TypeVar("Table", bound="ImageTable")
MAX_PLACES = 20  # files that are remembered for each cause of a repair


@dataclass(frozen=True, kw_only=True)
class ImageTable(ABC):
    """All images of one split (train or val) of a data set, as flat arrays with one row per image.

    There is no Python object per image, so that the table stays small and is shared with loader processes without being
    copied.

    Attributes:
        source: file or folder that the table was read from, for messages.
        image_folder: folder that `file_names` are relative to.
        file_names: [I] str.
        labels: int64 in 0..K-1, of the objects [N] or of the images [I].
        label_map: the classes.
        repairs: what was dropped, clipped, guessed or left out, by cause -> how often.
        places: cause -> the files concerned, at most `MAX_PLACES` of them.
        value_range: values of images with more than 8 bits that become black and white; None for those of the bit
            depth, see `decode_image`.
        store: where the images are in tar files; None if each is a file of its own.
        format: name of the format that it was read from; empty if it was not read by a recipe.
    """

    task: ClassVar[Task]
    columns: ClassVar[tuple[str, ...]]  # the fields with the labels of the images, all of them arrays

    source: Path
    image_folder: Path
    file_names: NDArray[np.str_]
    labels: NDArray[np.int64]
    label_map: LabelMap
    repairs: dict[str, int] = field(default_factory=dict)
    places: dict[str, tuple[str, ...]] = field(default_factory=dict)
    value_range: tuple[float, float] | None = None
    store: ShardStore | None = None
    format: str = ""

    def __post_init__(self) -> None:
        if not len(self.file_names):
            raise DataError(f"{self.source}: the data set has no images; expected at least one")

    def __len__(self) -> int:
        return len(self.file_names)

    @property
    def shards(self) -> NDArray[np.int64] | None:
        """Number of the shard that holds each image, [I]; None if each is a file of its own."""
        return self.store.shards if self.store else None

    def file_name(self, index: int) -> str:
        """File name of image `index` as the data set spells it, relative to `image_folder`."""
        return str(self.file_names[index])

    def image_id(self, index: int) -> int | str:
        """The data set's own id of image `index`, or its file name if the data set has no ids."""
        return self.file_name(index)

    def path(self, index: int) -> Path:
        """Path of image `index`; inside a shard: path of the shard and name of the member."""
        return self.image_folder / (self.store.path(index) if self.store else self.file_name(index))

    def identity(self, index: int) -> Path:
        """Cache key of image `index`: its path; inside a shard: path of the shard, position and checksum."""
        return self.image_folder / self.store.identity(index) if self.store else self.path(index)

    def read(self, index: int) -> bytes:
        """Content of the file of image `index`.

        Raises:
            DataError: it cannot be read.
        """
        return self.store.read(index) if self.store else read_file(self.path(index))

    def counts(self) -> dict[str, int]:
        """Size of the table by name, such as images and objects."""
        return {"images": len(self)}

    def notes(self) -> list[str]:
        """One line for each cause in `repairs`, to be shown once to the user of the data set."""
        return [f"{self.source.name}: {cause}: {count}{self._examples(cause)}" for cause, count in self.repairs.items()]

    def with_repairs(self: Table, cause: str, count: int, places: Iterable[str] = ()) -> Table:
        """The table with `count` more repairs of a cause, in the files `places`; the same table if there are none."""
        if not count:
            return self
        first = (*self.places.get(cause, ()), *islice(dict.fromkeys(places), MAX_PLACES))[:MAX_PLACES]
        return replace(
            self,
            repairs={**self.repairs, cause: self.repairs.get(cause, 0) + count},
            places={**self.places, cause: first} if first else self.places,
        )

    def _examples(self, cause: str) -> str:
        """Up to three files of a cause in brackets."""
        places = self.places.get(cause, ())
        more = ", ..." if len(places) > 3 else ""
        return f" ({', '.join(places[:3])}{more})" if places else ""

    def fingerprint(self) -> str:
        """SHA-256 of the table, wherever its images are: equal for equal data in the same order.

        The bytes of the images are not part of it.
        """
        return self._fingerprint(self.columns)

    def _fingerprint(self, columns: tuple[str, ...]) -> str:
        return _hash(
            # Absolute paths without their folder, so that the hash is the same on every machine.
            [os.path.basename(name) if os.path.isabs(name) else name for name in self.file_names.tolist()],
            self.label_map.names,
            self.label_map.category_ids,
            *(getattr(self, column) for column in columns),
        )

    @abstractmethod
    def record(self, index: int) -> dict[str, Any]:
        """The labels of image `index` as plain values, for files that other programs read."""

    @abstractmethod
    def image_of_label(self) -> NDArray[np.int64]:
        """Row of the image that each of `labels` belongs to."""

    def subset(self: Table, indices: NDArray[np.int64]) -> Table:
        """The table of the given images alone, in the given order."""
        store = self.store.subset(indices) if self.store else None
        return replace(self, file_names=self.file_names[indices], store=store, **self._subset_columns(indices))

    @abstractmethod
    def with_labels(self: Table, new_labels: NDArray[np.int64], label_map: LabelMap) -> Table:
        """The table with other classes; what gets the label -1 is left out.

        Args:
            new_labels: [K] label in `label_map` of each label of this table.
            label_map: the classes.
        """

    @abstractmethod
    def _subset_columns(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        """The fields named by `columns`, of the given images alone."""


def _hash(*columns: NDArray[Any] | Iterable[object]) -> str:
    """SHA-256 of arrays, by their bytes, and of other columns, by the text of their items."""
    total = hashlib.sha256()
    for column in columns:
        if isinstance(column, np.ndarray) and column.dtype.kind not in "US":
            data = column.tobytes()
        else:
            data = "\0".join(map(str, column)).encode(errors="surrogateescape")
        total.update(f"{len(data)} ".encode())
        total.update(data)
    return total.hexdigest()
