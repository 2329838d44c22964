"""Samples of a classifier: an image of the input size with its label, from one row of the table.

Random changes are in `augment/`, the order of the rows in `train_order.py`, resizing in `resize.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.config import ClassificationAugment, ProgressiveConfig
from effdet.data.augment.classification import augment_image
from effdet.data.augment.crop import random_crop
from effdet.data.cache import Cache
from effdet.data.dataset import ImageDataset
from effdet.data.images import Image, usable_reduction
from effdet.data.jpeg import jpeg_size
from effdet.data.labels import ImageLabels
from effdet.data.progressive import StageSettings, stage_settings
from effdet.data.resize import classification_view, resize
from effdet.data.train_order import Key
from effdet.structures import LabelBatch


class ClassificationDataset(ImageDataset[tuple[int, int], LabelBatch]):
    """Images of a table at the input size, with label and row as target; see `ImageDataset`.

    Attributes:
        table: the images and their labels.
        size: (H, W) of the network input; the size of training images may change from stage to stage.
        crop: fraction of the resized image that evaluation keeps, see `classification_view`.
        interpolation: 'bilinear' or 'bicubic'.
        augment: the random changes; None for evaluation, which uses the plain view.
        progressive: what changes from stage to stage; None for nothing.
        epochs: length of the run, which the stages divide.
    """

    table: ImageLabels

    def __init__(
        self,
        table: ImageLabels,
        size: tuple[int, int],
        crop: float,
        interpolation: str,
        augment: ClassificationAugment | None,
        progressive: ProgressiveConfig | None,
        epochs: int,
        seed: int,
        cache: Cache | None = None,
    ) -> None:
        super().__init__(table, seed, cache)
        self.size = size
        self.crop = crop
        self.interpolation = interpolation
        self.augment = augment
        self.progressive = progressive
        self.epochs = epochs

    def settings_of(self, epoch: int) -> StageSettings:
        """What holds in an epoch, counted from 0; see `stage_settings`."""
        return stage_settings(epoch, self.epochs, self.size, self.augment, self.progressive)

    def sample(self, key: Key) -> tuple[Image, tuple[int, int]]:
        """Image, uint8 RGB [H, W, 3], and (label, row) of a key; see `ImageDataset.sample`."""
        index, size = key.row, key.size
        target = int(self.table.labels[index]), index
        if self.augment is None:
            whole = self.decoded(index, 1)
            return classification_view(whole, size or self.size, self.crop, self.interpolation), target
        settings, rng = self.settings_of(key.epoch), key.rng(self.seed)
        view = self._cropped(index, self.augment, size or settings.image_size, rng)
        return augment_image(view, self.augment, settings.rand_augment_magnitude, rng), target

    def pack(self, targets: list[tuple[int, int]]) -> NDArray[np.int64]:
        """Labels and rows, [B, 2]; see `ImageDataset.pack`."""
        return np.array(targets, np.int64)

    def unpack(self, images: Tensor, packed: NDArray[np.int64]) -> LabelBatch:
        """The batch of images [B, 3, H, W] and of their packed labels and rows."""
        labels, indices = packed.T
        return LabelBatch(images, torch.from_numpy(labels.copy()), indices.tolist())

    def _cropped(
        self, index: int, augment: ClassificationAugment, size: tuple[int, int], rng: np.random.Generator
    ) -> Image:
        """A random crop of an image, uint8 RGB of `size`, or the view of evaluation."""
        data = self.table.read(index)
        original = jpeg_size(data)
        if original is None:
            whole = self.decoded(index, 1, data)
            window = random_crop(whole.shape[:2], size, augment.crop_area, augment.crop_aspect, rng)
            return self._cut(whole, window, 1, size)
        # The size of a JPEG is known before it is decoded, and then no more is decoded than will be visible.
        window = random_crop(original, size, augment.crop_area, augment.crop_aspect, rng)
        reduction = self._reduction(original, window, size)
        image = self.decoded(index, reduction, data)
        # In case that the decoder reads a faulty EXIF header in another way.
        image = resize(image, (-(-original[0] // reduction), -(-original[1] // reduction)), self.interpolation)
        return self._cut(image, window, reduction, size)

    def _reduction(self, original: tuple[int, int], window: tuple[slice, slice] | None, size: tuple[int, int]) -> int:
        """How far the image may be decoded smaller for a window of it, or for the view of evaluation."""
        if window is None:
            shrink = min(side * self.crop / new for side, new in zip(original, size, strict=True))
        else:
            shrink = min((extent.stop - extent.start) / new for extent, new in zip(window, size, strict=True))
        return usable_reduction(shrink)

    def _cut(self, image: Image, window: tuple[slice, slice] | None, reduction: int, size: tuple[int, int]) -> Image:
        """A window of the original in an image decoded at a reduction, resized; without one the view of evaluation."""
        if window is None:
            return classification_view(image, size, self.crop, self.interpolation)
        rows, columns = (slice(extent.start // reduction, -(-extent.stop // reduction)) for extent in window)
        return resize(image[rows, columns], size, self.interpolation)
