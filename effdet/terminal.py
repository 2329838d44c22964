"""What is printed, without rich: control characters as escapes, and streams of any encoding.

Names of files and classes are data, which must not move the cursor or change colors. The console of rich is in
`console.py`.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
import unicodedata

# All of Unicode's control characters but the tab and the new line, and those that change the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_CLOSEST = "effdet.closest"  # name of the error handler of encodings


def printable(text: str) -> str:
    r"""A text with control characters as escapes, such as \x1b.

    Example:
        >>> printable("a\x1b[31m.jpg")
        'a\\x1b[31m.jpg'
    """
    return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def accept_any_text() -> None:
    """Lets standard output and error show the closest characters of their encoding instead of failing.

    Terminals of cron jobs and of many containers know ASCII alone.
    """
    codecs.register_error(_CLOSEST, _closest)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_CLOSEST)


def print_error(message: str) -> None:
    """Prints a message to standard error, control characters as escapes."""
    print(printable(message), file=sys.stderr)


def _closest(error: UnicodeError) -> tuple[str, int]:
    """What to write for characters that an encoding lacks: without accents and the like, else as escapes."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = unicodedata.normalize("NFKD", error.object[error.start : error.end])
    closest = "".join(character for character in text if not unicodedata.combining(character))
    return closest.encode("ascii", "backslashreplace").decode(), error.end
