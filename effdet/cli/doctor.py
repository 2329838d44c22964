"""Name the cause when AP is near zero.

  effdet doctor runs/mine
  effdet doctor runs/mine/best.onnx mine.yaml data.root=/data/mine
  effdet doctor --annotations truth.json --predictions results.json

RUN is the folder of a run, a checkpoint, an exported file, or a name of public weights. Predictions and model are
changed in one way after the other: classes shifted or in another order, x and y exchanged, boxes in another convention
or scale, weights without EMA, red and blue exchanged, other normalizations, training images, and more. The first change
that makes AP jump is named in one sentence; a table lists them all. Nothing is written.

With --annotations and --predictions, both COCO files, no model is needed. The exit status is 1 if a fault is named,
else 0.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.parsing import integer
from effdet.cli.recipes import add_recipe_arguments, overrides, recipe_path
from effdet.cli.runtime_arguments import add_runtime_arguments
from effdet.errors import ConfigError

if TYPE_CHECKING:
    from effdet.console import PlainConsole
    from effdet.diagnosis.doctor.verdict import Diagnosis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `doctor` to a parser."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="folder of a run, checkpoint, exported file or weights")
    add_recipe_arguments(parser, optional=True)
    parser.add_argument("--annotations", type=Path, metavar="FILE", help="the truth, a COCO file")
    parser.add_argument("--predictions", type=Path, metavar="FILE", help="predictions for it, a COCO results file")
    parser.add_argument(
        "--images",
        type=integer(10**9),
        default=100,
        metavar="N",
        help="images of each split that are looked at (default: 100)",
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")
    add_runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Diagnoses; the exit status is 1 if a fault is named, else 0.

    Raises:
        EffdetError: run, recipe, data or files cannot be used.
    """
    if args.images < 1:
        raise ConfigError(f"--images is {args.images}; expected at least 1")
    if (args.annotations is None) != (args.predictions is None):
        raise ConfigError("--annotations and --predictions go together: a COCO file, and a COCO results file for it")
    if (args.run is None) == (args.annotations is None):
        raise ConfigError("give the folder of a run or a model file; or --annotations and --predictions, without a run")

    from effdet.console import PlainConsole
    from effdet.diagnosis.doctor.verdict import checks_table

    console = PlainConsole()
    if args.annotations is not None:
        from effdet.diagnosis.doctor.diagnose import diagnose_results

        diagnosis = diagnose_results(args.annotations, args.predictions)
    else:
        diagnosis = _of_run(args, console)
    if diagnosis.checks:
        console.print(checks_table(diagnosis.checks, diagnosis.metric))
    for fact in diagnosis.facts:
        console.print(fact)
    console.print(f"\n{diagnosis.sentence}")
    return 0 if diagnosis.healthy else 1


def _of_run(args: argparse.Namespace, console: PlainConsole) -> Diagnosis:
    """The diagnosis of a run."""
    from effdet.devices import pick_device
    from effdet.diagnosis.doctor.diagnose import diagnose_run

    if "=" in args.run:
        raise ConfigError(f"'{args.run}' is a change of the recipe; give the folder of a run or a model file before it")
    return diagnose_run(
        args.run,
        recipe_path(args),
        overrides(args),
        device=pick_device(args.device),
        images=args.images,
        threads=args.threads,
        metadata=args.metadata,
        show=console.print,
    )
