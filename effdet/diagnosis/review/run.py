"""Reviews the labels of a data set: predicts with models that have not seen them and ranks what contradicts.

Rows are made in `rows.py`, models of folds in `folds.py`, files in `files.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from rich.console import Console

from effdet.config import DetectionConfig, load_config
from effdet.config.recipe_files import find_recipe, list_recipes
from effdet.data.annotations import Annotations
from effdet.data.damage import all_damaged_named, check_sizes
from effdet.data.formats import read_table
from effdet.data.label_map import LabelMap
from effdet.data.validation_list import with_saved_list
from effdet.devices import pick_device
from effdet.diagnosis.review.folds import make_folds, train_fold
from effdet.diagnosis.review.rows import Row, ranked, review_table
from effdet.errors import ConfigError
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.evaluate import evaluate
from effdet.evaluation.evaluate_checkpoint import evaluation_config
from effdet.evaluation.matching import Predictions
from effdet.evaluation.results_file import read_predictions
from effdet.runtimes.opening import open_model
from effdet.text import count_of
from effdet.types import Part

Splits = Literal["train", "val", "all"]
BEST = "best.pt"
FOLDER = "review"  # in the folder of a run
RECIPES = (".yaml", ".yml")
SEEN = (
    "the model was trained on these labels, which hides many errors in them; with --folds 5 models predict that have "
    "not seen them"
)


@dataclass(frozen=True)
class Review:
    """The outcome of a review.

    Attributes:
        tables: the reviewed splits by name.
        rows: what is probably wrong in them, the most probable errors first.
        facts: plain values: what was reviewed, by which models, and what limits the outcome.
        folder: where its files go, in the folder of the run.
    """

    tables: dict[str, Annotations]
    rows: list[Row]
    facts: dict[str, Any]
    folder: Path


class _Predicted(NamedTuple):
    """A split with the detections of all of its images, the files of the models, and what limits the outcome."""

    config: DetectionConfig
    table: Annotations
    detections: Predictions
    models: list[str]
    notes: list[str]


def review_run(
    run: Path,
    split: Splits,
    overrides: Sequence[str],
    console: Console,
    *,
    folds: int | None = None,
    predictions: Path | None = None,
    device: str | None = None,
) -> Review:
    """Reviews splits of the data set of a run.

    Args:
        run: its folder, or a checkpoint in it; with `folds` or `predictions` a recipe will do, as a file or by name.
        split: what is reviewed.
        overrides: changes to the recipe, such as data.root=/data/coco.
        console: where progress is printed.
        folds: train so many out-of-fold models for the training split; None predicts it with the run's own model.
        predictions: a COCO results file on the images of the split; None predicts.
        device: None for a GPU if there is one.

    Raises:
        ConfigError: there is no such run, it is of a classifier, or an argument cannot be used.
        DataError: the data or the predictions cannot be read.
        TrainingError: the training of a fold was stopped.
        WeightsError: a model cannot be used.
    """
    _check_arguments(split, folds, predictions)
    names: tuple[Part, ...] = ("train", "val") if split == "all" else (split,)
    run = _existing(run)
    folder = _home_of(run, overrides) / FOLDER
    own = run
    if predictions is None and (folds is None or "val" in names):  # refused before folds are trained
        own = _weights_of(run, for_validation=folds is not None)
    predicted: dict[str, _Predicted] = {}
    for name in names:
        if predictions is not None:
            predicted[name] = _by_file(recipe_of(run, overrides), name, predictions, console)
        elif name == "train" and folds is not None:
            predicted[name] = _by_folds(recipe_of(run, overrides), folds, folder, device, console)
        else:
            predicted[name] = _by_model(own, name, overrides, device, console)
    rows = [
        row
        for name, (config, table, detections, *_) in predicted.items()
        for row in review_table(table, detections, name, config.seed)
    ]
    config, table, *_ = predicted[names[0]]
    facts = {
        "data": str(config.data.url or config.data.root or table.source),
        "models": {name: one.models for name, one in predicted.items()},
        "splits": {name: one.table.counts() for name, one in predicted.items()},
        "notes": [note for one in predicted.values() for note in one.notes],
    }
    return Review({name: one.table for name, one in predicted.items()}, ranked(rows), facts, folder)


def _existing(run: Path) -> Path:
    """A recipe's file if a run is the name of one, else the run itself.

    Raises:
        ConfigError: there is no such run or recipe.
    """
    if run.is_dir():
        return run
    if run.suffix in RECIPES or (not run.exists() and str(run) in list_recipes()):
        return find_recipe(run)
    if not run.exists():
        raise ConfigError(f"{run}: no such run; give the folder of a run, such as runs/mine, a checkpoint, or a recipe")
    return run


def _home_of(run: Path, overrides: Sequence[str]) -> Path:
    """The output_dir of a recipe, or runs/NAME; the folder of a run, or the output_dir that is given."""
    is_recipe = run.suffix in RECIPES
    if is_recipe or any(override.partition("=")[0] == "output_dir" for override in overrides):
        output_dir = recipe_of(run, overrides).output_dir
        if output_dir is not None:
            return output_dir
    return Path("runs") / run.stem if is_recipe else _folder_of(run)


def _folder_of(run: Path) -> Path:
    """The folder of a run, given the folder or a checkpoint in it."""
    return run if run.is_dir() else run.parent


def recipe_of(run: Path, overrides: Sequence[str]) -> DetectionConfig:
    """The recipe of a run, with overrides and its list of validation images; or a recipe itself.

    Raises:
        ConfigError: there is none, or it is for a classifier.
    """
    file = run if run.suffix in RECIPES else _folder_of(run) / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{file}: no such file, so there is no recipe; give the folder of a run, or a recipe")
    return _detector(with_saved_list(load_config(file, overrides), file.parent), str(run))


def _check_arguments(split: Splits, folds: int | None, predictions: Path | None) -> None:
    if folds is not None and predictions is not None:
        raise ConfigError("--folds trains models to predict with, and --predictions has predictions; give one of them")
    if folds is not None and split == "val":
        raise ConfigError("--folds trains models for the training split; leave it out, or review --split train or all")
    if predictions is not None and split == "all":
        raise ConfigError("--predictions is of one split; give --split train or --split val")


def _weights_of(run: Path, for_validation: bool) -> Path:
    """The model of a run: best.pt, or the checkpoint that was given.

    Raises:
        ConfigError: there is none.
    """
    weights = run / BEST if run.is_dir() else run
    if weights.suffix in RECIPES:
        raise ConfigError(
            f"{run}: is a recipe, without a model; add --folds 5 or --predictions, or give a run's folder"
        )
    if weights.is_file():
        return weights
    others = sorted(path.name for path in run.glob("*.pt"))
    if others:
        raise ConfigError(f"{weights}: no such file; give a checkpoint instead, such as {run / others[0]}")
    purpose = "review the validation split" if for_validation else "predict"
    raise ConfigError(f"{weights}: no such file, so there is no model to {purpose}; finish the training of the run")


def _detector(config: Any, source: str) -> DetectionConfig:
    if config.task != "detection":
        raise ConfigError(f"{source}: is of a classifier; `effdet review` compares boxes, so it needs a detector")
    assert isinstance(config, DetectionConfig)
    return config


def _config_of(weights: Path, overrides: Sequence[str], console: Console) -> tuple[DetectionConfig, Any]:
    """The recipe by which a model predicts, and its card."""
    card = open_model(weights).card
    if card.task != "detection":
        raise ConfigError(f"{weights}: is a classifier; `effdet review` compares boxes, so it needs a detector")
    config, lines = evaluation_config(card, weights, None, overrides)
    for line in lines:
        console.print(line, style="yellow")
    return _detector(config, str(weights)), card


def _read(config: DetectionConfig, split: Part, label_map: LabelMap | None, console: Console) -> Annotations:
    table = read_table(config.data, split, label_map)
    check_sizes([table], config.data.root)
    for note in table.notes():
        console.print(note, style="yellow")
    return table


def _by_file(config: DetectionConfig, split: Part, results: Path, console: Console) -> _Predicted:
    """A split with detections from a COCO results file."""
    table = _read(config, split, None, console)
    detections, notes = read_predictions(results, table)
    return _Predicted(config, table, detections, [str(results)], notes)


def _by_folds(config: DetectionConfig, count: int, folder: Path, device: str | None, console: Console) -> _Predicted:
    """The training split; each image is predicted by the model that was not trained on it."""
    table = _read(config, "train", None, console)
    folds = make_folds(config, table, count, folder)
    columns: list[Predictions] = []
    for fold in folds:
        train_fold(fold, device, console)
        detections = _predict(fold.weights, table.subset(fold.rows), config, device, console)
        columns.append(detections._replace(images=fold.rows[detections.images]))
    joined = Predictions(*(np.concatenate(arrays) for arrays in zip(*columns, strict=True)))
    return _Predicted(config, table, joined, [str(fold.weights) for fold in folds], [])


def _by_model(weights: Path, split: Part, overrides: Sequence[str], device: str | None, console: Console) -> _Predicted:
    """A split predicted by one model."""
    config, card = _config_of(weights, overrides, console)
    table = _read(config, split, LabelMap(card.class_names, card.category_ids), console)
    detections = _predict(weights, table, config, device, console)
    return _Predicted(config, table, detections, [str(weights)], [SEEN] if split == "train" else [])


def _predict(
    weights: Path, table: Annotations, config: DetectionConfig, device: str | None, console: Console
) -> Predictions:
    """The detections of a model on all images of a table."""
    show: Callable[[str], None] = console.print
    show(f"predicting {count_of(len(table), 'image')} with {weights}")
    runtime = open_model(weights).start(pick_device(device), "auto")
    with all_damaged_named([table], config.data.root, weights.parent, show):
        evaluator = evaluate(runtime, table, config)
    assert isinstance(evaluator, CocoEvaluator)
    return evaluator.predicted()
