"""Print a recipe with all its values, defaults included, or with --schema every key with its description.

effdet config configs/d0.yaml train.batch_size=32
"""

from __future__ import annotations

import argparse

from effdet.cli.recipes import add_recipe_arguments, read_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `config` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument(
        "--schema", action="store_true", help="print every key with its type, default and description as a JSON schema"
    )


def run(args: argparse.Namespace) -> int:
    """Prints the recipe as YAML or the schema as JSON; the exit status is 0.

    Raises:
        ConfigError: the recipe cannot be used.
    """
    import json

    from pydantic import TypeAdapter

    from effdet.config import ClassificationConfig, DetectionConfig

    if args.schema:
        recipe: TypeAdapter[object] = TypeAdapter(DetectionConfig | ClassificationConfig)
        print(json.dumps(recipe.json_schema(), indent=2))
    else:
        print(read_recipe(args).to_yaml(), end="")
    return 0
