"""Samples of a classifier: an image of the input size with its class, from one row of the labels.

How rows are ordered is in `data/sampling.py`; the images of a batch are mixed in `data/mixing.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from effdet.config import ClassificationAugment, ProgressiveConfig
from effdet.data.augment.rand_augment import rand_augment
from effdet.data.cache import Cache
from effdet.data.images import REDUCTIONS, Image, decode_image, jpeg_size
from effdet.data.labels import ImageLabels
from effdet.data.resize import classification_view, resize
from effdet.data.sampling import Key
from effdet.errors import DataError
from effdet.structures import LabelBatch

Sample = tuple[Tensor, int, int]
Window = tuple[slice, slice]  # rows and columns

ATTEMPTS = 10  # at a random rectangle that fits into the image
ERASED_AREA = (0.02, 1 / 3)  # share of the image
ERASED_ASPECT = (0.3, 3.3)  # width to height


@dataclass(frozen=True)
class StageSettings:
    """What holds in an epoch, stage by stage or all the time.

    Attributes:
        image_size: (H, W) of the images.
        rand_augment_magnitude: strength of RandAugment.
        mixup_alpha: alpha of mixup, 0 for none.
        cutmix_alpha: alpha of cutmix, 0 for none.
        dropout: rate before the last layer; None leaves it as it is.
    """

    image_size: tuple[int, int]
    rand_augment_magnitude: float
    mixup_alpha: float
    cutmix_alpha: float
    dropout: float | None


def stage_of(epoch: int, epochs: int, num_stages: int) -> int:
    """Stage in 0..num_stages-1 of an epoch, counted from 0, where stages share the epochs of a run equally.

    Stage s begins with epoch int(epochs * s / num_stages). Source: EfficientNetV2, section 4, and its reference code.
    """
    return sum(epoch >= epochs * stage // num_stages for stage in range(1, num_stages))


class ClassificationDataset(Dataset[Sample | DataError]):
    """Images of a table at the input size, with their classes.

    A sample is a function of the seed and the key alone, whichever process makes it and whatever was made before. A
    faulty image is returned as its error and not raised, so that it reaches the user from a loader process in one
    sentence.

    Attributes:
        labels: the table.
        size: (H, W) of the network input; the size of training images may change from stage to stage.
        crop: share of the resized image that evaluation keeps, see `classification_view`.
        interpolation: 'bilinear' or 'bicubic'.
        augment: the random changes; None for evaluation, which takes the plain view.
        progressive: what changes from stage to stage; None for nothing.
        epochs: length of the run, which the stages share.
        seed: seed of the random changes.
        cache: where decoded images are kept; None for nowhere.
    """

    def __init__(
        self,
        labels: ImageLabels,
        size: tuple[int, int],
        crop: float,
        interpolation: str,
        augment: ClassificationAugment | None,
        progressive: ProgressiveConfig | None,
        epochs: int,
        seed: int,
        cache: Cache | None = None,
    ) -> None:
        self.labels = labels
        self.size = size
        self.crop = crop
        self.interpolation = interpolation
        self.augment = augment
        self.progressive = progressive
        self.epochs = epochs
        self.seed = seed
        self.cache = cache

    def __len__(self) -> int:
        return len(self.labels)

    def settings_of(self, epoch: int) -> StageSettings:
        """What holds in an epoch, counted from 0: the values of its stage, else those of the recipe."""
        augment = self.augment
        settings = StageSettings(
            image_size=self.size,
            rand_augment_magnitude=augment.rand_augment.magnitude if augment else 0.0,
            mixup_alpha=augment.mixup_alpha if augment else 0.0,
            cutmix_alpha=augment.cutmix_alpha if augment else 0.0,
            dropout=None,
        )
        if self.progressive is None:
            return settings
        stage = stage_of(epoch, self.epochs, self.progressive.num_stages)
        values = {key: per_stage[stage] for key, per_stage in self.progressive if per_stage is not None}
        if "image_size" in values:
            values["image_size"] = (values["image_size"], values["image_size"])
        return replace(settings, **values)

    def __getitem__(self, key: Key | tuple[int, int]) -> Sample | DataError:
        """Image, uint8 [3, H, W], label and row of a key; or what is wrong with the file."""
        key = Key(*key)
        index, size = key.row, key.size
        try:
            if self.augment is None:
                whole = self._decoded(index, self.labels.read(index), 1)
                image = classification_view(whole, size or self.size, self.crop, self.interpolation)
            else:
                settings, rng = self.settings_of(key.epoch), key.rng(self.seed)
                view = self._view(index, self.augment, size or settings.image_size, rng)
                image = augment_image(view, self.augment, settings.rand_augment_magnitude, rng)
        except DataError as error:
            return error
        image = np.require(image, requirements="W")  # torch takes no read-only arrays, such as the cache gives
        return torch.from_numpy(image).permute(2, 0, 1), int(self.labels.labels[index]), index

    def pack(self, samples: list[Sample]) -> NDArray[np.int64]:
        """Labels and rows of the samples, [B, 2]; see `loader.BatchSource`."""
        return np.array([(label, index) for _, label, index in samples], np.int64)

    def unpack(self, images: Tensor, packed: NDArray[np.int64]) -> LabelBatch:
        """The batch of images [B, 3, H, W] and of their packed labels and rows."""
        labels, indices = packed.T
        return LabelBatch(images, torch.from_numpy(labels.copy()), indices.tolist())

    def _view(
        self, index: int, augment: ClassificationAugment, size: tuple[int, int], rng: np.random.Generator
    ) -> Image:
        """What is seen of an image, uint8 RGB of `size`: a random crop, or what evaluation sees."""
        data = self.labels.read(index)
        original = jpeg_size(data)
        if original is None:
            whole = self._decoded(index, data, 1)
            return self._cut(whole, draw_crop(whole.shape[:2], size, augment, rng), 1, size)
        # A JPEG tells its size before it is decoded, and then no more is decoded than will be seen.
        window = draw_crop(original, size, augment, rng)
        reduction = self._reduction(original, window, size)
        image = self._decoded(index, data, reduction)
        # In case that the decoder reads a faulty EXIF header in another way.
        image = resize(image, (-(-original[0] // reduction), -(-original[1] // reduction)), self.interpolation)
        return self._cut(image, window, reduction, size)

    def _reduction(self, original: tuple[int, int], window: Window | None, size: tuple[int, int]) -> int:
        """The largest reduction that leaves as many pixels as will be seen, or more."""
        if window is None:
            shrinking = min(side * self.crop / shown for side, shown in zip(original, size, strict=True))
        else:
            shrinking = min((part.stop - part.start) / shown for part, shown in zip(window, size, strict=True))
        return next(reduction for reduction in REDUCTIONS if reduction <= max(shrinking, 1))

    def _cut(self, image: Image, window: Window | None, reduction: int, size: tuple[int, int]) -> Image:
        """A window of the original in an image decoded at a reduction, resized; without one what evaluation sees."""
        if window is None:
            return classification_view(image, size, self.crop, self.interpolation)
        rows, columns = (slice(part.start // reduction, -(-part.stop // reduction)) for part in window)
        return resize(image[rows, columns], size, self.interpolation)

    def _decoded(self, index: int, data: bytes, reduction: int) -> Image:
        """The image of a row at a reduction, not to be written to."""

        def decode() -> Image:
            return decode_image(data, str(self.labels.path(index)), reduction)

        cache = self.cache
        return cache.image(index, self.labels.identity(index), reduction, decode) if cache else decode()


def draw_crop(
    original: tuple[int, int], size: tuple[int, int], augment: ClassificationAugment, rng: np.random.Generator
) -> Window | None:
    """Rows and columns of the random crop of an image, both sizes (H, W); None for the view of the evaluation."""
    if augment.crop_area is None:
        return None
    # The crop is squeezed into the input: relative to its shape, so that objects keep theirs within the range.
    narrowest, widest = (aspect * size[1] / size[0] for aspect in augment.crop_aspect)
    return random_window(original, augment.crop_area, (narrowest, widest), rng)


def augment_image(image: Image, augment: ClassificationAugment, magnitude: float, rng: np.random.Generator) -> Image:
    """An image of the input size after flip, RandAugment of a strength and random erasing."""
    import cv2

    if rng.random() < augment.horizontal_flip:
        image = cv2.flip(image, 1)  # type: ignore[assignment]
    return random_erasing(rand_augment(image, augment.rand_augment.layers, magnitude, rng), augment.random_erasing, rng)


def random_window(
    size: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float], rng: np.random.Generator
) -> Window | None:
    """Rows and columns of a random rectangle in an image of `size` (H, W); None if none of ten tries fits.

    Args:
        size: (H, W).
        area: range of its share of the image, drawn uniformly.
        aspect: range of its width to height, drawn log-uniformly.
        rng: source of the randomness.
    """
    height, width = size
    for _ in range(ATTEMPTS):
        pixels = rng.uniform(*area) * height * width
        ratio = math.exp(rng.uniform(math.log(aspect[0]), math.log(aspect[1])))
        rows, columns = round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
            return slice(top, top + rows), slice(left, left + columns)
    return None


def random_erasing(image: Image, probability: float, rng: np.random.Generator) -> Image:
    """Image with a random rectangle filled with noise, with `probability`."""
    if rng.random() >= probability:
        return image
    window = random_window(image.shape[:2], ERASED_AREA, ERASED_ASPECT, rng)
    if window is None:
        return image
    erased = np.copy(image)
    erased[window] = rng.integers(0, 256, erased[window].shape, np.uint8)
    return erased
