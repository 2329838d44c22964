"""Samples of a detector: an image of the input size with its target, from one row of the annotations.

How rows are ordered is in `data/sampling.py`; single random changes are in `data/augment.py` and its neighbours;
samples of a classifier are in `data/classify.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from effdet.config import DetectionAugment
from effdet.data.annotations import Annotations
from effdet.data.augment.mosaic import copy_paste, mixup, mosaic, mosaic_tiles
from effdet.data.augment.photometric import photometric_distortion
from effdet.data.augment.placement import Boxes, Labels, Placement, Scene, apply_placement, draw_placement
from effdet.data.augment.rand_augment_boxes import rand_augment_boxes
from effdet.data.cache import Cache
from effdet.data.classification_dataset import random_erasing
from effdet.data.images import REDUCTIONS, Image, decode_image, fitting_scale, letterbox
from effdet.data.sampling import Key
from effdet.errors import DataError
from effdet.structures import Batch, Target

Sample = tuple[Tensor, Target]
Scale = tuple[float, float]
PackedTarget = tuple[Boxes, Labels, int, tuple[int, int], Scale]


class DetectionDataset(Dataset[Sample | DataError]):
    """Images of a table at the input size, with their targets.

    A sample is a function of the seed and the key alone, whichever process makes it and whatever was made before. A
    faulty image is returned as its error and not raised, so that it reaches the user from a loader process in one
    sentence, and so is a faulty one that is joined to it. Crowd regions are no targets.

    Attributes:
        annotations: the table.
        size: (H, W) of the network input.
        fill: RGB colour of the padding.
        augment: the random changes; None for evaluation, which takes the plain letterbox.
        seed: seed of the random changes.
        epochs: length of the run, before whose end mosaic, copy-paste and mixup may stop; None for no end.
        cache: where decoded images are kept; None for nowhere.
        partners: rows of the images that may be joined to others; all where none are given.
    """

    def __init__(
        self,
        annotations: Annotations,
        size: tuple[int, int],
        fill: tuple[int, ...],
        augment: DetectionAugment | None,
        seed: int,
        epochs: int | None = None,
        cache: Cache | None = None,
        partners: NDArray[np.int64] | None = None,
    ) -> None:
        self.annotations = annotations
        self.size = size
        self.fill = fill
        self.augment = augment
        self.seed = seed
        self.epochs = epochs
        self.cache = cache
        self.partners = np.arange(len(annotations)) if partners is None else partners

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, key: Key | tuple[int, int]) -> Sample | DataError:
        """Image, uint8 [3, H, W], and target of a key; or what is wrong with the file."""
        key = Key(*key)
        index, size = key.row, key.size or self.size
        try:
            if self.augment is None:
                scene, original, scale = self._whole(index, size)
            else:
                scene, placement = self._changed(key, self.augment, size)
                original, scale = placement.original, placement.scale
        except DataError as error:
            return error
        image = np.require(scene.image, requirements="W")  # torch takes no read-only arrays, such as the cache gives
        target = Target(torch.from_numpy(scene.boxes), torch.from_numpy(scene.labels), index, original, scale)
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
            Target(torch.from_numpy(boxes), torch.from_numpy(labels), index, (height, width), (vertical, horizontal))
            for boxes, labels, index, (height, width), (vertical, horizontal) in packed
        )
        return Batch(images, tuple(targets))

    def _whole(self, index: int, size: tuple[int, int]) -> tuple[Scene, tuple[int, int], Scale]:
        """A row as evaluation sees it, in the letterbox of `size`; the size of its image and the scale."""
        boxes, labels = self._objects(index)
        whole = self._decoded(index, 1)
        image, (vertical, horizontal) = letterbox(whole, size, self.fill)
        boxes = boxes * np.array([horizontal, vertical, horizontal, vertical], np.float32)
        return Scene(image, boxes, labels), whole.shape[:2], (vertical, horizontal)

    def _changed(self, key: Key, augment: DetectionAugment, size: tuple[int, int]) -> tuple[Scene, Placement]:
        """The scene of `size` that is trained on, and where the row's own image lies in it."""
        index, rng = key.row, key.rng(self.seed)
        joining = self.epochs is None or key.epoch < self.epochs - augment.close_mosaic_epochs
        if joining and _happens(augment.mosaic, rng):
            tiles = mosaic_tiles(size, rng)
            rows = [index, *self._draw_partners(len(tiles) - 1, rng)]
            shapes = [(tile[0].stop - tile[0].start, tile[1].stop - tile[1].start) for tile in tiles]
            views = [self._view(row, augment, size, shape, rng) for row, shape in zip(rows, shapes, strict=True)]
            scene, placement = mosaic([view for view, _ in views], tiles, size), views[0][1]
        else:
            scene, placement = self._view(index, augment, size, size, rng)
        for join, probability in ((copy_paste, augment.copy_paste), (mixup, augment.mixup)):
            if joining and _happens(probability, rng):
                (partner,) = self._draw_partners(1, rng)
                other, _ = self._view(partner, augment, size, size, rng)
                scene = join(scene, other, rng)
        return scene._replace(image=random_erasing(scene.image, augment.random_erasing, rng)), placement

    def _view(
        self,
        index: int,
        augment: DetectionAugment,
        size: tuple[int, int],
        canvas: tuple[int, int],
        rng: np.random.Generator,
    ) -> tuple[Scene, Placement]:
        """One row changed by itself in a canvas (H, W): that of the sample's `size`, or a tile of it."""
        boxes, labels = self._objects(index)
        height, width = (int(side) for side in self.annotations.sizes[index])
        # RandAugment changes whole images; and where no size is annotated, the whole image tells it.
        whole = self._decoded(index, 1) if augment.rand_augment.layers or min(height, width) <= 0 else None
        original = (height, width) if whole is None else whole.shape[:2]
        if augment.scale_jitter is None:
            scale = fitting_scale(original, canvas)
        else:  # relative to the whole sample, in a tile too: objects are as large as without the mosaic
            scale = rng.uniform(*augment.scale_jitter) * fitting_scale(original, size)
        coarsest = REDUCTIONS[0] if whole is None else 1
        placement = draw_placement(original, canvas, scale, augment.horizontal_flip, coarsest, rng)
        image = self._decoded(index, placement.reduction) if whole is None else whole
        scene = Scene(photometric_distortion(image, augment.photometric, rng), boxes, labels)
        if augment.rand_augment.layers:
            scene = rand_augment_boxes(scene, augment.rand_augment.layers, augment.rand_augment.magnitude, rng)
        return apply_placement(scene, placement, canvas, self.fill), placement

    def _draw_partners(self, count: int, rng: np.random.Generator) -> list[int]:
        """Rows of images to join."""
        rows: list[int] = self.partners[rng.integers(len(self.partners), size=count)].tolist()
        return rows

    def _objects(self, index: int) -> tuple[Boxes, Labels]:
        """Boxes, in pixels of the original, and labels of a row."""
        rows = self.annotations.rows(index)
        objects = ~self.annotations.crowd[rows]
        return self.annotations.boxes[rows][objects], self.annotations.labels[rows][objects]

    def _decoded(self, index: int, reduction: int) -> Image:
        """The image of a row at a reduction, not to be written to.

        Raises:
            DataError: the file is faulty, or not as annotated.
        """

        def decode() -> Image:
            return decode_image(self.annotations.read(index), str(self.annotations.path(index)), reduction)

        cache = self.cache
        image = cache.image(index, self.annotations.identity(index), reduction, decode) if cache else decode()
        self._check_size(image, index, reduction)
        return image

    def _check_size(self, image: Image, index: int, reduction: int) -> None:
        height, width = (int(side) for side in self.annotations.sizes[index])
        if min(height, width) <= 0 or image.shape[:2] == (-(-height // reduction), -(-width // reduction)):
            return
        if reduction > 1:
            image = self._decoded(index, 1)  # which tells the size that it has
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
