"""Images at the input size of a model, for calibration and for the certificate: of a folder, of a data set, or drawn.

Which of them are used, and how many, is decided in `calibration.py` and `certificate.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from effdet.config import make_config
from effdet.data.formats import read_table
from effdet.data.image_table import ImageTable
from effdet.data.images import Image, decode_image, is_image_name, read_image
from effdet.data.label_map import LabelMap
from effdet.data.letterbox import letterbox
from effdet.data.resize import classification_view, resize
from effdet.data.synthetic.scenes import SMALLEST_IMAGE, draw_scene
from effdet.data.validation_list import with_saved_list
from effdet.errors import ConfigError, DataError
from effdet.files import full_path
from effdet.types import Part
from effdet.weights.card import ModelCard, recipe_of

SEED = 2020  # of the drawn images


def input_image(card: ModelCard, image: Image) -> Image:
    """An image [H, W, 3] as the network sees it: letterboxed for a detector, resized and cropped for a classifier."""
    spec: Any = card.spec
    if card.task == "detection":
        return letterbox(image, spec.image_size, spec.fill_color, spec.antialias, spec.letterbox)[0]
    return classification_view(image, spec.image_size, spec.crop, spec.interpolation)


def folder_images(card: ModelCard, folder: Path, count: int) -> Iterator[Image]:
    """Up to `count` images of a folder and those below it, evenly spaced in the order of their names, as the network
    sees them.

    Raises:
        DataError: the folder is missing or has no images, or one cannot be read.
    """
    folder = full_path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder with images")
    paths = sorted(path for path in folder.rglob("*") if is_image_name(path.name) and path.is_file())
    if not paths:
        raise DataError(f"{folder}: has no images; give a folder with images")
    for index in evenly_spaced(len(paths), count):
        yield input_image(card, read_image(paths[index], card.value_range))


def table_images(card: ModelCard, table: ImageTable, count: int) -> Iterator[Image]:
    """Up to `count` images of a split of a data set, evenly spaced, as the network sees them.

    Raises:
        DataError: an image cannot be read.
    """
    for index in evenly_spaced(len(table), count):
        image = decode_image(table.read(index), str(table.path(index)), value_range=card.value_range)
        yield input_image(card, image)


def recipe_table(card: ModelCard, split: Part, folder: Path) -> ImageTable:
    """A split of the data set that the recipe of a checkpoint names.

    Args:
        card: of the checkpoint.
        split: train or val.
        folder: of the checkpoint, which may have a list of the validation images.

    Raises:
        DataError: the checkpoint has no recipe, or the data set is not there or at an address.
    """
    if not card.config:
        raise DataError("the weights have no recipe that names a data set")
    try:
        config = with_saved_list(make_config(recipe_of(card, "the checkpoint")), folder)
    except ConfigError as error:
        raise DataError(str(error)) from None
    root = config.data.root
    if root is not None and not full_path(root).exists():
        raise DataError(f"the data set of the recipe, {root}, is not there")
    table: ImageTable = read_table(config.data, split, LabelMap(card.class_names, card.category_ids))
    return table


def drawn_images(card: ModelCard, scenes: int) -> list[Image]:
    """Images drawn from a fixed seed at the input size: scenes with objects, then one of noise.

    A network whose images are not RGB gets noise alone.
    """
    height, width = card.spec.image_size
    images = []
    if card.spec.in_channels == 3:
        size = max(height, SMALLEST_IMAGE), max(width, SMALLEST_IMAGE)
        images = [resize(draw_scene(SEED, index, size).image, (height, width), "bilinear") for index in range(scenes)]
    noise = np.random.Generator(np.random.PCG64(SEED)).integers(
        0, 256, (height, width, card.spec.in_channels), dtype=np.uint8
    )
    return [*images, noise]


def pixel_hash(images: Iterable[Image]) -> str:
    """SHA-256 of the pixels of images, in hexadecimal."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def evenly_spaced(length: int, count: int) -> list[int]:
    """Up to `count` different positions of a list, evenly spaced from its start."""
    count = min(length, count)
    return [index * length // count for index in range(count)]
