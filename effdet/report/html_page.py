"""What all HTML pages have in common: escaped text, data and script inside the page, the head that forbids the network.

Plots are in `plots.py`, the style sheet in `page_style.py`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Iterable
from typing import Any

from effdet.text import percent

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")  # not allowed in HTML


def escaped(text: object) -> str:
    """A text for the inside of an element or of a quoted attribute; control characters become U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", str(text)))


def isolated(text: object) -> str:
    """A text of the user for the inside of an element; its writing direction does not change that of its neighbors."""
    return f"<bdi>{escaped(text)}</bdi>"


def ellipsized(text: str, length: int) -> str:
    """A text of at most `length` characters: a longer one ends with an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}\u2026"


def with_sign(fraction: float | None) -> str:
    """The same with the percent sign, if there is a number."""
    number = percent(fraction)
    return number if number == "\u2013" else f"{number}%"


def score_text(score: float) -> str:
    """A score or a threshold of it with up to three decimals, such as 0.5 or 0.483."""
    return f"{score:.3f}".rstrip("0").rstrip(".")


def heading(title: str, about: str = "") -> str:
    """The head of a card, both plain text or HTML of ours: its title, and a sentence or two below it."""
    return f'<h3>{title}</h3><p class="dim small">{about}</p>' if about else f"<h3>{title}</h3>"


def json_script(identity: str, value: Any) -> str:
    """Plain values inside the page, for `JSON.parse`; they can neither end the element nor start another one."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{identity}">{text}</script>'


def document(title: str, style: str, body: Iterable[str], script: str = "") -> str:
    """A page that loads nothing: the browser refuses the network, and any script but this one.

    Args:
        title: plain text.
        style: a style sheet.
        body: HTML, in which all text of users is escaped.
        script: JavaScript, which runs when the body has been read.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
    lines = "\n".join(body)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="color-scheme" content="light dark"><title>{escaped(title)}</title><style>{style}</style></head>'
        f"<body><main>\n{lines}\n</main>{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )
