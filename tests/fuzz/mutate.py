"""Damage of bytes, texts and trees of plain values, by random numbers: the same numbers do the same damage.

What is damaged stands in `borders_*.py`.
"""

from __future__ import annotations

import copy
import random
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LONG = 10_000  # characters or entries of what is too long
_DEEP = 100_000  # brackets in a text
_MOST_ADDED = 4096  # bytes that one damage adds to others
_NUMBERS = (0, -0.0, -1, 1, 2**31, -(2**31), 2**32, 2**53 + 1, 2**63, 2**64, 10**4000, 0.5, 1e308, 1e-320, -1e308)
_NOT_FINITE = (float("nan"), float("inf"), float("-inf"))
_TEXTS = (
    *("", " ", "0", "nan", "inf", "1e400", "null", "true", "../../x", "/etc/passwd", "~root/x", "a\0b", "a\nb"),
    *("\x1b[31mred", "\ud800", "=1+1", "@x", "<b>&amp;", "[bold]", "$\\frac$", "\u202eabc", "\u0661", "\ufeffa"),
    *("http://127.0.0.1:9/x", "file:///etc/passwd", "hf-hub:a/b", "%s%n", "{0.__class__}", "-rf", "con", "."),
)
_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")


def hostile_value(rng: random.Random) -> Any:
    """A value that programs forget: NaN, huge, empty, of another type, a path, a control character, deep, long."""
    kind = rng.randrange(10)
    if kind < 3:
        return rng.choice(_NUMBERS)
    if kind == 3:
        return rng.choice(_NOT_FINITE)
    if kind < 7:
        return rng.choice(_TEXTS)
    if kind == 7:
        return rng.choice((True, False, None))
    if kind == 8:
        return copy.deepcopy(rng.choice(([], {}, [[]], [None], {"": {}}, {"a": 1}, [{}, {}])))
    return rng.choice((lambda: "a" * _LONG, lambda: [0] * _LONG, lambda: _nested(200)))()


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Trees.


def mutate_tree(rng: random.Random, tree: Any) -> Any:
    """A copy of a tree of dicts, lists and plain values with one place damaged; its keys may be damaged too."""
    holder = [copy.deepcopy(tree)]
    container, key = _place(rng, holder)
    value = container[key]
    kind = rng.randrange(8)
    if kind < 3:
        container[key] = hostile_value(rng)
    elif kind == 3 and isinstance(value, (int, float, str)):
        container[key] = _near(rng, value)
    elif kind == 4 and container is not holder:
        del container[key]
    elif kind == 5 and container is not holder:
        _add_again(rng, container, key)
    elif kind == 6:
        other, other_key = _place(rng, holder)
        moved = copy.deepcopy(value)
        container[key] = copy.deepcopy(other[other_key])
        if other is not holder:
            other[other_key] = moved
    else:
        times = 2 if isinstance(value, (dict, list)) else 300
        container[key] = rng.choice(([value], {"a": value}, [value] * times))
    return holder[0]


def _place(rng: random.Random, holder: list[Any]) -> tuple[Any, Any]:
    """A place in a tree as its container and key: each level is as likely, so that long lists do not draw all."""
    container: Any = holder
    while True:
        key = rng.choice(list(container) if isinstance(container, dict) else range(len(container)))
        inner = container[key]
        if not isinstance(inner, (dict, list)) or not inner or (container is not holder and rng.random() < 0.3):
            return container, key
        if container is holder and rng.random() < 0.02:
            return container, key
        container = inner


def _near(rng: random.Random, value: float | str) -> Any:
    """A value near one, or the same of another type."""
    if isinstance(value, str):
        return rng.choice((value + " ", value.upper(), value[:-1], f" {value}", [value], value + value, value + "\0"))
    if isinstance(value, bool) or abs(value) > 1e100:
        return not value
    return rng.choice((-value, value + 1, value - 1, value * 1000, value / 1000, str(value), float(value), [value]))


def _add_again(rng: random.Random, container: Any, key: Any) -> None:
    """Renames an entry of a dict, or adds an entry of either kind a second time."""
    if isinstance(container, list):
        container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
        return
    name = rng.choice((str(key).upper(), f"{key} ", f"{key}s", "", str(rng.choice(_TEXTS)), str(key)[:-1]))
    container[name] = copy.deepcopy(container[key])
    if rng.random() < 0.5 and name != key:
        del container[key]


# Texts.


def mutate_text(rng: random.Random, text: str, tokens: Sequence[str] = ()) -> str:
    """A text with one damage: of a line, a number, a character, or something inserted; it may hold half characters.

    Args:
        rng: the random numbers of the case.
        text: what is damaged.
        tokens: words of its format, which are inserted too.
    """
    kind = rng.randrange(9)
    if kind < 2:
        return _other_lines(rng, text)
    if kind < 4:
        return _other_number(rng, text)
    start = rng.randrange(len(text) + 1)
    if kind == 4:
        return text[:start]
    if kind == 5:
        end = min(len(text), start + rng.choice((1, 1, 2, 10, 100)))
        return text[:start] + text[end:]
    if kind == 6:
        return text[:start] + chr(rng.choice((0, 9, 10, 13, 27, 34, 39, 44, 58, 91, 123, 133, 0x2028))) + text[start:]
    if kind == 7:
        long = rng.choice(("[" * _DEEP, "{" * _DEEP, '{"a":' * _DEEP, " " * _LONG, "a" * _LONG, "9" * _LONG))
        return text[:start] + long + text[start:]
    return text[:start] + str(rng.choice((*_TEXTS, *tokens, *tokens))) + text[start:]


def write_text(path: Path, text: str) -> Path:
    """Writes a text in UTF-8, half characters too; gives its path."""
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    return path


def _other_lines(rng: random.Random, text: str) -> str:
    """A text with a line removed, doubled, exchanged with another or in another place; or with other line ends."""
    lines = text.splitlines(keepends=True) or [""]
    first, second = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    elif kind == 3:
        lines[first] = rng.choice(("\n", " " + lines[first], "\t" + lines[first], lines[first].rstrip("\n")))
    else:
        return text.replace("\n", rng.choice(("\r\n", "\r", "\n\n")))
    return "".join(lines)


def _other_number(rng: random.Random, text: str) -> str:
    """A text with one of its numbers replaced."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return text + str(rng.choice(_NUMBERS))
    match = rng.choice(numbers)
    value = rng.choice((*map(str, _NUMBERS), "NaN", "Infinity", "-inf", "1e999", "0x10", "1_0", "", "null", "'1'"))
    return text[: match.start()] + value + text[match.end() :]


# Bytes.


def mutate_bytes(rng: random.Random, data: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """Bytes with one damage: bits flipped, ranges cut, moved, doubled or removed, numbers set to extremes, more added.

    Args:
        rng: the random numbers of the case.
        data: what is damaged.
        tokens: byte strings of its format, which are inserted and written over others.
    """
    kind = rng.randrange(12)
    if not data or kind == 0:
        return rng.choice((b"", data[: rng.randrange(64)], rng.randbytes(rng.randrange(64))))
    if kind < 4:
        return _other_bytes(rng, data)
    if kind < 6:
        return _extreme_number(rng, data)
    start = _offset(rng, len(data))
    length = min(rng.choice((1, 2, 4, 16, 256, _MOST_ADDED)), len(data) - start)
    if kind == 6:
        return data[:start]
    if kind == 7:
        return data[:start] + data[start + length :]
    if kind == 8:
        return data[: start + length] + data[start : start + length] + data[start + length :]
    if kind == 9:
        other = _offset(rng, len(data))
        return data[:start] + data[other : other + length] + data[start + length :]
    added = rng.choice(tokens) if tokens and rng.random() < 0.7 else rng.randbytes(rng.choice((1, 4, 64, 1000)))
    if kind == 10:
        return rng.choice((data[:start] + added + data[start:], data + added))
    return data[:start] + added + data[start + len(added) :]


def _offset(rng: random.Random, length: int) -> int:
    """A place in bytes; every second one is near the start, where the headers are."""
    return min(int(rng.expovariate(1 / 40)), length - 1) if rng.random() < 0.5 else rng.randrange(length)


def _other_bytes(rng: random.Random, data: bytes) -> bytes:
    """Bytes with 1 to 16 bits flipped or bytes set."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 16))):
        place = _offset(rng, len(damaged))
        damaged[place] = rng.choice((damaged[place] ^ (1 << rng.randrange(8)), rng.randrange(256), 0, 255))
    return bytes(damaged)


def _extreme_number(rng: random.Random, data: bytes) -> bytes:
    """Bytes with a number of 1, 2, 4 or 8 bytes, of either byte order, set to an extreme."""
    width, code = rng.choice(((1, "B"), (2, "H"), (4, "I"), (4, "I"), (8, "Q")))
    place = _offset(rng, len(data))
    place -= place % rng.choice((1, width))
    value = struct.pack(rng.choice("<>") + code, rng.choice(_EXTREMES) % 256**width)
    return data[:place] + value[: len(data) - place] + data[place + width :]
