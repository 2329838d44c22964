"""List the models: name, input size and parameters; with --full also multiply-adds.

`effdet info NAME` shows one model in detail.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `models` to a parser."""
    parser.add_argument("--full", action="store_true", help="also count multiply-adds (half of the FLOPs); a minute")


def run(args: argparse.Namespace) -> int:
    """Prints the list line by line, since counting needs time; the exit status is 0."""
    import torch

    from effdet.models import ModelOptions, list_models, make_spec
    from effdet.models.analysis import count_parameters, multiply_adds
    from effdet.weights.pretrained import DEFAULT_NUM_CLASSES

    width = max(map(len, list_models()))
    print(f"{'model':{width}}  input        {'parameters':>11}{'  multiply-adds' if args.full else ''}")
    for name in list_models():
        spec = make_spec(ModelOptions(name))
        with torch.device("meta"):
            model = spec.build(DEFAULT_NUM_CLASSES[spec.task])
        size = f"{spec.image_size[0]} x {spec.image_size[1]}"
        work = f"  {multiply_adds(model, spec.image_size) / 1e9:11,.3f} G" if args.full else ""
        print(f"{name:{width}}  {size:11}  {count_parameters(model):11,}{work}", flush=True)
    return 0
