"""The half that both data sets share: decoding through the cache, errors of images, and what crosses processes.

What a sample is, and its random changes, is in `detection_dataset.py` and `classification_dataset.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from effdet.data.cache import Cache
from effdet.data.image_table import ImageTable
from effdet.data.images import Image, decode_image
from effdet.data.media_files import max_pixels
from effdet.data.train_order import Key
from effdet.errors import DataError
from effdet.structures import Batch, LabelBatch

TargetType = TypeVar("TargetType")
BatchType = TypeVar("BatchType", bound=Batch | LabelBatch)


class ImageDataset(Dataset[Any], Generic[TargetType, BatchType]):
    """Images of a table at the input size, each with its target.

    A sample is a function of the seed and the key alone, whichever process makes it and whatever was made before. A
    faulty image is returned as its error and not raised, so that it reaches the user from a loader process as one
    message.

    Attributes:
        table: the images and their labels.
        seed: seed of the random changes.
        cache: keeps decoded images; None for no cache.
    """

    def __init__(self, table: ImageTable, seed: int, cache: Cache | None) -> None:
        max_pixels()  # so that a wrong setting is an error here, and not in the loader processes
        self.table = table
        self.seed = seed
        self.cache = cache

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, key: Key | tuple[int, int]) -> tuple[Tensor, TargetType] | DataError:
        """Image, uint8 [3, H, W], and target of a key; or what is wrong with the file."""
        try:
            image, target = self.sample(Key(*key))
        except DataError as error:
            return error
        image = np.require(image, requirements="W")  # torch accepts no read-only arrays, such as those of the cache
        return torch.from_numpy(image).permute(2, 0, 1), target

    @abstractmethod
    def sample(self, key: Key) -> tuple[Image, TargetType]:
        """Image, uint8 RGB [H, W, 3], and target of a key.

        Raises:
            DataError: the image is missing, broken, or not as annotated.
        """

    @abstractmethod
    def pack(self, targets: list[TargetType]) -> Any:
        """The targets of a batch as arrays and plain values.

        A tensor that crosses a process boundary holds an open file, while arrays go by value. So only the images, which
        are large, travel as a tensor in shared memory.
        """

    @abstractmethod
    def unpack(self, images: Tensor, packed: Any) -> BatchType:
        """The batch of images [B, 3, H, W] and of what `pack` returned for their targets."""

    def decoded(self, index: int, reduction: int, data: bytes | None = None) -> Image:
        """The image of a row, decoded at a reduction; not to be written to.

        Args:
            index: row of the table.
            reduction: see `decode_image`.
            data: content of its file, if it has been read already.

        Raises:
            DataError: the image is missing or broken.
        """

        def decode() -> Image:
            content = self.table.read(index) if data is None else data
            return decode_image(content, str(self.table.path(index)), reduction, self.table.value_range)

        cache = self.cache
        return cache.image(index, self.table.identity(index), reduction, decode) if cache else decode()
