"""Reads a recipe file and its overrides into a `Config`: YAML, parents, suggestions for unknown keys.

The tree itself, with every default, is in `schema.py`.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from effdet.config.schema import TASKS, ClassificationConfig, Config, DetectionConfig, ProgressiveConfig
from effdet.errors import ConfigError
from effdet.presets import PRESETS


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> DetectionConfig | ClassificationConfig:
    """Config of a YAML file and of `section.key=value` overrides.

    `base: other.yaml` names a parent, relative to the file: mappings merge, everything else replaces. `preset: scratch`
    or `preset: finetune` puts values of `presets.py` over the parent and under the file's own; as an override, over the
    file and under the other overrides.

    Raises:
        ConfigError: the file is missing or no YAML mapping, or a key is unknown, given twice or of the wrong type.
    """
    tree = _read_tree(Path(path), ())
    return make_config(tree, overrides, source=str(path))


def make_config(
    tree: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str = "config"
) -> DetectionConfig | ClassificationConfig:
    """Config of a plain mapping and of `section.key=value` overrides.

    Args:
        tree: the mapping, as `Config.to_dict` gives it or as a YAML file holds it.
        overrides: changes to it.
        source: what the mapping is called in messages.

    Raises:
        ConfigError: a key is unknown or of the wrong type; the message lists all such keys, one a line.
    """
    changes = [_parse_override(override) for override in overrides]
    given = {key for change in changes for key in _dotted_keys(change)}
    first: dict[str, Any] = {key: change[key] for change in changes for key in ("task", "preset") if key in change}
    tree = _with_preset(_with_preset({}, tree, source), first, "command line")
    for change in changes:
        if "preset" not in change:
            tree = _merge(tree, change)
    task = tree.get("task", "detection")
    if not isinstance(task, str) or task not in TASKS:
        raise ConfigError(f"{source}: 'task' is {task!r}; expected {' or '.join(TASKS)}")
    try:
        return TASKS[task].model_validate(tree)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            parts = [str(part) for part in item["loc"]]
            key = ".".join(part for part in parts if not part.startswith(("function-", "tuple[", "constrained-")))
            place = "command line" if given & {key, ".".join(key.split(".")[:2])} else source
            if item["type"] == "extra_forbidden":
                lines.append(f"{place}: unknown key '{key}'{_suggestion(key, TASKS[task])}")
            elif item["type"] == "value_error":  # said by a validator of ours, in whole
                lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}")
            else:
                lines.append(f"{place}: '{key}' is {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}")
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _parse_override(override: str) -> dict[str, Any]:
    """The change of `section.key=value` as a nested mapping."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"command line: expected section.key=value, got '{override}'")
    try:
        # A path or a name is taken as it stands, were it 2017 or "my data #1"; in quotes, as YAML has it.
        plain = key in _text_keys() and text.lower() not in ("", "null", "~") and text[0] not in "'\""
        change = text if plain else yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"command line: the value of '{override}' is not valid YAML") from None
    for part in reversed(key.split(".")):
        change = {part: change}
    assert isinstance(change, dict)
    return change


@functools.cache
def _text_keys() -> frozenset[str]:
    """Dotted keys of both tasks whose value is a path or any text, if it is not null."""
    return frozenset(key for config in TASKS.values() for key in _text_fields(config))


def _text_fields(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        kinds = _kinds(field.annotation) - {type(None)}
        if kinds and kinds <= {str, Path}:
            yield f"{prefix}{name}"
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from _text_fields(kind, f"{prefix}{name}.")


def _kinds(annotation: Any) -> set[Any]:
    """What a type may be: the members of a union, without what is annotated to them."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {annotation}


def _suggestion(key: str, config: type[Config]) -> str:
    for task, other in TASKS.items():
        if other is not config and key in _known_keys(other):
            return f"; it belongs to task: {task}"
    known = [*_known_keys(config), "preset"]
    near = [candidate for candidate in known if candidate.split(".")[-1] == key.split(".")[-1]]  # in another section
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(repr(candidate) for candidate in near)}?"
    return f"; sections are {', '.join(config.model_fields)}" if "." not in key else ""


def _known_keys(config: type[Config]) -> list[str]:
    optional = (
        {"progressive": dict.fromkeys(ProgressiveConfig.model_fields)} if "progressive" in config.model_fields else {}
    )
    return list(_dotted_keys({**config().model_dump(), **optional}))  # type: ignore[call-arg]


def _dotted_keys(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _dotted_keys(value, f"{prefix}{key}.")


def _merge(parent: Any, child: Any) -> Any:
    if not isinstance(parent, Mapping) or not isinstance(child, Mapping):
        return child
    return {**parent, **{key: _merge(parent.get(key), value) for key, value in child.items()}}


def _with_preset(parent: Mapping[str, Any], own: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """`own` over the preset that it names over `parent`."""
    name, task = own.get("preset"), own.get("task", parent.get("task", "detection"))
    if name is not None and isinstance(task, str) and task in PRESETS:  # an unknown task is refused later
        presets = PRESETS[task]
        if not isinstance(name, str) or name not in presets:
            near = difflib.get_close_matches(str(name), presets, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"expected {' or '.join(presets)}"
            raise ConfigError(f"{source}: there is no preset {name!r}; {hint}")
        parent = _merge(parent, presets[name])
    merged: Mapping[str, Any] = _merge(parent, {key: value for key, value in own.items() if key != "preset"})
    return merged


def _read_tree(path: Path, seen: tuple[Path, ...]) -> Mapping[str, Any]:
    """The mapping of one YAML file with its parents merged in; `seen` are the files that led here."""
    if path.resolve() in seen:
        raise ConfigError(f"{path}: 'base' leads back to this file; a recipe cannot be its own parent")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ConfigError(f"{path}: no such recipe; expected a YAML file such as configs/d0.yaml") from None
    except (UnicodeDecodeError, PermissionError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a mapping of sections such as 'model:', got a {type(tree).__name__}")
    base = tree.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: 'base' is {base!r}; expected the name of one YAML file")
    parent = {} if base is None else _read_tree(path.parent / base, (*seen, path.resolve()))
    return _with_preset(parent, tree, str(path))


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses duplicate keys and reads 1e-3 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _add_exponent_floats() -> None:
    import re

    pattern = re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$")
    _Loader.add_implicit_resolver("tag:yaml.org,2002:float", pattern, list("-+0123456789"))


_add_exponent_floats()
