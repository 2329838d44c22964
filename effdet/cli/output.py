"""Standard output and error of the command line: texts in any encoding, and error messages.

Which characters are escaped is in `effdet/terminal.py`.
"""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata

from effdet.terminal import printable

_CLOSEST = "effdet.closest"  # name of the error handler of encodings


def open_closed_streams() -> None:
    """Opens standard input, output and error as /dev/null where the caller has closed them, as in `effdet models >&-`.

    Else the next file that is opened would get the number of one, and what libraries print would be written to it.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115  gets the lowest free number


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
