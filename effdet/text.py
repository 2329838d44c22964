"""Small texts for people: counts with their nouns, reasons of errors.

Sentences stand where they are shown; types of errors are in `errors.py`.
"""

from __future__ import annotations


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


def reason_of(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
