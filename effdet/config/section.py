"""What the sections of a recipe are made of: their common class, and the number types of several of their keys.

A key whose value is a path, or a list in YAML, is declared with `strict=False`, which turns a text into a path and a
list into a tuple; the numbers inside stay strict.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Pixels = Annotated[int, Field(ge=32, le=16384)]  # a side of the input
Factor = Annotated[float, Field(ge=0.01, le=100)]  # of a size
Count = Annotated[int, Field(ge=1, le=10**9)]


def _square(size: Any) -> Any:
    """One number as both sides; anything else as it is."""
    return (size, size) if type(size) is int else size


_SIDE = {"type": "integer", "minimum": 32, "maximum": 16384}
ImageSize = Annotated[
    tuple[Pixels, Pixels],
    BeforeValidator(_square),
    WithJsonSchema({"anyOf": [_SIDE, {"type": "array", "items": _SIDE, "minItems": 2, "maxItems": 2}]}),
]


class Section(BaseModel):
    """A section of the recipe: frozen, exact types, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True, allow_inf_nan=False)


def keys_of(section: type[BaseModel], prefix: str = "") -> dict[str, set[Any]]:
    """Every dotted key of a section and of the sections in it, with the types that its value may have."""
    keys = {}
    for name, field in section.model_fields.items():
        keys[f"{prefix}{name}"] = types = _members(field.annotation)
        for kind in types:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                keys |= keys_of(kind, f"{prefix}{name}.")
    return keys


def _members(annotation: Any) -> set[Any]:
    """The members of a union without their constraints; of another type it alone."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*map(_members, get_args(annotation)))
    return {annotation}
