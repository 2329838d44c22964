"""The part of the command line that verbs with a recipe share: CONFIG and section.key=value arguments."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.errors import ConfigError

if TYPE_CHECKING:
    from effdet.config import ClassificationConfig, DetectionConfig


def add_recipe_arguments(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Adds CONFIG and overrides; with `optional` the recipe may be left out."""
    parser.add_argument(
        "recipe",
        nargs="*" if optional else "+",
        metavar="CONFIG|section.key=value",
        help="a recipe such as configs/d0.yaml, then changes to it such as data.root=/data/coco; preset=finetune "
        "and preset=scratch change start, optimiser and length in one go",
    )


def recipe_path(args: argparse.Namespace) -> Path | None:
    """The recipe's file, or None where only overrides were given.

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
        ConfigError: no recipe, or one that cannot be used.
    """
    from effdet.config import load_config

    path = recipe_path(args)
    if path is None:
        raise ConfigError("no recipe is given; name one such as configs/d0.yaml")
    return load_config(path, overrides(args))
