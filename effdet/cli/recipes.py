"""The arguments that all verbs with a recipe have: a YAML file and section.key=value overrides.

What a recipe may hold is in `effdet/config/`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.errors import ConfigError

if TYPE_CHECKING:
    from effdet.config import ClassificationConfig, DetectionConfig


def add_recipe_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Adds RECIPE and overrides; with `optional` the recipe may be left out."""
    parser.add_argument(
        "recipe",
        nargs="*" if optional else "+",
        metavar="RECIPE|section.key=value",
        help="a recipe such as configs/d0.yaml, then overrides of its keys such as data.root=/data/coco; start from "
        "configs/finetune.yaml for your own data set, `effdet config --schema` describes every key",
    )


def recipe_path(args: argparse.Namespace) -> Path | None:
    """The recipe's file, or None if there are only overrides.

    Raises:
        ConfigError: more than one recipe.
    """
    files = [text for text in args.recipe if "=" not in text]
    if len(files) > 1:
        raise ConfigError(f"one recipe at a time, got {' and '.join(files)}; changes are written section.key=value")
    return Path(files[0]) if files else None


def overrides(args: argparse.Namespace) -> list[str]:
    """The section.key=value arguments."""
    return [text for text in args.recipe if "=" in text]


def read_recipe(args: argparse.Namespace) -> DetectionConfig | ClassificationConfig:
    """The recipe with its overrides.

    Raises:
        ConfigError: there is no recipe, or it cannot be used.
    """
    from effdet.config import load_config

    path = recipe_path(args)
    if path is None:
        raise ConfigError("no recipe is given; name one such as configs/d0.yaml")
    return load_config(path, overrides(args))
