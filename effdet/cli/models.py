"""List the networks: name, input size, parameters; with --full their multiply-adds too.

effdet info NAME tells more of one network.
"""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `models` to a parser."""
    parser.add_argument("--full", action="store_true", help="give the multiply-adds too, which takes a minute")


def run(args: argparse.Namespace) -> int:
    """Prints the list line by line, as counting takes its time; the exit status is 0."""
    import torch

    from effdet.models import EFFICIENTDETS, EFFICIENTNETS, list_models
    from effdet.models.analysis import multiply_adds
    from effdet.models.efficientnet import count_parameters
    from effdet.weights.pretrained import COCO_SLOTS, IMAGENET_CLASSES

    width = max(map(len, list_models()))
    print(f"{'network':{width}}  input        {'parameters':>11}{'  multiply-adds' if args.full else ''}")
    for name in list_models():
        spec = EFFICIENTDETS.get(name) or EFFICIENTNETS[name]
        with torch.device("meta"):
            model = spec.build(COCO_SLOTS if name in EFFICIENTDETS else IMAGENET_CLASSES)
        size = f"{spec.image_size[0]} x {spec.image_size[1]}"
        work = f"  {multiply_adds(model, spec.image_size) / 1e9:11,.3f} G" if args.full else ""
        print(f"{name:{width}}  {size:11}  {count_parameters(model):11,}{work}", flush=True)
    return 0
