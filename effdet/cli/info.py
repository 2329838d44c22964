"""Show what a network is and costs: parameters, multiply-adds, features, anchors, memory of training.

effdet info efficientdet_d0                            a network by name
effdet info efficientdet_d0 model.image_size=[384,640] with changes
effdet info configs/d0.yaml                            the network of a recipe

Multiply-adds are those of convolutions and matrix products for one image. The memory is what one training step keeps
of one image in float32; weights, gradients, the optimiser and the loss come on top.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.recipes import overrides

if TYPE_CHECKING:
    from effdet.config import ClassificationConfig, DetectionConfig
    from effdet.models.analysis import ModelFigures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `info` to a parser."""
    parser.add_argument(
        "recipe",
        nargs="+",
        metavar="NAME|CONFIG|section.key=value",
        help="a network or a recipe, then changes to it such as model.image_size=[384,640]",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the figures; the exit status is 0.

    Raises:
        ConfigError: there is no such network, or the recipe cannot be used.
    """
    from effdet.models import EFFICIENTDETS
    from effdet.models.analysis import figures_of
    from effdet.weights.create import spec_of
    from effdet.weights.pretrained import COCO_SLOTS, IMAGENET_CLASSES

    config = _config(args)
    usual = COCO_SLOTS if config.model.name in EFFICIENTDETS else IMAGENET_CLASSES
    _print(figures_of(spec_of(config.model), config.model.num_classes or usual))
    return 0


def _config(args: argparse.Namespace) -> DetectionConfig | ClassificationConfig:
    """The recipe that is named, or one of the network that is named."""
    from effdet.config import load_config, make_config
    from effdet.errors import ConfigError
    from effdet.models import EFFICIENTDETS, EFFICIENTNETS
    from effdet.models.efficientnet import find_spec

    named = [text for text in args.recipe if "=" not in text]
    if len(named) != 1:
        raise ConfigError(f"expected one network or recipe, got {' and '.join(named) or 'none'}; see `effdet models`")
    name = named[0]
    if Path(name).suffix in (".yaml", ".yml") or Path(name).is_file():
        return load_config(name, overrides(args))
    find_spec({**EFFICIENTDETS, **EFFICIENTNETS}, name)
    task = "detection" if name in EFFICIENTDETS else "classification"
    return make_config({"task": task, "model": {"name": name}}, overrides(args), source=name)


def _print(figures: ModelFigures) -> None:
    from rich.console import Console
    from rich.table import Table

    height, width = figures.image_size
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_row("network", figures.name)
    facts.add_row("input", f"{height} x {width}")
    facts.add_row("classes", str(figures.num_classes))
    if figures.anchors:
        facts.add_row("anchors", f"{figures.anchors:,}")
    facts.add_row("training", f"{figures.activation_bytes / 2**20:,.0f} MiB of activations per image in float32")
    parts = Table("part", box=None, pad_edge=False)
    parts.add_column("parameters", justify="right")
    parts.add_column("multiply-adds", justify="right")
    for part, count in figures.parameters.items():
        parts.add_row(part, f"{count:,}", f"{figures.multiply_adds[part]:,}")
    parts.add_row("all", f"{sum(figures.parameters.values()):,}", f"{sum(figures.multiply_adds.values()):,}")
    features = Table("feature", box=None, pad_edge=False)
    for column in ("stride", "channels", "size"):
        features.add_column(column, justify="right")
    rows = zip(figures.feature_strides, figures.feature_channels, figures.feature_sizes, strict=True)
    for level, (stride, channels, (rows_high, columns_wide)) in enumerate(rows, 3):
        features.add_row(f"C{level}", str(stride), str(channels), f"{rows_high} x {columns_wide}")
    console = Console()
    console.print(facts, "", parts, "", features, sep="\n")
