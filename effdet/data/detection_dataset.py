"""Samples of a detector: an image of the input size with its target, from one row of the annotations.

The order of the random changes is here; each change is in `augment/`, and the order of the rows in `train_order.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.config import DetectionAugment
from effdet.data.annotations import Annotations
from effdet.data.augment.erasing import random_erasing
from effdet.data.augment.mosaic import copy_paste, mixup, mosaic, mosaic_tiles
from effdet.data.augment.photometric import photometric_distortion
from effdet.data.augment.placement import Placement, apply_placement, draw_placement
from effdet.data.augment.rand_augment_boxes import rand_augment_boxes
from effdet.data.augment.sample import Sample
from effdet.data.cache import Cache
from effdet.data.dataset import ImageDataset
from effdet.data.exchanged_sizes import describe_exchange
from effdet.data.images import Image
from effdet.data.letterbox import fitting_scale, letterbox
from effdet.data.train_order import Key
from effdet.errors import DataError
from effdet.structures import Batch, Target
from effdet.types import Letterbox


class DetectionDataset(ImageDataset[Target, Batch]):
    """Images of a table at the input size, with their targets; see `ImageDataset`.

    A faulty image that is combined with another is an error of that sample. Crowd regions are no targets.

    Attributes:
        table: the images and their boxes.
        size: (H, W) of the network input.
        fill: RGB colour of the padding.
        antialias: whether images are resized with antialiasing, see `resize`.
        mode: whether images are padded or stretched to the input, see `letterbox`.
        augment: the random changes; None for evaluation, which uses the plain letterbox.
        epochs: length of the run; mosaic, copy-paste and mixup may stop some epochs before its end. None for no end.
        partners: rows of the images that may be combined with others; all if none are given.
    """

    table: Annotations

    def __init__(
        self,
        table: Annotations,
        size: tuple[int, int],
        fill: tuple[int, ...],
        antialias: bool,
        mode: Letterbox,
        augment: DetectionAugment | None,
        seed: int,
        epochs: int | None = None,
        cache: Cache | None = None,
        partners: NDArray[np.int64] | None = None,
    ) -> None:
        super().__init__(table, seed, cache)
        self.size = size
        self.fill = fill
        self.antialias = antialias
        self.mode: Letterbox = mode
        self.augment = augment
        self.epochs = epochs
        self.partners = np.arange(len(table)) if partners is None else partners

    def sample(self, key: Key) -> tuple[Image, Target]:
        """Image, uint8 RGB [H, W, 3], and target of a key; see `ImageDataset.sample`."""
        size = key.size or self.size
        if self.augment is None:
            sample, original, scale = self._letterboxed(key.row, size)
        else:
            sample, placement = self._augmented(key, self.augment, size)
            original, scale = placement.original, placement.scale
        target = Target(torch.from_numpy(sample.boxes), torch.from_numpy(sample.labels), key.row, original, scale)
        return sample.image, target

    def pack(self, targets: list[Target]) -> list[tuple[Any, ...]]:
        """The targets without tensors; see `ImageDataset.pack`."""
        return [
            (target.boxes.numpy(), target.labels.numpy(), target.index, target.size, target.scale) for target in targets
        ]

    def unpack(self, images: Tensor, packed: list[tuple[Any, ...]]) -> Batch:
        """The batch of images [B, 3, H, W] and of their packed targets."""
        targets = (
            Target(torch.from_numpy(boxes), torch.from_numpy(labels), index, tuple(size), tuple(scale))
            for boxes, labels, index, size, scale in packed
        )
        return Batch(images, tuple(targets))

    def decoded(self, index: int, reduction: int, data: bytes | None = None) -> Image:
        """The image of a row, decoded at a reduction; not to be written to.

        Raises:
            DataError: the image is missing, broken, or of another size than annotated.
        """
        image = super().decoded(index, reduction, data)
        self._check_size(image, index, reduction)
        return image

    def _letterboxed(self, index: int, size: tuple[int, int]) -> tuple[Sample, tuple[int, int], tuple[float, float]]:
        """A row in the letterbox of `size`, for evaluation; the size of its image and the scale."""
        boxes, labels = self._objects(index)
        whole = self.decoded(index, 1)
        image, (vertical, horizontal) = letterbox(whole, size, self.fill, self.antialias, self.mode)
        boxes = boxes * np.array([horizontal, vertical, horizontal, vertical], np.float32)
        return Sample(image, boxes, labels), whole.shape[:2], (vertical, horizontal)

    def _augmented(self, key: Key, augment: DetectionAugment, size: tuple[int, int]) -> tuple[Sample, Placement]:
        """The sample of `size` to train on, and the placement of the row's own image in it."""
        index, rng = key.row, key.rng(self.seed)
        combining = self.epochs is None or key.epoch < self.epochs - augment.close_mosaic_epochs
        if combining and _happens(augment.mosaic, rng):
            tiles = mosaic_tiles(size, rng)
            rows = [index, *self._draw_partners(len(tiles) - 1, rng)]
            shapes = [(tile[0].stop - tile[0].start, tile[1].stop - tile[1].start) for tile in tiles]
            views = [self._placed(row, augment, size, shape, rng) for row, shape in zip(rows, shapes, strict=True)]
            sample, placement = mosaic([view for view, _ in views], tiles, size), views[0][1]
        else:
            sample, placement = self._placed(index, augment, size, size, rng)
        for combine, probability in ((copy_paste, augment.copy_paste), (mixup, augment.mixup)):
            if combining and _happens(probability, rng):
                (partner,) = self._draw_partners(1, rng)
                other, _ = self._placed(partner, augment, size, size, rng)
                sample = combine(sample, other, rng)
        return sample._replace(image=random_erasing(sample.image, augment.random_erasing, rng)), placement

    def _placed(
        self,
        index: int,
        augment: DetectionAugment,
        size: tuple[int, int],
        canvas: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[Sample, Placement]:
        """One row changed by itself on a canvas (H, W): that of the sample's `size`, or a tile of it."""
        boxes, labels = self._objects(index)
        height, width = (int(side) for side in self.table.sizes[index])
        # RandAugment changes whole images; and without an annotated size, it is known only from the whole image.
        whole = self.decoded(index, 1) if augment.rand_augment.layers or min(height, width) <= 0 else None
        original = (height, width) if whole is None else whole.shape[:2]
        scale = self._scale(original, augment, size, canvas, rng)
        reducible = self.antialias and whole is None
        placement = draw_placement(original, canvas, scale, augment.horizontal_flip, reducible, rng)
        image = self.decoded(index, placement.reduction) if whole is None else whole
        sample = Sample(photometric_distortion(image, augment.photometric, rng), boxes, labels)
        if augment.rand_augment.layers:
            sample = rand_augment_boxes(sample, augment.rand_augment.layers, augment.rand_augment.magnitude, rng)
        return apply_placement(sample, placement, canvas, self.fill, self.antialias), placement

    def _scale(
        self,
        original: tuple[int, int],
        augment: DetectionAugment,
        size: tuple[int, int],
        canvas: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[float, float]:
        """The scales (vertical, horizontal) of an image of the size `original` on a canvas, see `_placed`."""
        if augment.scale_jitter is not None:  # of the whole sample, in a tile too: as large as without the mosaic
            factor = rng.uniform(*augment.scale_jitter)
        elif self.mode == "stretch":  # a tile has another shape than the input, whose stretch stays
            (factor, _) = fitting_scale(size, canvas, "pad")
        else:
            return fitting_scale(original, canvas, "pad")
        vertical, horizontal = fitting_scale(original, size, self.mode)
        return factor * vertical, factor * horizontal

    def _draw_partners(self, count: int, rng: np.random.Generator) -> list[int]:
        """Rows of images to combine with."""
        rows: list[int] = self.partners[rng.integers(len(self.partners), size=count)].tolist()
        return rows

    def _objects(self, index: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes, in pixels of the original, and labels of a row."""
        rows = self.table.rows(index)
        objects = ~self.table.crowd[rows]
        return self.table.boxes[rows][objects], self.table.labels[rows][objects]

    def _check_size(self, image: Image, index: int, reduction: int) -> None:
        height, width = (int(side) for side in self.table.sizes[index])
        if min(height, width) <= 0 or image.shape[:2] == (-(-height // reduction), -(-width // reduction)):
            return
        if reduction > 1:
            image = self.decoded(index, 1)  # for its full size
        message = (
            f"{self.table.path(index)}: the image is {image.shape[1]} x {image.shape[0]} pixels, "
            f"its annotation says {width} x {height} (width x height)"
        )
        exchanged = image.shape[:2] == (width, height)
        advice = describe_exchange(self.table, index) if exchanged else "use the image that was annotated"
        raise DataError(f"{message}; {advice}")


def _happens(probability: float, rng: np.random.Generator) -> bool:
    """Whether an event of a probability happens; 0 draws nothing, so that other draws stay equal."""
    return probability > 0 and rng.random() < probability
