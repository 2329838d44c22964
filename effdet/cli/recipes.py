"""The arguments that all verbs with a recipe have: a recipe and section.key=value overrides.

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
        help="a recipe such as lite0 or mine.yaml, then overrides of its keys such as data.root=/data/coco; start from "
        "finetune for your own data set, `effdet config --schema` describes every key",
    )


def recipe_path(args: argparse.Namespace) -> Path | None:
    """The recipe's file, or None if there are only overrides.

    Raises:
        ConfigError: more than one recipe, or there is none of that name.
    """
    names = [text for text in args.recipe if "=" not in text]
    if len(names) > 1:
        raise ConfigError(f"one recipe at a time, got {' and '.join(names)}; changes are written section.key=value")
    if not names:
        return None
    from effdet.config.recipe_files import find_recipe

    return find_recipe(names[0])


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
        raise ConfigError("no recipe is given; name one such as finetune, or a file such as mine.yaml")
    return load_config(path, overrides(args))
