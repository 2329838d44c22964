"""Evaluate a checkpoint or an exported file on a data set: twelve COCO metrics, or the accuracy of a classifier.

  effdet eval --weights runs/d0/best.pt
  effdet eval d0 --weights runs/d0/last.pt data.root=/data/coco
  effdet eval --weights runs/d0/best.onnx
  effdet eval --weights efficientnet_lite0 data.root=/data/imagenet

Evaluates on the validation split (data.val) of the recipe. Without RECIPE the recipe stored in the checkpoint is used.
Of the recipe's other keys data, postprocess, eval.batch_size and model.image_size change the evaluation.

Writes metrics.json, predictions.json and config.yaml, and for a classifier confusion.csv and confusion.png, to a new
folder beside the checkpoint: runs/d0/eval-last, or on another data set runs/d0/eval-last-NAME. Earlier results are
never overwritten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.recipes import add_recipe_arguments, overrides, recipe_path
from effdet.cli.runtime_arguments import add_runtime_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `eval` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument(
        "--weights",
        required=True,
        help="checkpoint such as runs/NAME/best.pt, exported file such as best.onnx, or public weights such as "
        "efficientdet_d0",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results, without any so far (a new one beside the checkpoint)"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")
    add_runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluates; the exit status is 0.

    Raises:
        EffdetError: recipe, data or weights cannot be used.
    """
    from effdet.api import evaluate

    evaluate(
        args.weights,
        recipe_path(args),
        overrides(args),
        device=args.device,
        output_dir=args.out,
        threads=args.threads,
        metadata=args.metadata,
    )
    return 0
