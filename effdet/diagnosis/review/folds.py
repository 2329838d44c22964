"""Out-of-fold models: a data set is divided into folds, and for each a model is trained that never sees it.

The images stay where they are: a fold is a list of file names. Predicting with the models is in `run.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from effdet.config import DetectionConfig, ValidationConfig, load_config
from effdet.data.annotations import Annotations
from effdet.data.formats import read_table
from effdet.data.splitting import content_groups, stratified_subsets
from effdet.data.validation_list import VALIDATION_LIST
from effdet.errors import ConfigError, TrainingError
from effdet.files import write_text
from effdet.text import count_of
from effdet.training import engine

LEAST_FOLDS = 2


class Fold(NamedTuple):
    """One fold of a training split.

    Attributes:
        folder: of the run that trains the model for it.
        rows: its images, rows of the table.
        config: the recipe of the run.
        names: the images that the model is not trained on: those of the fold, and validation images that the recipe
            splits off the same files.
    """

    folder: Path
    rows: NDArray[np.int64]
    config: DetectionConfig
    names: tuple[str, ...]

    @property
    def weights(self) -> Path:
        """The trained model; it is there when the training has finished."""
        return self.folder / "best.pt"


def make_folds(config: DetectionConfig, table: Annotations, count: int, folder: Path) -> list[Fold]:
    """Divides the training split of a recipe, stratified by class; images of identical content share a fold.

    Args:
        config: the recipe; its seed chooses the folds.
        table: the training split.
        count: number of folds.
        folder: where the runs go, in folders of their own such as fold-1-of-5.

    Raises:
        ConfigError: there are fewer than two folds, or fewer images of different content than folds.
    """
    if count < LEAST_FOLDS:
        raise ConfigError(f"--folds {count}: expected at least {LEAST_FOLDS}")
    groups = content_groups(table)
    different = int(groups.max()) + 1
    if different < count:
        raise ConfigError(
            f"--folds {count}: the training split has only {count_of(different, 'image')} of different content; "
            "choose fewer folds"
        )
    whole = read_table(config.data.model_copy(update={"val": None}), "train")
    validating = set(whole.file_names.tolist()) - set(table.file_names.tolist())
    number_of = stratified_subsets(table, groups, [1 / count] * count, config.seed)
    folds = []
    for number in range(count):
        rows = np.flatnonzero(number_of == number)
        place = folder.absolute() / f"fold-{number + 1}-of-{count}"
        names = (*table.file_names[rows].tolist(), *sorted(validating))
        folds.append(Fold(place, rows, _fold_config(config, place), names))
    return folds


def train_fold(fold: Fold, device: str | None, console: Console) -> None:
    """Trains the model of a fold, or continues its training; does nothing if it has finished.

    Raises:
        ConfigError: the folder holds a run by another recipe or with another fold.
        DataError: the data cannot be read.
        TrainingError: the loss became NaN or Inf, or the training was stopped before its end.
        WeightsError: the weights to start from cannot be used.
    """
    _check_same(fold)
    if fold.weights.is_file():
        console.print(f"{fold.folder.name}: trained already")
        return
    begun = any((fold.folder / name).is_file() for name in ("last.pt", "previous.pt"))
    console.print(f"{fold.folder.name}: {'continuing' if begun else 'training'}, {fold.folder}")
    if not begun:
        write_text(fold.folder / VALIDATION_LIST, "".join(f"{name}\n" for name in fold.names))
    ending = engine.train(fold.config, fold.folder, device, fold.folder if begun else None, console)
    if ending != "finished":
        raise TrainingError(
            f"{fold.folder}: the training stopped before its end ({ending}); the same command continues it"
        )


def _fold_config(config: DetectionConfig, folder: Path) -> DetectionConfig:
    """The recipe of a fold. One evaluation at the end: the labels of the fold must not choose the weights."""
    changes: dict[str, Any] = {
        "data": config.data.model_copy(update={"val": ValidationConfig(file_list=folder / VALIDATION_LIST)}),
        "eval": config.eval.model_copy(update={"every_epochs": 0}),
        "train": config.train.model_copy(update={"patience": None, "max_hours": None}),
        "log": config.log.model_copy(update={"trackers": ()}),
        "output_dir": folder,
    }
    return config.model_copy(update=changes)


def _check_same(fold: Fold) -> None:
    """Does nothing if the folder is new, or holds a run of the same recipe and fold."""
    file, listed = fold.folder / "config.yaml", fold.folder / VALIDATION_LIST
    if not file.is_file():
        return
    other = "recipe" if _comparable(load_config(file)) != _comparable(fold.config) else None
    if other is None and listed.is_file() and set(listed.read_text(encoding="utf-8").splitlines()) != set(fold.names):
        other = "fold"
    if other is not None:
        raise ConfigError(f"{fold.folder}: was trained by another {other}; remove the folder to train it anew")


def _comparable(config: Any) -> dict[str, Any]:
    """A recipe as plain values, without the run's folder and what only changes how fast images are loaded."""
    tree: dict[str, Any] = config.to_dict()
    tree["data"]["val"] = tree["output_dir"] = None
    for name in ("workers", "cache", "cache_gb", "cache_folder"):
        del tree["data"][name]
    return tree
