"""What is wrong with a recipe once its data is known, said before the first step."""

from __future__ import annotations

from effdet.config import TrainConfig
from effdet.errors import ConfigError


def check_classes(wanted: int | None, num_classes: int) -> None:
    """Does nothing if the recipe leaves the class count to the data, or both agree.

    Raises:
        ConfigError: the recipe asks for another number of classes than the data set has.
    """
    if wanted is not None and wanted != num_classes:
        raise ConfigError(
            f"the training set has {num_classes} classes but model.num_classes is {wanted}; "
            "leave model.num_classes out to take as many as the data has"
        )


def check_parts(train: TrainConfig, num_images: int, image_size: tuple[int, int], coarsest: tuple[int, int]) -> None:
    """Does nothing if every part of a batch has values enough for the norms of the coarsest features.

    Args:
        train: the recipe.
        num_images: images to train on.
        image_size: (H, W) of the input.
        coarsest: (H, W) of the coarsest features.

    Raises:
        ConfigError: a part is a single image whose coarsest features are a single pixel.
    """
    smallest = min(train.batch_size, num_images) // train.accumulate
    if smallest <= 1 and coarsest == (1, 1):
        raise ConfigError(
            f"one image of {image_size[0]} x {image_size[1]} at a time is too little for batch norm, whose coarsest "
            "level has a single value then; raise train.batch_size, lower train.accumulate or enlarge model.image_size"
        )
