"""The random changes of a classifier's training image, in the order of the recipe, once it has the input size.

The random crop comes before, in `crop.py`; the images of a batch are mixed afterwards, in `mix_batch.py`.
"""

from __future__ import annotations

import numpy as np

from effdet.config import ClassificationAugment
from effdet.data.augment.erasing import random_erasing
from effdet.data.augment.rand_augment import rand_augment
from effdet.data.images import Image


def augment_image(image: Image, augment: ClassificationAugment, magnitude: float, rng: np.random.Generator) -> Image:
    """Image after flip, RandAugment of a strength and random erasing."""
    from effdet.opencv import cv2

    if rng.random() < augment.horizontal_flip:
        image = cv2.flip(image, 1)  # type: ignore[assignment]
    return random_erasing(rand_augment(image, augment.rand_augment.layers, magnitude, rng), augment.random_erasing, rng)
