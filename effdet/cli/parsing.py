"""The parser of a verb: it refuses an unknown option with what to write instead, often a key of the recipe.

The verbs and their exit statuses are in `effdet/cli/__init__.py`.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Sequence

_LONGEST_NUMBER = 30  # characters


def make_parser(prog: str | None, description: str | None) -> argparse.ArgumentParser:
    """A parser that keeps the paragraphs of a verb's docstring in its help."""
    return argparse.ArgumentParser(prog=prog, description=description, formatter_class=_Help)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of a verb; section.key=value may follow the options.

    An argument that cannot be used ends the program with exit status 2.

    Args:
        parser: that of the verb.
        arguments: what follows the verb; None takes the command line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if any("\0" in text for text in arguments):
        parser.error("an argument holds the character NUL, which no path and no value can")
    known = set(parser._option_string_actions)
    suspects = [text for text in arguments if text.startswith("--") and not _is_option(text.partition("=")[0], known)]
    if suspects and not {"-h", "--help"} & set(arguments):
        parser.error("; ".join(_refusal(parser, option, arguments) for option in dict.fromkeys(suspects)))
    return parser.parse_intermixed_args(arguments)


def integer(most: int) -> Callable[[str], int]:
    """A type of arguments: integers up to a limit, below zero too; what each means is checked where it is used."""

    def read(text: str) -> int:
        if len(text) > _LONGEST_NUMBER or abs(int(text)) > most:
            raise argparse.ArgumentTypeError(
                f"{text[:_LONGEST_NUMBER]} is out of range; expected an integer up to {most}"
            )
        return int(text)

    read.__name__ = "int"  # in argparse's message about texts that are none
    return read


def real(most: float) -> Callable[[str], float]:
    """A type of arguments: finite numbers up to a limit, below zero too."""

    def read(text: str) -> float:
        if not abs(float(text)) <= most:
            raise argparse.ArgumentTypeError(
                f"{text[:_LONGEST_NUMBER]} is out of range; expected a number up to {most:g}"
            )
        return float(text)

    read.__name__ = "float"
    return read


def nearest(word: str, words: Sequence[str]) -> str:
    """The end of a sentence that refuses a word: the most similar one, or all of them."""
    near = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(words)}"


def _is_option(name: str, known: set[str]) -> bool:
    """Whether a name is an option, or the beginning of one alone, such as --dev."""
    return name in known or name == "--" or len([option for option in known if option.startswith(name)]) == 1


def _refusal(parser: argparse.ArgumentParser, text: str, arguments: Sequence[str]) -> str:
    """Why an option is refused, and what to write instead."""
    from effdet.config.suggestions import keys_meant, other_place

    option, equals, value = text.partition("=")
    following = arguments[list(arguments).index(text) + 1 :][:1]
    if not equals and following and not following[0].startswith("-") and "=" not in following[0]:
        value = following[0]
    value = value or "VALUE"
    own = [name for name in parser._option_string_actions if name.startswith("--")]
    word = option.removeprefix("--").lower().replace("-", "_")
    near = [name for name in own if option.startswith(name)]
    near = near or difflib.get_close_matches(option, own, n=1, cutoff=0.75)
    refusal = f"unknown option {option}"
    if near:
        return f"{refusal}; did you mean {near[0]}?"
    if not any(action.dest == "recipe" for action in parser._actions):
        return f"{refusal}; the options are {', '.join(own)}"
    sentence = other_place(word)
    if sentence:
        return f"{refusal}; {sentence}"
    keys = keys_meant(word)
    if not keys:
        return f"{refusal}; the options are {', '.join(own)}, and keys of the recipe are written section.key=value"
    return f"{refusal}; write {' or '.join(f'{key}={value}' for key in keys)} instead"


class _Help(argparse.RawDescriptionHelpFormatter):
    """Keeps the paragraphs of a verb's docstring."""
