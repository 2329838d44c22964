"""YAML and JSON texts of others to plain values, within limits: the one reading of both.

What the values mean is checked by the readers of recipes, annotations and cards.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

import yaml

from effdet.text import HALF

if TYPE_CHECKING:
    from pydantic import ValidationError

_MOST_VALUES = 1_000_000  # that a YAML text may stand for, with what its aliases repeat
_MAY_BE_HALF = re.compile(rb"\\(u|U0000)[dD][89a-fA-F]")  # of a character beyond the first 65,536
_LONGEST = 200  # characters of a value in a message


def shown(value: Any) -> str:
    """A value as messages show it: as Python writes it, and not longer than a line or two."""
    return shortened(repr(value))


def shortened(text: str, longest: int = _LONGEST) -> str:
    """A text of others as messages show it: its start, if it has more characters than `longest`."""
    return text if len(text) <= longest else f"{text[:longest]}..."


def parse_yaml(text: str, as_texts: bool = False) -> Any:
    """The values of a YAML text; duplicate keys are refused, 1e-3 is a number, and no tag makes an object.

    Args:
        text: the YAML.
        as_texts: whether numbers, dates and the like stay the texts that are written.

    Raises:
        ValueError: it is no YAML, nested too deeply, or its aliases stand for too many values; the message says why,
            in one line.
    """
    try:
        loader = (_TextLoader if as_texts else _Loader)(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > _MOST_VALUES:
                raise ValueError(f"its aliases stand for more than {_MOST_VALUES:,} values")
            values = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except OverflowError:
        raise ValueError("it holds a character or number that does not exist") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1} column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{error.problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except (AttributeError, KeyError, TypeError, IndexError):  # as the library fails on values that do not fit tags
        raise ValueError("a value does not fit its tag") from None
    _check_halves(values, text)
    return values


def parse_json(text: str | bytes) -> Any:
    """The values of a JSON text; of bytes in UTF-8, UTF-16 or UTF-32.

    Raises:
        json.JSONDecodeError: it is no JSON.
        UnicodeDecodeError: the bytes are no text.
        ValueError: it is nested too deeply, or holds numbers of thousands of digits or half a character.
    """
    try:
        values = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError:
        raise
    except ValueError:
        raise ValueError("it holds a number of thousands of digits") from None
    _check_halves(values, text)
    return values


def _check_halves(values: Any, text: str | bytes) -> None:
    """Checks that no text in the values holds half of a character."""
    data = text.encode(errors="replace") if isinstance(text, str) else text
    if _MAY_BE_HALF.search(data.replace(b"\0", b"") if b"\0" in data[:4] else data):  # wide characters have zeros
        half = _first_half(values)
        if half is not None:
            raise ValueError(f"{half!r} holds half of a character; correct that name")


def _first_half(values: Any) -> str | None:
    """The first text with half of a character."""
    stack = [values]
    while stack:
        value = stack.pop()
        if isinstance(value, str) and HALF.search(value):
            return value
        if isinstance(value, (list, dict)):
            stack += [*value, *value.values()] if isinstance(value, dict) else value
    return None


def first_fault(error: ValidationError) -> str:
    """Which key is at fault and why, of the first fault that a validation saw."""
    fault = error.errors()[0]
    key, reason = ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")
    return f"'{shortened(key)}': {shortened(reason)}" if key else shortened(reason)


def check_keys(values: Any, kind: type) -> None:
    """Does nothing if a mapping has the fields of a dataclass; what they hold is checked elsewhere.

    Raises:
        ValueError: it is no mapping, lacks a field that has no default, or has a key that is no field.
    """
    check_mapping(values)
    known = {field.name: field for field in fields(kind)}
    for name, field in known.items():
        if name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"'{name}' is missing")
    for key in values:
        if key not in known:
            raise ValueError(f"{shown(key)} is an unknown key")


def check_mapping(values: Any) -> None:
    """Does nothing if values are a mapping.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"it is of the type {kind_of(values)}; expected a mapping of keys")


def kind_of(value: Any) -> str:
    """The type of a value in messages."""
    return "null" if value is None else type(value).__name__


class _TextLoader(yaml.BaseLoader):
    """YAML whose scalars are texts."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        for key, times in keys.items():
            if times > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' appears twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, with what its aliases repeat; of an alias to itself, more than any limit."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = _MOST_VALUES + 1  # while it is being counted
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]
