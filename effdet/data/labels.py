"""The table of images with one class each, which every classification format is read into.

The readers that fill it are in `data/formats`; images with boxes have the table of `annotations.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.types import Task


@dataclass(frozen=True, kw_only=True)
class ImageLabels(ImageTable):
    """All images of one split of a data set with the class of each; see `ImageTable` for the other attributes.

    The category ids of the label map are 0..K-1.
    """

    task: ClassVar[Task] = "classification"
    columns = ("labels",)

    def record(self, index: int) -> dict[str, Any]:
        """Label and class name of image `index` as plain values."""
        label = int(self.labels[index])
        return {"label": label, "name": self.label_map.names[label]}

    def image_of_label(self) -> NDArray[np.int64]:
        """The rows themselves, [I]."""
        return np.arange(len(self))

    def with_labels(self, new_labels: NDArray[np.int64], label_map: LabelMap) -> ImageLabels:
        """The table with other classes; images whose class gets the label -1 are left out."""
        labels = new_labels[self.labels]
        kept = self.subset(np.flatnonzero(labels >= 0))
        return replace(kept, labels=labels[labels >= 0], label_map=label_map)

    def _subset_columns(self, indices: NDArray[np.int64]) -> dict[str, Any]:
        return {"labels": self.labels[indices]}
