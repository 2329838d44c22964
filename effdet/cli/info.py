"""Parameters, FLOPs and memory of a model, and the sizes of its features and anchors.

  effdet info efficientdet_d0                              a model by name
  effdet info efficientdet_d0 model.image_size=[384,640]   the same with changes
  effdet info d0                                           the model of a recipe

FLOPs are shown as multiply-adds (half of the FLOPs) of convolutions and matrix products for one image. Memory is that
of the activations of one image in a training step in float32; weights, gradients, optimiser and loss need more.
"""

from __future__ import annotations

import argparse
import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.recipes import overrides

if TYPE_CHECKING:
    from effdet.config import ClassificationConfig, DetectionConfig
    from effdet.models.analysis import ModelSummary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `info` to a parser."""
    parser.add_argument(
        "recipe",
        nargs="+",
        metavar="NAME|CONFIG|section.key=value",
        help="a model or a recipe, then changes such as model.image_size=[384,640]",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the summary; the exit status is 0.

    Raises:
        ConfigError: there is no such model, or the recipe cannot be used.
    """
    from effdet.models import make_spec
    from effdet.models.analysis import summarize
    from effdet.weights.create import options_of
    from effdet.weights.pretrained import DEFAULT_NUM_CLASSES

    config = _config(args)
    spec = make_spec(options_of(config.model))
    _print(summarize(spec, config.model.num_classes or DEFAULT_NUM_CLASSES[spec.task]))
    return 0


def _config(args: argparse.Namespace) -> DetectionConfig | ClassificationConfig:
    """The named recipe, or a recipe for the named model."""
    from effdet.config import load_config, make_config
    from effdet.config.recipe_files import find_recipe, nearest_recipes
    from effdet.errors import ConfigError
    from effdet.models import ModelOptions, list_models, make_spec

    named = [text for text in args.recipe if "=" not in text]
    if len(named) != 1:
        raise ConfigError(f"expected one model or recipe, got {' and '.join(named) or 'none'}; see `effdet models`")
    name = named[0]
    if name in list_models():
        task = make_spec(ModelOptions(name)).task
        return make_config({"task": task, "model": {"name": name}}, overrides(args), source=name)
    try:
        path = find_recipe(name)
    except ConfigError:
        if Path(name).suffix:
            raise
        models = [model for model in list_models() if model.endswith(f"_{name}")]
        models = models or difflib.get_close_matches(name, list_models(), n=2)
        near = [*models, *(f"the recipe {recipe}" for recipe in nearest_recipes(name)[:2])]
        raise ConfigError(
            f"'{name}' is no model and no recipe; "
            + (f"did you mean {' or '.join(near)}?" if near else "`effdet models` lists the models")
        ) from None
    return load_config(path, overrides(args))


def _print(summary: ModelSummary) -> None:
    from rich.table import Table

    from effdet.console import PlainConsole

    height, width = summary.image_size
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_row("model", summary.name)
    facts.add_row("input", f"{height} x {width}")
    facts.add_row("classes", str(summary.num_classes))
    if summary.anchors:
        facts.add_row("anchors", f"{summary.anchors:,}")
    facts.add_row("training", f"{summary.activation_bytes / 2**20:,.0f} MiB of activations per image in float32")
    modules = Table("module", box=None, pad_edge=False)
    modules.add_column("parameters", justify="right")
    modules.add_column("multiply-adds", justify="right")
    for module, count in summary.parameters.items():
        modules.add_row(module, f"{count:,}", f"{summary.multiply_adds[module]:,}")
    modules.add_row("all", f"{sum(summary.parameters.values()):,}", f"{sum(summary.multiply_adds.values()):,}")
    features = Table("feature", box=None, pad_edge=False)
    for column in ("stride", "channels", "size"):
        features.add_column(column, justify="right")
    rows = zip(summary.feature_strides, summary.feature_channels, summary.feature_sizes, strict=True)
    for level, (stride, channels, (rows_high, columns_wide)) in enumerate(rows, 3):
        features.add_row(f"C{level}", str(stride), str(channels), f"{rows_high} x {columns_wide}")
    console = PlainConsole(soft_wrap=False)
    console.print(facts, "", modules, "", features, sep="\n")
