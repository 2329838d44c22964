"""The one table that every format of labelled images becomes: flat arrays over images, and the map of the classes.

Images with boxes have a table of their own in `data/annotations.py`. The readers are in `data/formats`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import LabelMap
from effdet.data.images import read_file
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
    """

    source: Path
    image_folder: Path
    file_names: NDArray[np.str_]
    labels: NDArray[np.int64]
    label_map: LabelMap
    repairs: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not len(self.file_names):
            raise DataError(f"{self.source}: the data set has no images; expected at least one")

    def __len__(self) -> int:
        return len(self.file_names)

    def path(self, index: int) -> Path:
        """Path of image `index`."""
        return self.image_folder / str(self.file_names[index])

    def read(self, index: int) -> bytes:
        """Content of the file of image `index`.

        Raises:
            DataError: it cannot be read.
        """
        return read_file(self.path(index))

    def notes(self) -> list[str]:
        """One line for every kind of repair, to be shown once to whoever uses the data set."""
        return [f"{self.source.name}: {what}: {count}" for what, count in self.repairs.items()]
