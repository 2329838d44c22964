"""The JSON schema of recipe files, by which editors complete and check them: every key with type, default, meaning.

The keys themselves are in `schema.py`. What a recipe checks beyond single keys is there too, and not in the schema.
"""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from effdet.config.migration import VERSION
from effdet.config.schema import TASKS

_BASE = {
    "anyOf": [{"type": "string"}, {"type": "null"}],
    "default": None,
    "description": "The recipe whose keys this one inherits: a path relative to this file, or a name such as lite0.",
}


def recipe_schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a recipe file of any task, as plain containers."""
    models, common = models_json_schema(
        [(config, "validation") for config in TASKS.values()], ref_template="#/$defs/{model}"
    )
    definitions = common["$defs"]
    for config in TASKS.values():
        definitions[config.__name__]["properties"] = {"base": _BASE, **definitions[config.__name__]["properties"]}
    for definition in definitions.values():
        for field in definition.get("properties", {}).values():
            _without_own_title(field)
    references = {task: models[config, "validation"] for task, config in TASKS.items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:efficientdet-torch:recipe:{VERSION}",
        "title": "Recipe of effdet",
        "description": "A recipe for training a detector or a classifier, as `effdet train RECIPE` reads it.",
        "type": "object",
        "properties": {"task": {"enum": list(TASKS)}},
        "if": _has_task("classification"),
        "then": references["classification"],
        "else": {
            # Without a task a recipe has that of its base; without a base, it is of a detector.
            "if": {"required": ["base"], "not": {"required": ["task"]}},
            "then": {"anyOf": [references["detection"], references["classification"]]},
            "else": references["detection"],
        },
        "$defs": definitions,
    }


def _has_task(task: str) -> dict[str, Any]:
    return {"required": ["task"], "properties": {"task": {"const": task}}}


def _without_own_title(field: dict[str, Any]) -> None:
    """Removes what only repeats: the title made of the key, and the default of a section, whose keys have theirs."""
    field.pop("title", None)
    if "$ref" in field or "allOf" in field:
        field.pop("default", None)
