"""Texts for a terminal: control characters as escapes.

Names of files and classes are data, which must not move the cursor or change colors. The console of rich is in
`console.py`.
"""

from __future__ import annotations

import re

# All of Unicode's control characters but the tab and the new line, and those that change the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    r"""A text with control characters as escapes, such as \x1b.

    Example:
        >>> printable("a\x1b[31m.jpg")
        'a\\x1b[31m.jpg'
    """
    text = CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
    return text.encode("utf-8", "backslashreplace").decode()  # names of files may be in another encoding
