"""Train a detector or a classifier.

  effdet train data.root=/data/mine
  effdet train d0 data.root=/data/coco train.batch_size=16
  effdet train --resume runs/d0 train.epochs=100

Without a recipe one is chosen that fits the data set, the weights at hand and the hardware; it is printed as a command.
Writes to runs/NAME, NAME being that of the recipe or of the data set: best.pt to use, last.pt to resume from,
config.yaml, logs, metrics.json and predictions.json. On Ctrl-C, SIGTERM or the end of train.max_hours the current step
finishes and last.pt is saved (exit status 130, 143 or 75). --resume continues as if the run had never stopped, by the
run's own recipe; a recipe and overrides may change it.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from effdet.cli import status
from effdet.cli.recipes import add_recipe_arguments, overrides, recipe_path

EXIT_STATUS = {
    "finished": status.DONE,
    "interrupted": status.INTERRUPTED,
    "terminated": status.TERMINATED,
    "out of time": status.OUT_OF_TIME,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `train` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument(
        "--resume",
        metavar="PATH|auto",
        help="continue a run, given its folder or its last.pt; auto: the newest run of the recipe, or a new one",
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Trains; the exit status is 0, 130 after Ctrl-C, 143 after SIGTERM, 75 after train.max_hours.

    Raises:
        EffdetError: recipe, data or weights cannot be used, or the loss is NaN or Inf.
    """
    recipe = recipe_path(args)
    _print_first_line(recipe, args.resume)

    from effdet.api import train

    return EXIT_STATUS[train(recipe, overrides(args), device=args.device, resume=args.resume).ending]


def _print_first_line(recipe: Path | None, resume: str | None) -> None:
    """Says what starts, before the imports that need seconds."""
    if os.environ.get("RANK", "0") == "0":  # set by torchrun
        what = f"train by {recipe}" if recipe is not None else f"continue {resume}" if resume else "choose a recipe"
        print(f"loading PyTorch to {what}", flush=True)
