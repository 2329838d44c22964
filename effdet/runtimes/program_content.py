"""Checks that a program of torch.export holds tensors and operators alone, since PyTorch would run code in it.

PyTorch unpickles objects of a program, evaluates its expressions and calls what its nodes name. The program itself is
opened in `program.py`.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from effdet.plain_data import kind_of, parse_json, shortened

_MODEL, _EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_ENTRY = re.compile(
    r"data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json)"
    r"|data/sample_inputs/model\.pt|models/model\.json|extra/[\w.]+|archive_(format|version)|byteorder"
    r"|\.data/(version|serialization_id)|version|\.format_version|\.storage_alignment"
)
_TARGET = re.compile(
    r"torch\.ops\.(aten|torchvision)\.(?!from_file|save\b)\w+\.\w+|torch\.sym_\w+|math\.\w+"
    r"|_operator\.(ge|le|lt|gt|eq|ne|add|sub|mul|floordiv|truediv|mod|pow|neg|and_|or_|not_|getitem)"
)
_NAMED = re.compile(r"[\w.]*", re.ASCII)
_WORDS = re.compile(r"\w+")
_SYMBOL = re.compile(r"-?\d+|[suz]+\d+")
_EXPRESSION = re.compile(r"[\w\s(),'=+*/<>.-]*", re.ASCII)
_FUNCTIONS = {
    *("Symbol", "Integer", "Rational", "Float", "integer", "positive", "nonnegative", "True", "False", "true", "false"),
    *("LessThan", "GreaterThan", "StrictLessThan", "StrictGreaterThan", "Equality", "Unequality", "Eq", "Ne", "Le"),
    *("Ge", "Lt", "Gt", "And", "Or", "Not", "Add", "Mul", "Pow", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "Max"),
    *("Min", "Abs", "CeilToInt", "FloorToInt", "IntTrueDiv", "ToFloat", "TruncToInt", "Identity", "Where"),
}
_NAMES = ("name", "as_name", "fqn", "buffer_name", "parameter_name", "user_input_name")
_FORBIDDEN = ("as_operator", "as_custom_obj", "as_graph", "as_graph_module")  # what calls code or holds objects
_EMPTY = ("guards_code", "custom_obj_values")
_SPECS = ("in_spec", "out_spec")
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")


def checked_program(path: Path) -> io.BytesIO:
    """A copy of a program in memory, which holds what was checked and nothing else.

    Raises:
        ValueError: it holds something else than tensors and operators; the message says what.
        OSError, zipfile.BadZipFile: the file cannot be read.
    """
    copy = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copy, "w") as new:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        if not all(is_stored(entry) for entry in entries):
            raise ValueError("it is compressed or encrypted")
        root = entries[0].filename.partition("/")[0] if entries else ""
        content: dict[str, bytes] = {}
        for entry in entries:
            name = entry.filename.removeprefix(f"{root}/")
            if not _ENTRY.fullmatch(name) or name in content:
                raise ValueError(f"it has the entry '{shortened(entry.filename)}'")
            content[name] = archive.read(entry)
            new.writestr(f"{root}/{name}", content[name])
        _check(content)
    copy.seek(0)
    return copy


def is_stored(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry of an archive is neither compressed nor encrypted, as PyTorch writes it."""
    return entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1


def _check(content: dict[str, bytes]) -> None:
    """Raises ValueError if an entry of the archive may run code."""
    for name in (_MODEL, *_CONFIGS):
        if name not in content:
            raise ValueError(f"it has no {name}")
    for name in _CONFIGS:
        for key, value in _items(_json(content, name)):
            if key == "use_pickle" and value is not False:
                raise ValueError(f"{name} names a pickle")
            if key == "path_name" and not (isinstance(value, str) and re.fullmatch(r"(weight|tensor)_\d+", value)):
                raise ValueError(f"{name} names {shortened(repr(value))}, which is no tensor")
    if content.get(_EXAMPLES):
        try:
            torch.load(io.BytesIO(content[_EXAMPLES]), map_location="cpu", weights_only=True)
        except Exception:  # a damaged file fails in two dozen ways
            raise ValueError(f"{_EXAMPLES} holds more than tensors") from None
    for key, value in _items(_json(content, _MODEL)):
        _check_item(key, value)


def _check_item(key: str, value: Any) -> None:
    """Raises ValueError if a key of the model's JSON has a value that PyTorch would run."""
    fault = False
    if key in _FORBIDDEN:
        fault = True
    elif key in _EMPTY:
        fault = bool(value)
    elif key == "target":
        fault = isinstance(value, str) and not (_TARGET.fullmatch(value) or _is_plain_target(value))
    elif key == "expr_str":
        fault = not (isinstance(value, str) and _is_expression(value))
    elif key in _NAMES:
        fault = isinstance(value, str) and not _NAMED.fullmatch(value)
    elif key == "forward_arg_names":
        fault = not all(isinstance(name, str) and _NAMED.fullmatch(name) for name in value or ())
    elif key in _SPECS:
        fault = not all(each in _CONTAINERS for name, each in _items(parse_json(value or "[]")) if name == "type")
    if fault:
        raise ValueError(f"its model has '{key}' {shortened(repr(value))}")


def _is_plain_target(value: str) -> bool:
    """Whether a target is the name of a weight, which a signature has, and no function."""
    return bool(_NAMED.fullmatch(value)) and not value.startswith(("torch", "_operator", "math", "#"))


def _is_expression(text: str) -> bool:
    """Whether an expression is of numbers, symbols and known functions."""
    if not _EXPRESSION.fullmatch(text):
        return False
    return all(word in _FUNCTIONS or _SYMBOL.fullmatch(word) for word in _WORDS.findall(text))


def _json(content: dict[str, bytes], name: str) -> Any:
    try:
        return parse_json(content[name])
    except (ValueError, json.JSONDecodeError):
        raise ValueError(f"{name} is no JSON") from None


def _items(tree: Any) -> Iterator[tuple[str, Any]]:
    """All keys with their values in nested lists and mappings."""
    stack = [tree]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            for key, inner in value.items():
                if not _NAMED.fullmatch(key):
                    raise ValueError(f"its model has the key {shortened(repr(key))}, a {kind_of(inner)}")
                yield key, inner
            stack += value.values()
        elif isinstance(value, list):
            stack += value
