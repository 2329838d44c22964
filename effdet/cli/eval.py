"""Measure a checkpoint on a data set: the twelve COCO numbers.

  effdet eval configs/d0.yaml --weights runs/d0/best.pt data.root=/data/coco

The validation part (data.val) of the recipe is evaluated; without a recipe, that of the recipe that the checkpoint was
trained by. Writes metrics.json and predictions.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.recipes import add_recipe_arguments, overrides, read_recipe, recipe_path
from effdet.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `eval` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint, such as runs/NAME/best.pt")
    parser.add_argument("--out", type=Path, help="folder for the results (that of the checkpoint)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (a GPU where there is one)")


def run(args: argparse.Namespace) -> int:
    """Evaluates and prints the numbers; the exit status is 0.

    Raises:
        EffdetError: recipe, data or weights cannot be used.
    """
    from rich.console import Console

    from effdet.config import make_config
    from effdet.data.annotations import LabelMap
    from effdet.data.formats import read_annotations
    from effdet.devices import pick_device, place
    from effdet.evaluation.coco import metrics_table
    from effdet.evaluation.run import evaluate
    from effdet.files import write_json
    from effdet.weights import load_checkpoint

    console = Console(soft_wrap=True, markup=False, highlight=False)
    device = pick_device(args.device)
    checkpoint = load_checkpoint(args.weights)
    card = checkpoint.card
    if recipe_path(args) is not None:
        config = read_recipe(args)
    else:
        config = make_config(card.config, overrides(args), source=str(args.weights))
    out = args.out or args.weights.parent
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from None
    table = read_annotations(config.data, "val", LabelMap(card.class_names, card.category_ids))
    for note in table.notes():
        console.print(note, style="yellow")
    model = place(checkpoint.model, device, config.train.channels_last)
    evaluator = evaluate(model, table, config.postprocess.model_dump(), config.eval.batch_size, config.data.workers)
    metrics = evaluator.metrics()
    write_json(out / "metrics.json", metrics)
    write_json(out / "predictions.json", evaluator.results())
    console.print(metrics_table(metrics))
    console.print(f"{len(table)} images; metrics.json and predictions.json are in {out}")
    return 0
