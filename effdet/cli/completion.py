"""Print a script that lets a shell complete verbs, options, recipes and files after the Tab key.

source <(effdet completion bash)                                       in bash, for this session
effdet completion bash > ~/.local/share/bash-completion/completions/effdet
effdet completion zsh > ~/.zfunc/_effdet                               a folder of zsh's fpath
effdet completion tcsh > ~/.effdet.tcsh                                then source it in ~/.tcshrc
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

SHELLS = ("bash", "zsh", "tcsh")
_RECIPES = {"bash": "_effdet_recipes", "zsh": "_effdet_recipes", "tcsh": "f"}  # functions; in tcsh files only


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `completion` to a parser."""
    parser.add_argument("shell", choices=SHELLS, help="the shell that completes")


def run(args: argparse.Namespace) -> int:
    """Prints the script; the exit status is 0."""
    import shtab

    from effdet.config.recipe_files import list_recipes

    recipes = " ".join(list_recipes())
    preamble = {
        "bash": f'_effdet_recipes() {{ compgen -W "{recipes}" -- "$1"; compgen -f -- "$1"; }}',
        "zsh": f"_effdet_recipes() {{ _alternative 'recipes:recipe:({recipes})' 'files:file:_files' }}",
    }
    print(shtab.complete(_parser_of_all_verbs(), args.shell, preamble=preamble.get(args.shell, "")))
    return 0


def _parser_of_all_verbs() -> argparse.ArgumentParser:
    """One parser with a subparser per verb, in which each argument says how it is completed."""
    import shtab

    from effdet.cli import VERBS

    parser = argparse.ArgumentParser(prog="effdet")
    verbs = parser.add_subparsers()
    for verb, about in VERBS.items():
        subparser = verbs.add_parser(verb, help=about)
        importlib.import_module(f"effdet.cli.{verb.replace('-', '_')}").add_arguments(subparser)
        for action in subparser._actions:
            if action.dest == "recipe":
                action.complete = _RECIPES  # type: ignore[attr-defined]
            elif action.nargs != 0 and action.type in (None, Path) and action.dest != "device" and not action.choices:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return parser
