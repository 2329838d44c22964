"""Print a recipe with all its values, defaults included, or with --schema the JSON schema of all keys.

  effdet config d0 train.batch_size=32
  effdet config --schema > schema.json

Editors complete and check a recipe whose first line is: # yaml-language-server: $schema=schema.json
"""

from __future__ import annotations

import argparse

from effdet.cli.recipes import add_recipe_arguments, read_recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `config` to a parser."""
    add_recipe_arguments(parser, optional=True)
    parser.add_argument(
        "--schema",
        action="store_true",
        help="print every key with its type, default and description as a JSON schema for editors",
    )


def run(args: argparse.Namespace) -> int:
    """Prints the recipe as YAML or the schema as JSON; the exit status is 0.

    Raises:
        ConfigError: the recipe cannot be used.
    """
    import json

    if args.schema:
        from effdet.config.json_schema import recipe_schema

        print(json.dumps(recipe_schema(), indent=2))
    else:
        print(read_recipe(args).to_yaml(), end="")
    return 0
