"""The images with which int8 models are calibrated: of a folder, or those that the model was trained on.

How a file format uses them is in the module of its quantisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from effdet.data.images import Image
from effdet.errors import DataError
from effdet.exporting.images import folder_images, recipe_table, table_images
from effdet.files import full_path
from effdet.weights.card import ModelCard

COUNT = 128  # images


def calibration_images(
    card: ModelCard, source: str | Path | None = None, count: int = COUNT, weights: str | Path = ""
) -> Iterator[Image]:
    """Images as the network sees them, uint8 RGB [H, W, 3], the same ones in every call.

    Args:
        card: of the model.
        source: a folder with images; None for the training images of the checkpoint's recipe.
        count: most images; they are evenly spaced in the folder or the split.
        weights: the checkpoint, whose folder may have a list of validation images.

    Raises:
        DataError: there are no such images, or one cannot be read.
    """
    if source is not None:
        return folder_images(card, Path(source), count)
    try:
        table = recipe_table(card, "train", full_path(weights).parent)
    except DataError as error:
        raise DataError(f"images for the calibration: {error}; give a folder with --calibration FOLDER") from None
    return table_images(card, table, count)
