"""Samples of a detector: an image of the input size with its target, from one row of the annotations.

How rows are ordered and batched is in `data/loader.py`; single random changes are in `data/augment.py`; samples of a
classifier are in `data/classify.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from effdet.config import DetectionAugment
from effdet.data.annotations import Annotations
from effdet.data.augment import horizontal_flip, scale_jitter, visible_boxes
from effdet.data.images import Image, letterbox, read_image
from effdet.errors import DataError
from effdet.structures import Batch, Target

Sample = tuple[Tensor, Target]
PackedTarget = tuple[NDArray[np.float32], NDArray[np.int64], int, tuple[int, int], tuple[float, float]]


class DetectionDataset(Dataset[Sample | DataError]):
    """Images of a table at the input size, with their targets.

    A sample is a function of the seed, the epoch and the row alone, whichever process makes it and whatever was made
    before. A faulty image is returned as its error and not raised, so that it reaches the user from a loader process in
    one sentence. Crowd regions are no targets.

    Attributes:
        annotations: the table.
        size: (H, W) of the network input.
        fill: RGB colour of the padding.
        augment: the random changes; None for evaluation, which takes the plain letterbox.
        seed: seed of the random changes.
    """

    def __init__(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        fill: tuple[int, ...],
        augment: DetectionAugment | None,
        seed: int,
    ) -> None:
        self.annotations = annotations
        self.size = size
        self.fill = fill
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: tuple[int, int]) -> Sample | DataError:
        """Image, uint8 [3, H, W] of the input size, and target of (epoch, row); or what is wrong with the file."""
        epoch, index = key
        try:
            image = read_image(self.annotations.path(index))
            self._check_size(image, index)
        except DataError as error:
            return error
        original_size = image.shape[:2]
        rows = self.annotations.rows(index)
        objects = ~self.annotations.crowd[rows]
        boxes, labels = self.annotations.boxes[rows][objects], self.annotations.labels[rows][objects]
        if self.augment is None:
            image, scale = letterbox(image, self.size, self.fill)
            boxes = _scaled(boxes, scale)
        else:
            rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch, index])))
            image, boxes = horizontal_flip(image, boxes, self.augment.horizontal_flip, rng)
            if self.augment.scale_jitter is None:
                image, scale = letterbox(image, self.size, self.fill)
                boxes, labels = visible_boxes(_scaled(boxes, scale), labels, self.size)
            else:
                image, boxes, labels, scale = scale_jitter(
                    image, boxes, labels, self.size, self.augment.scale_jitter, self.fill, rng
                )
        target = Target(torch.from_numpy(boxes), torch.from_numpy(labels), index, original_size, scale)
        return torch.from_numpy(image).permute(2, 0, 1), target

    def pack(self, samples: list[Sample]) -> list[PackedTarget]:
        """The targets of the samples without tensors; see `loader.BatchSource`."""
        targets = [target for _, target in samples]
        return [
            (target.boxes.numpy(), target.labels.numpy(), target.index, target.size, target.scale) for target in targets
        ]

    def unpack(self, images: Tensor, packed: list[PackedTarget]) -> Batch:
        """The batch of images [B, 3, H, W] and of their packed targets."""
        targets = (
            Target(torch.from_numpy(boxes), torch.from_numpy(labels), index, size, scale)
            for boxes, labels, index, size, scale in packed
        )
        return Batch(images, tuple(targets))

    def _check_size(self, image: Image, index: int) -> None:
        height, width = (int(side) for side in self.annotations.sizes[index])
        if min(height, width) <= 0 or image.shape[:2] == (height, width):
            return
        message = (
            f"{self.annotations.path(index)}: the image is {image.shape[1]} x {image.shape[0]} pixels, "
            f"its annotation says {width} x {height} (width x height)"
        )
        if image.shape[:2] == (width, height):
            message += "; the annotations seem to be made without the EXIF rotation, annotate the upright image"
        else:
            message += "; use the image that was annotated"
        raise DataError(message)


def _scaled(boxes: NDArray[np.float32], scale: tuple[float, float]) -> NDArray[np.float32]:
    vertical, horizontal = scale
    return boxes * np.array([horizontal, vertical, horizontal, vertical], np.float32)
