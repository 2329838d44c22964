"""Makes the certificate of a file: chooses the images, compares, measures AP where there is a data set, and judges.

The certificate itself is in `certificate.py`, the comparison in `measuring.py`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from effdet.data.formats import read_table
from effdet.data.image_table import ImageTable
from effdet.data.images import Image
from effdet.data.label_map import LabelMap
from effdet.errors import ConfigError, DataError
from effdet.evaluation.evaluate_checkpoint import evaluation_config
from effdet.exporting.certificate import ApComparison, Certificate, certify
from effdet.exporting.comparing import TOLERANCES
from effdet.exporting.images import drawn_images, folder_images, pixel_hash, recipe_table, table_images
from effdet.exporting.measuring import compare_ap, compare_images, compared_options
from effdet.files import full_path
from effdet.runtimes.exported import ExportedRuntime
from effdet.runtimes.pytorch import TorchRuntime
from effdet.text import count_of
from effdet.types import StoredPrecision
from effdet.version import __version__
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import Checkpoint

IMAGES = 8  # real images that are compared
SCENES = 2  # drawn scenes that are compared besides them, with one image of noise
CALIBRATED: tuple[StoredPrecision, ...] = ("dynamic-int8", "int8")  # precisions whose AP is measured if it can be


@dataclass(frozen=True)
class CompareOptions:
    """On what a file is compared with its model.

    Attributes:
        images: folder of images; None for the validation images of the recipe, where they are at hand.
        data: data set to measure AP on, the same as data.root of the recipe.
        ap: whether AP is measured on the validation images of the recipe.
        max_ap_loss: largest loss in points of 100; None for the limit of the precision.
    """

    images: str | Path | None = None
    data: str | Path | None = None
    ap: bool = False
    max_ap_loss: float | None = None


def check_compare_options(options: CompareOptions, precision: StoredPrecision) -> None:
    """Checks what can be checked before a file is written, which may need minutes.

    Raises:
        DataError: a folder is missing.
        ConfigError: there is a limit for the loss of AP, and AP is not measured.
    """
    if options.images is not None and not full_path(options.images).is_dir():
        raise DataError(f"{options.images}: no such folder; give a folder with images")
    if options.data is not None and not full_path(options.data).exists():
        raise DataError(f"{options.data}: no such folder; give the data set to measure AP on")
    measured = options.ap or options.data is not None or precision in CALIBRATED
    if options.max_ap_loss is not None and not measured:
        raise ConfigError(
            "max_ap_loss needs AP, which is not measured; add --ap or --data FOLDER (ap=True or data=...)"
        )


def make_certificate(
    checkpoint: Checkpoint,
    weights: str | Path,
    runtime: ExportedRuntime,
    options: CompareOptions,
    packages: Sequence[str],
    show: Callable[[str], None],
) -> Certificate:
    """Compares a file with its checkpoint and gives the certificate, whose verdict may be bad.

    Args:
        checkpoint: the model in PyTorch, with the image size of the file.
        weights: the checkpoint's file or name.
        runtime: of the file.
        options: on what they are compared.
        packages: distributions whose versions are recorded.
        show: shows a line about progress.

    Raises:
        DataError: images or a data set that were asked for cannot be read.
        ConfigError: the data set does not fit the model.
    """
    card, export = checkpoint.card, runtime.export
    tolerance = TOLERANCES[export.precision]
    if options.max_ap_loss is not None:
        tolerance = replace(tolerance, ap_loss=options.max_ap_loss)
    images, source, table = _real_images(card, weights, options, show)
    drawn = drawn_images(card, SCENES)
    source += (", " if source else "") + f"{count_of(len(drawn) - 1, 'drawn scene')} and noise"
    show(f"comparing {export.face} on {source}")
    comparison = compare_images(checkpoint.model, runtime, [*images, *drawn], len(drawn), tolerance)
    ap = _compare_ap(checkpoint, weights, runtime, options, table, show)
    versions = versions_of(packages)
    return certify(comparison, tolerance, source, pixel_hash([*images, *drawn]), ap, versions)


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """Versions of this package, of torch and of other distributions that are installed."""
    versions = {"effdet": __version__, "torch": torch.__version__}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _real_images(
    card: ModelCard, weights: str | Path, options: CompareOptions, show: Callable[[str], None]
) -> tuple[list[Image], str, ImageTable | None]:
    """Images that are not drawn, where they are from, and the validation split of the recipe if it is at hand."""
    table: ImageTable | None = None
    if options.images is None or options.ap:
        try:
            table = recipe_table(card, "val", full_path(weights).parent)
        except DataError as error:
            if options.ap:
                raise DataError(f"images to measure AP on: {error}; give a data set with --data FOLDER") from None
            show(f"no validation images are compared: {error}")
    if options.images is not None:
        images = list(folder_images(card, Path(options.images), IMAGES))
        return images, f"{count_of(len(images), 'image')} of {options.images}", table
    if table is None:
        return [], "", None
    images = list(table_images(card, table, IMAGES))
    return images, f"{count_of(len(images), 'validation image')} of {table.source}", table


def _compare_ap(
    checkpoint: Checkpoint,
    weights: str | Path,
    runtime: ExportedRuntime,
    options: CompareOptions,
    table: ImageTable | None,
    show: Callable[[str], None],
) -> ApComparison | None:
    """The metric before and after; None where no data set is asked for."""
    card, export = checkpoint.card, runtime.export
    wanted = options.ap or (export.precision in CALIBRATED and table is not None)
    if export.face == "features" or not (options.data is not None or wanted):
        return None
    config, _ = evaluation_config(card, weights, None, [] if options.data is None else [f"data.root={options.data}"])
    if options.data is not None:
        table = read_table(config.data, "val", LabelMap(card.class_names, card.category_ids))
    assert table is not None
    detector = card.task == "detection"
    show(f"measuring {'AP' if detector else 'accuracy'} on {count_of(len(table), 'image')} of {table.source}")
    config = config.model_copy(update={"model": config.model.model_copy(update={"image_size": None})})
    before = TorchRuntime(checkpoint.model, card, runtime.device)
    postprocess = compared_options(export) if detector else None
    with warnings.catch_warnings():
        # JAX, which litert-torch imports, warns of each process that reads images; they do not use it.
        warnings.filterwarnings("ignore", r"os\.fork\(\) was called", RuntimeWarning)
        return compare_ap(before, runtime, table, config, postprocess, str(table.source))
