"""From a recipe to all that a training needs: data, model, loss, optimiser, and where to write.

What is done with them is in `engine.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from effdet.config import Config, ModelConfig, TrainConfig
from effdet.data.annotations import Annotations
from effdet.data.dataset import DetectionDataset
from effdet.data.formats import read_annotations
from effdet.devices import autocast_dtype, keep_freed_memory, pick_device, place
from effdet.errors import ConfigError, WeightsError
from effdet.losses import DetectionLoss
from effdet.models import EfficientDet, build_efficientdet
from effdet.models.anchors import level_sizes
from effdet.training.ema import WeightAverage
from effdet.training.logs import RunLog
from effdet.training.optim import Schedule, freeze, make_optimizer, make_schedule
from effdet.training.state import TrainState
from effdet.weights import ModelCard, card_of, load_weights
from effdet.weights.checkpoint import is_checkpoint, read_tensors


@dataclass(frozen=True)
class Run:
    """What stays as it is during a training.

    Attributes:
        config: the recipe.
        folder: where everything is written.
        device: where the network computes.
        dtype: its type under autocast, or None for float32.
        train_set: images to train on.
        val_table: images to evaluate on, or None.
        loss: from outputs to losses.
        schedule: learning rate of each step.
        frozen: modules that are not trained.
        card: describes the weights that are saved.
        log: the log files.
        console: the terminal.
    """

    config: Config
    folder: Path
    device: torch.device
    dtype: torch.dtype | None
    train_set: DetectionDataset
    val_table: Annotations | None
    loss: DetectionLoss
    schedule: Schedule
    frozen: Sequence[nn.Module]
    card: ModelCard
    log: RunLog
    console: Console


def set_up(config: Config, folder: Path, device_name: str | None, console: Console) -> tuple[Run, TrainState]:
    """The run of a recipe and its state before the first step; tells the console what it found.

    Raises:
        EffdetError: data, weights or recipe cannot be used; nothing has been written then.
    """
    device = pick_device(device_name)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    train_table, val_table = read_tables(config, console)
    model = make_model(config.model, len(train_table.label_map), console)
    check_parts(config.train, model, len(train_table))
    place(model, device, config.train.channels_last)
    frozen = freeze(model, config.train.freeze)
    state = TrainState(
        model=model,
        average=None if config.train.ema_decay is None else WeightAverage(model, config.train.ema_decay),
        optimizer=make_optimizer(model, config.optim),
    )
    run = Run(
        config=config,
        folder=folder,
        device=device,
        dtype=autocast_dtype(config.train.precision, device),
        train_set=DetectionDataset(train_table, model.image_size, model.fill_color, config.augment, config.seed),
        val_table=val_table,
        loss=DetectionLoss(**config.loss.model_dump()),
        schedule=make_schedule(config.optim, config.train, len(train_table)),
        frozen=frozen,
        card=_card(model, config, train_table),
        log=RunLog(folder),
        console=console,
    )
    _describe(run, console)
    return run, state


def read_tables(config: Config, console: Console) -> tuple[Annotations, Annotations | None]:
    """Training and validation tables with the labels of the training part; shows what was repaired in them."""
    train_table = read_annotations(config.data, "train")
    val_table = None
    if config.data.val is not None:
        val_table = read_annotations(config.data, "val", train_table.label_map)
    for note in [*train_table.notes(), *(val_table.notes() if val_table else [])]:
        console.print(note, style="yellow")
    return train_table, val_table


def make_model(config: ModelConfig, num_classes: int, console: Console) -> EfficientDet:
    """The detector of a recipe with its first weights, in host memory.

    Raises:
        ConfigError: the recipe asks for another number of classes than the data set has.
        WeightsError: the weights cannot be had or do not fit.
    """
    if config.num_classes is not None and config.num_classes != num_classes:
        raise ConfigError(
            f"the training set has {num_classes} classes but model.num_classes is {config.num_classes}; "
            "leave model.num_classes out to take as many as the data has"
        )
    model = build_efficientdet(
        config.name,
        num_classes,
        image_size=config.image_size,
        padding=config.padding,
        drop_path=config.drop_path,
        norm_momentum=config.norm_momentum,
        anchor_scale=config.anchor_scale,
        anchor_aspects=config.anchor_aspects,
    )
    if config.weights is not None:
        for line in load_weights(model, config.name, config.weights).lines():
            console.print(line)
    return model


def check_parts(train: TrainConfig, model: EfficientDet, num_images: int) -> None:
    """Does nothing if every part of a batch has values enough for the norms of the coarsest level.

    Raises:
        ConfigError: a part is a single image whose coarsest features are a single pixel.
    """
    smallest = min(train.batch_size, num_images) // train.accumulate
    if smallest <= 1 and level_sizes(model.image_size, model.max_level, model.max_level) == [(1, 1)]:
        raise ConfigError(
            f"one image of {model.image_size[0]} x {model.image_size[1]} at a time is too little for batch norm, whose "
            "coarsest level has a single value then; raise train.batch_size, lower train.accumulate or enlarge "
            "model.image_size"
        )


def resume(checkpoint: Path, run: Run, state: TrainState) -> None:
    """Puts the state of an earlier run's last.pt (or of the folder that holds it) into `state`.

    Raises:
        WeightsError: the file has no training state, or its model is another one.
    """
    path = checkpoint / "last.pt" if checkpoint.is_dir() else checkpoint
    content = read_tensors(path)
    if not is_checkpoint(content) or not content["training"]:
        raise WeightsError(f"{path}: holds no state of a training; resume from the last.pt of a run")
    card = content["card"]
    if card["name"] != run.card.name or tuple(card["class_names"]) != run.card.class_names:
        raise WeightsError(
            f"{path}: is of a {card['name']} with classes {', '.join(card['class_names'])}, but the recipe makes a "
            f"{run.card.name} with classes {', '.join(run.card.class_names)}; resume with the recipe of the run"
        )
    try:
        state.load_state_dict(content["training"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: does not fit this recipe ({reason}); resume with the recipe of the run") from None
    run.console.print(f"resumed from {path} after step {state.step}")


def _card(model: EfficientDet, config: Config, table: Annotations) -> ModelCard:
    labels = table.label_map
    card = card_of(model, config.model.name, labels.names, labels.category_ids, config.model.padding)
    try:
        own = version("efficientdet-torch")
    except PackageNotFoundError:  # used from a source folder that was never installed
        own = "unknown"
    return replace(
        card,
        postprocess=config.postprocess.model_dump(),
        config=config.to_dict(),
        versions={"efficientdet-torch": own, "torch": str(torch.__version__)},
    )


def _describe(run: Run, console: Console) -> None:
    """One line on what is about to be trained."""
    height, width = run.card.image_size
    table = run.train_set.annotations
    val = f", {len(run.val_table)} to evaluate" if run.val_table else ", none to evaluate"
    console.print(
        f"{run.card.name} {height} x {width}, {len(table.label_map)} classes; {len(table)} images to train{val}; "
        f"{run.schedule.total_steps} steps of {run.config.train.batch_size} images on {run.device.type} in "
        f"{'float32' if run.dtype is None else 'bfloat16'}; writing to {run.folder}"
    )
