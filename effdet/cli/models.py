"""List the networks: name, parameters in millions, input size."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`models` has no arguments."""


def run(args: argparse.Namespace) -> int:
    """Prints the list; the exit status is 0."""
    import torch
    from rich.console import Console
    from rich.table import Table

    from effdet.models import EFFICIENTDETS, EFFICIENTNETS, build_efficientdet, build_efficientnet
    from effdet.models.efficientnet import count_parameters

    table = Table("network", "input", box=None, pad_edge=False)
    table.add_column("parameters", justify="right")
    with torch.device("meta"):
        for name, detector in EFFICIENTDETS.items():
            count = count_parameters(build_efficientdet(name, 90))
            table.add_row(name, f"{detector.image_size} x {detector.image_size}", f"{count:,}")
        for name, classifier in EFFICIENTNETS.items():
            count = count_parameters(build_efficientnet(name, 1000))
            table.add_row(name, f"{classifier.image_size} x {classifier.image_size}", f"{count:,}")
    Console().print(table)
    return 0
