"""Small texts for people: counts with their nouns, reasons of errors, names in tables for spreadsheets.

Sentences stand where they are shown; types of errors are in `errors.py`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HALVES = "\ud800-\udfff"  # halves of characters, as a range of a pattern: no file can hold them
HALF = re.compile(f"[{HALVES}]")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # first characters by which a spreadsheet takes a cell for a formula


def count_of(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: "1 image", "4 images".

    Example:
        >>> count_of(1, "class", "classes"), count_of(2, "class", "classes"), count_of(0, "file")
        ('1 class', '2 classes', '0 files')

    Args:
        count: how many.
        noun: of one.
        plural: of any other count; by default the noun with an s.
    """
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def some_of(texts: Sequence[str], most: int = 6) -> str:
    """The first few of some texts, and whether there are more.

    Example:
        >>> some_of(["a", "b", "c"], 2), some_of(["a", "b"], 2)
        ('a, b, ...', 'a, b')
    """
    return ", ".join(texts[:most]) + (", ..." if len(texts) > most else "")


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in percent without the sign; a dash for what was not measured (None or negative)."""
    return "\u2013" if fraction is None or fraction < 0 else f"{100 * fraction:.{digits}f}"


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none; of the system's errors without the file."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def path_cell(path: str) -> str:
    """A path as a cell of a CSV file: ./ goes before one that a spreadsheet would compute, which is the same file.

    Quotes do not help, since spreadsheets remove them first.

    Example:
        >>> path_cell("=cmd.jpg"), path_cell("photos/-1.jpg")
        ('./=cmd.jpg', 'photos/-1.jpg')
    """
    return f"./{path}" if path.startswith(_FORMULA) else path


def name_cell(name: str) -> str:
    """The name of a class as a cell of a CSV file: an apostrophe goes before one that a spreadsheet would compute.

    Numbers and single characters are no formulas and stay as they are. JSON files have the name itself.

    Example:
        >>> name_cell("=1+2"), name_cell("+"), name_cell("-5")
        ("'=1+2", '+', '-5')
    """
    if len(name) < 2 or not name.startswith(_FORMULA):
        return name
    try:
        float(name)
    except ValueError:
        return f"'{name}"
    return name
