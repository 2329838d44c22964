"""Samples of a detector: an image of the input size with its target, from one row of the annotations.

How rows are ordered and batched is in `data/loader.py`; single random changes are in `data/augment.py` and its
neighbours; samples of a classifier are in `data/classify.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from effdet.config import DetectionAugment
from effdet.data.annotations import Annotations
from effdet.data.augment import Boxes, Labels, Scene, horizontal_flip, scale_jitter, visible_boxes
from effdet.data.classify import random_erasing
from effdet.data.images import Image, letterbox, decode_image
from effdet.data.mosaic import Tile, copy_paste, mixup, mosaic, mosaic_tiles
from effdet.data.photometric import photometric_distortion
from effdet.data.rand_augment_boxes import rand_augment_boxes
from effdet.errors import DataError
from effdet.structures import Batch, Target

Sample = tuple[Tensor, Target]
Scale = tuple[float, float]
PackedTarget = tuple[Boxes, Labels, int, tuple[int, int], Scale]


class DetectionDataset(Dataset[Sample | DataError]):
    """Images of a table at the input size, with their targets.

    A sample is a function of the seed, the epoch and the row alone, whichever process makes it and whatever was made
    before. A faulty image is returned as its error and not raised, so that it reaches the user from a loader process in
    one sentence, and so is a faulty one that is joined to it. Crowd regions are no targets.

    Attributes:
        annotations: the table.
        size: (H, W) of the network input.
        fill: RGB colour of the padding.
        augment: the random changes; None for evaluation, which takes the plain letterbox.
        seed: seed of the random changes.
        epochs: length of the run, before whose end mosaic, copy-paste and mixup may stop; None for no end.
    """

    def __init__(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        fill: tuple[int, ...],
        augment: DetectionAugment | None,
        seed: int,
        epochs: int | None = None,
    ) -> None:
        self.annotations = annotations
        self.size = size
        self.fill = fill
        self.augment = augment
        self.seed = seed
        self.epochs = epochs

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: tuple[int, int]) -> Sample | DataError:
        """Image, uint8 [3, H, W] of the input size, and target of (epoch, row); or what is wrong with the file."""
        epoch, index = key
        try:
            own = self._read(index)
            if self.augment is None:
                (image, boxes, labels), scale = self._fitted(own, self.size)
            else:
                (image, boxes, labels), scale = self._changed(own, self.augment, epoch, index)
        except DataError as error:
            return error
        target = Target(torch.from_numpy(boxes), torch.from_numpy(labels), index, own.image.shape[:2], scale)
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

    def _changed(self, own: Scene, augment: DetectionAugment, epoch: int, index: int) -> tuple[Scene, Scale]:
        """The scene that is trained on, in the input size, and the scale of the row's own image in it."""
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch, index])))
        joining = self.epochs is None or epoch < self.epochs - augment.close_mosaic_epochs
        if joining and _happens(augment.mosaic, rng):
            tiles = mosaic_tiles(self.size, rng)
            sources = [own, *(self._read(int(row)) for row in rng.integers(len(self), size=len(tiles) - 1))]
            views = [self._view(source, augment, tile, rng) for source, tile in zip(sources, tiles, strict=True)]
            scene, scale = mosaic([view for view, _ in views], tiles, self.size), views[0][1]
        else:
            scene, scale = self._view(own, augment, None, rng)
        for join, probability in ((copy_paste, augment.copy_paste), (mixup, augment.mixup)):
            if joining and _happens(probability, rng):
                other, _ = self._view(self._read(int(rng.integers(len(self)))), augment, None, rng)
                scene = join(scene, other, rng)
        return scene._replace(image=random_erasing(scene.image, augment.random_erasing, rng)), scale

    def _view(
        self, scene: Scene, augment: DetectionAugment, tile: Tile | None, rng: np.random.Generator
    ) -> tuple[Scene, Scale]:
        """One image changed by itself and brought to the input size, or for a mosaic to the size of its tile."""
        image = photometric_distortion(scene.image, augment.photometric, rng)
        scene = rand_augment_boxes(scene._replace(image=image), augment.rand_layers, augment.rand_magnitude, rng)
        image, boxes = horizontal_flip(scene.image, scene.boxes, augment.horizontal_flip, rng)
        scene = Scene(image, boxes, scene.labels)
        size = self.size if tile is None else (tile[0].stop - tile[0].start, tile[1].stop - tile[1].start)
        if augment.scale_jitter is None:
            scene, scale = self._fitted(scene, size)
            boxes, labels = visible_boxes(scene.boxes, scene.labels, size)
            return Scene(scene.image, boxes, labels), scale
        # Scales are relative to the whole input, in a tile too: objects are as large as without the mosaic.
        ratio = _fitting(image, self.size) / _fitting(image, size)
        smallest, largest = augment.scale_jitter
        scales = smallest * ratio, largest * ratio
        image, boxes, labels, scale = scale_jitter(*scene, size, scales, self.fill, rng)
        return Scene(image, boxes, labels), scale

    def _fitted(self, scene: Scene, size: tuple[int, int]) -> tuple[Scene, Scale]:
        """The whole scene in the letterbox of `size`."""
        image, scale = letterbox(scene.image, size, self.fill)
        vertical, horizontal = scale
        boxes = scene.boxes * np.array([horizontal, vertical, horizontal, vertical], np.float32)
        return Scene(image, boxes, scene.labels), scale

    def _read(self, index: int) -> Scene:
        """The image of a row with its objects.

        Raises:
            DataError: the file is faulty, or not as annotated.
        """
        image = decode_image(self.annotations.read(index), str(self.annotations.path(index)))
        self._check_size(image, index)
        rows = self.annotations.rows(index)
        objects = ~self.annotations.crowd[rows]
        return Scene(image, self.annotations.boxes[rows][objects], self.annotations.labels[rows][objects])

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


def _happens(probability: float, rng: np.random.Generator) -> bool:
    """Whether something of a probability happens; what never does draws nothing, so that other draws stay the same."""
    return probability > 0 and rng.random() < probability


def _fitting(image: Image, size: tuple[int, int]) -> float:
    """The scale at which an image just fits into `size` (H, W)."""
    height, width = image.shape[:2]
    scale: float = min(size[0] / height, size[1] / width)
    return scale
