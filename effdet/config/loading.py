"""Reads a recipe into a `Config`: YAML files with their bases, then overrides of the command line.

The tree itself, with every default, is in `schema.py`; where recipe files are, in `recipe_files.py`; what a message
suggests instead of an unknown key, in `suggestions.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from effdet.config.migration import migrate
from effdet.config.recipe_files import find_recipe
from effdet.config.schema import TASKS, ClassificationConfig, Config, DetectionConfig
from effdet.config.section import keys_of
from effdet.config.suggestions import suggestion
from effdet.errors import ConfigError
from effdet.files import read_text
from effdet.plain_data import kind_of, parse_yaml, shortened, shown

_COMMAND_LINE = "command line"
_MOST_FAULTS, _LONGEST_FAULT = 15, 1000  # faults of a recipe in one message, and characters of a fault


def load_config(recipe: str | Path, overrides: Sequence[str] = ()) -> DetectionConfig | ClassificationConfig:
    """The recipe of a YAML file, changed by `section.key=value` overrides.

    `base: other.yaml` names a parent, relative to the file, or one of the recipes that come with the package, such as
    `base: lite0`. Mappings merge, everything else replaces.

    Args:
        recipe: the path of a YAML file, or the name of a recipe that comes with the package, such as lite0.
        overrides: changes to it.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key is unknown, given twice or of the wrong type.
    """
    path = find_recipe(recipe)
    return _build(*_read_file(path, ()), overrides, str(path))


def make_config(
    tree: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "config"
) -> DetectionConfig | ClassificationConfig:
    """The recipe of a plain mapping, changed by `section.key=value` overrides.

    Args:
        tree: the mapping, as `Config.to_dict` gives it; one with an older version is migrated, one without is of today.
        overrides: changes to it.
        source: what messages call the mapping.

    Raises:
        ConfigError: a key is unknown or of the wrong type; the message lists all such keys, one per line.
    """
    tree = _of_today(tree, source)
    return _build(tree, dict.fromkeys(_dotted_keys(tree), source), overrides, source)


def _build(
    tree: Mapping[str, Any], origins: Mapping[str, str], overrides: Sequence[str], source: str
) -> DetectionConfig | ClassificationConfig:
    """The recipe of a mapping and its overrides; what nobody gave is blamed on `source`."""
    for override in overrides:
        change = _parse_override(override)
        tree = _merge(tree, change)
        origins = {**origins, **dict.fromkeys(_dotted_keys(change), _COMMAND_LINE)}
    task = tree.get("task", "detection")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(f"{origins.get('task', source)}: 'task' is {shown(task)}; expected {' or '.join(TASKS)}")
    config = TASKS[task]
    try:
        return config.model_validate(tree)
    except ValidationError as error:
        lines = list(dict.fromkeys(_message(fault, config, origins, source) for fault in error.errors()))
        more = [f"and {len(lines) - _MOST_FAULTS} faults more"] if len(lines) > _MOST_FAULTS else []
        raise ConfigError("\n".join([*lines[:_MOST_FAULTS], *more])) from None
    except UnicodeEncodeError as error:
        raise ConfigError(f"{source}: {shown(error.object)} is no text in UTF-8; correct that value") from None


def _message(fault: ErrorDetails, config: type[Config], origins: Mapping[str, str], source: str) -> str:
    """One fault of a recipe in a line: where, which key, what it is and what was expected."""
    steps = [str(step) for step in fault["loc"]]
    steps = [step for step in steps if not step.startswith(("function-", "tuple[", "constrained-"))]
    key = ".".join(steps)
    given = [".".join(steps[:length]) for length in range(len(steps), 0, -1)]
    place = next((origins[name] for name in given if name in origins), source)
    expected = f"{fault['msg'][0].lower()}{fault['msg'][1:]}"
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key '{shortened(key)}'{suggestion(key, config)}"
    if fault["type"] == "value_error":  # of a validator of ours, whose message is whole
        return f"{place}: {shortened(fault['msg'].removeprefix('Value error, '), _LONGEST_FAULT)}"
    if fault["type"] in ("model_type", "model_attributes_type"):
        names = [name for name in keys_of(config) if name.rpartition(".")[0] == key]
        usual = f"{key}.root" if f"{key}.root" in names else names[0]
        expected = f"expected a section of keys, such as {usual}={shortened(str(fault['input']))}"
    elif fault["type"] == "path_type":
        expected = "expected a path, such as data/coco"
    elif fault["type"] == "tuple_type":
        example = [fault["input"]] * (1 if isinstance(fault["input"], str) else 2)
        expected = f"expected a list, such as [{shortened(', '.join(map(str, example)))}]"
    elif fault["type"] == "missing" and steps[-1].isdecimal():  # a value of a list
        key, expected = key.rpartition(".")[0], "expected one value more in the list"
    return f"{place}: '{shortened(key)}' is {shown(fault['input'])}: {expected}"


def _parse_override(override: str) -> dict[str, Any]:
    """The change of `section.key=value` as a nested mapping."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"{_COMMAND_LINE}: expected section.key=value, got '{shortened(override)}'")
    try:
        # A path or a text is read as it is, even 2017 or "my data #1"; in quotes, as YAML.
        plain = key in _text_keys() and text.lower() not in ("", "null", "~") and text[0] not in "'\""
        value = text if plain else parse_yaml(text)
    except ValueError:
        raise ConfigError(f"{_COMMAND_LINE}: the value of '{shortened(override)}' is not valid YAML") from None
    change = value
    for step in reversed(key.split(".")):
        change = {step: change}
    assert isinstance(change, dict)
    return change


@functools.cache
def _text_keys() -> frozenset[str]:
    """Dotted keys of all tasks whose value, if not null, is a path or any text."""
    keys = ((key, types - {type(None)}) for config in TASKS.values() for key, types in keys_of(config).items())
    return frozenset(key for key, types in keys if types and types <= {str, Path})


def _dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _merge(parent: Any, child: Any) -> Any:
    if not isinstance(parent, Mapping) or not isinstance(child, Mapping):
        return child
    return {**parent, **{key: _merge(parent.get(key), value) for key, value in child.items()}}


def _of_today(tree: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """A mapping that says an older version, migrated; another as it is."""
    if "version" not in tree:
        return tree
    try:
        return migrate(tree)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _read_file(path: Path, seen: tuple[Path, ...]) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """A YAML file merged into its bases, and the file that gave each dotted key; `seen` are the files that led here."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: 'base' leads back to this file; a recipe cannot be its own parent")
    try:
        tree = parse_yaml(read_text(path))
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file: {error}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections such as 'model:', got a {kind_of(tree)}")
    base = tree.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: 'base' is {shown(base)}; expected the name of one YAML file")
    own = _of_today(tree, str(path))
    if base is None:
        return own, dict.fromkeys(_dotted_keys(own), str(path))
    parent, origins = _read_file(_find_base(base, path), (*seen, path.resolve()))
    return _merge(parent, own), {**origins, **dict.fromkeys(_dotted_keys(own), str(path))}


def _find_base(base: str, path: Path) -> Path:
    """The parent of a recipe file."""
    try:
        return find_recipe(base, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from None
