"""Evaluate a checkpoint, an exported file or a COCO results file: metrics of COCO and VOC, or a classifier's accuracy.

  effdet eval --weights runs/d0/best.pt
  effdet eval d0 --weights runs/d0/last.pt data.root=/data/coco
  effdet eval --weights runs/d0/best.onnx
  effdet eval --weights efficientnet_lite0 data.root=/data/imagenet
  effdet eval --annotations instances_val2017.json --predictions results.json

A model is evaluated on the validation split (data.val) of the recipe. Without RECIPE the recipe stored in the
checkpoint is used. Of the recipe's other keys data, postprocess, eval.batch_size and model.image_size change the
evaluation. Metrics of VOC are added for data sets in VOC's format.

Writes metrics.json, predictions.json and config.yaml to a new folder beside the checkpoint: runs/d0/eval-last, or on
another data set runs/d0/eval-last-NAME. A data set in another format than COCO's is written as truth.json. A classifier
has confusion.csv and confusion.png. Earlier results are never overwritten.

A results file is a list of detections, each with image_id, category_id, bbox and score. It needs no images, and its
metrics are those of pycocotools. Results are written only with --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.recipes import add_recipe_arguments, overrides, recipe_path
from effdet.cli.runtime_arguments import add_runtime_arguments
from effdet.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `eval` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument(
        "--weights",
        help="checkpoint such as runs/NAME/best.pt, exported file such as best.onnx, or public weights such as "
        "efficientdet_d0",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for the results, without any so far (a new one beside the checkpoint)"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")
    add_runtime_arguments(parser)
    parser.add_argument(
        "--save-predictions", type=Path, metavar="FILE", help="also write the detections as COCO's server takes them"
    )
    parser.add_argument(
        "--pycocotools",
        action="store_true",
        help="also compute the metrics by pycocotools, and print the largest difference",
    )
    files = parser.add_argument_group("a COCO results file in place of a model")
    files.add_argument("--annotations", type=Path, metavar="FILE", help="the objects, as COCO instances")
    files.add_argument("--predictions", type=Path, metavar="FILE", help="the detections, as COCO results")
    files.add_argument("--voc", action="store_true", help="also compute the metrics of VOC")


def run(args: argparse.Namespace) -> int:
    """Evaluates; the exit status is 0.

    Raises:
        EffdetError: recipe, data, weights or results cannot be used.
    """
    if args.annotations or args.predictions or args.voc:
        return _run_results(args)
    if not args.weights:
        raise ConfigError("nothing to evaluate: give --weights, or --annotations and --predictions")
    from effdet.api import evaluate

    evaluate(
        args.weights,
        recipe_path(args),
        overrides(args),
        device=args.device,
        output_dir=args.out,
        threads=args.threads,
        metadata=args.metadata,
        save_predictions=args.save_predictions,
        pycocotools=args.pycocotools,
    )
    return 0


def _run_results(args: argparse.Namespace) -> int:
    """Evaluates a results file."""
    if not (args.annotations and args.predictions):
        missing = "--predictions" if args.annotations else "--annotations"
        raise ConfigError(f"a results file is evaluated with --annotations and --predictions; {missing} is missing")
    of_models = ("weights", "device", "threads", "metadata", "save_predictions", "recipe")
    useless = [name for name in of_models if getattr(args, name) not in (None, [])]
    if useless:
        names = ", ".join("RECIPE" if name == "recipe" else f"--{name.replace('_', '-')}" for name in useless)
        raise ConfigError(f"{names}: for models alone; a results file is evaluated without")
    from effdet.evaluation.evaluate_results import evaluate_results

    evaluate_results(
        args.annotations, args.predictions, voc=args.voc, pycocotools=args.pycocotools, output_dir=args.out
    )
    return 0
