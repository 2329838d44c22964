"""Measure a checkpoint on a data set: the twelve COCO numbers of a detector, the accuracy of a classifier.

  effdet eval configs/d0.yaml --weights runs/d0/best.pt data.root=/data/coco
  effdet eval --weights efficientnet_lite0 data.root=/data/imagenet

The validation part (data.val) of the recipe is evaluated; without a recipe, that of the recipe that the checkpoint was
trained by. Writes metrics.json and predictions.json, and of a classifier confusion.csv and confusion.png.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.recipes import add_recipe_arguments, overrides, read_recipe, recipe_path
from effdet.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.config import ClassificationConfig, DetectionConfig
    from effdet.distributed import Processes
    from effdet.evaluation.evaluate import Evaluator
    from effdet.weights.card import ModelCard
    from effdet.weights.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `eval` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument(
        "--weights",
        required=True,
        help="checkpoint such as runs/NAME/best.pt, or public weights such as efficientdet_d0",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results (that of the checkpoint; runs/eval for public weights)"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (a GPU where there is one)")


def run(args: argparse.Namespace) -> int:
    """Evaluates; the exit status is 0.

    Raises:
        EffdetError: recipe, data or weights cannot be used.
    """
    from rich.console import Console

    from effdet.devices import move_to_device
    from effdet.distributed import processes
    from effdet.evaluation.tables import metrics_table
    from effdet.weights.create import open_checkpoint

    checkpoint = open_checkpoint(args.weights)
    config = _config(args, checkpoint.card)
    out = args.out or (Path(args.weights).parent if Path(args.weights).is_file() else Path("runs/eval"))
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):  # told now and not after the evaluation
            pass
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from None
    with processes(args.device, config.train.timeout_minutes) as (together, device):
        console = Console(soft_wrap=True, markup=False, highlight=False, quiet=not together.is_main)
        move_to_device(checkpoint.model, device, config.train.channels_last)
        evaluator, images = _evaluate(checkpoint, config, together, console)
        if together.is_main:
            metrics = evaluator.metrics()
            evaluator.write(out, metrics)
            console.print(metrics_table(metrics))
    console.print(f"{images} images; metrics.json and predictions.json are in {out}")
    return 0


def _config(args: argparse.Namespace, card: ModelCard) -> DetectionConfig | ClassificationConfig:
    """The recipe that is given, or the one that the checkpoint was trained by, or defaults for public weights."""
    from effdet.config import make_config

    if recipe_path(args) is None:
        return make_config(card.config or {"task": card.task}, overrides(args), source=args.weights)
    config = read_recipe(args)
    if config.task != card.task:
        raise ConfigError(
            f"{recipe_path(args)}: the recipe is for {config.task}, but {args.weights} was made for {card.task}; "
            "give a recipe of that task"
        )
    return config


def _evaluate(
    checkpoint: Checkpoint, config: DetectionConfig | ClassificationConfig, together: Processes, console: Console
) -> tuple[Evaluator, int]:
    """The results on the validation part, and of how many images they are."""
    from effdet.config import DetectionConfig
    from effdet.data.annotations import LabelMap
    from effdet.data.formats import read_annotations, read_labels
    from effdet.evaluation.evaluate import evaluate_classifier, evaluate_detector
    from effdet.models import EfficientDet

    model, labels = checkpoint.model, LabelMap(checkpoint.card.class_names, checkpoint.card.category_ids)
    batch_size, workers = config.eval.batch_size, config.data.workers
    if isinstance(config, DetectionConfig):
        boxes = read_annotations(config.data, "val", labels)
        _tell(boxes.notes(), console)
        assert isinstance(model, EfficientDet)
        options = config.postprocess.model_dump()
        return evaluate_detector(model, boxes, options, batch_size, workers, together), len(boxes)
    classes = read_labels(config.data, "val", labels)
    _tell(classes.notes(), console)
    assert not isinstance(model, EfficientDet)
    return evaluate_classifier(model, classes, batch_size, workers, together), len(classes)


def _tell(notes: list[str], console: Console) -> None:
    for note in notes:
        console.print(note, style="yellow")
