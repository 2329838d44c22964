"""The detector of which a recipe's anchors are, and a suggestion written as a recipe.

What the anchors reach is in `coverage.py`, and what to change in `suggestion.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from effdet.config import ClassificationConfig, DetectionConfig, load_config
from effdet.config.recipe_files import recipes_folder
from effdet.errors import ConfigError
from effdet.models import EfficientDetSpec, ModelSpec, make_spec
from effdet.weights.create import options_of
from effdet.weights.pretrained import TASK_OF_DATA, is_file_name, make_adapted_spec, read_pretrained, spec_of_entry
from effdet.weights.zoo import default_entry, find_entry


def detector_of(config: DetectionConfig | ClassificationConfig) -> EfficientDetSpec:
    """The detector that a training by a recipe starts from; no weights are downloaded.

    Raises:
        ConfigError: the recipe is for classification, or its model cannot be built.
        WeightsError: the weights that it starts from cannot be read.
    """
    if not isinstance(config, DetectionConfig):
        raise ConfigError(
            "the recipe is for classification, but only detectors have anchors; name a recipe of a detector, such as "
            "finetune"
        )
    options = options_of(config.model)
    spec = make_spec(options)
    if config.model.weights is not None:
        spec = make_adapted_spec(options, _trained(config.model.weights, spec))
    assert isinstance(spec, EfficientDetSpec)
    return spec


def starts_from_detector(config: DetectionConfig) -> bool:
    """Whether the initial weights are those of a detector, whose heads were trained with its anchors."""
    if config.model.weights is None:
        return False
    trained = _trained(config.model.weights, make_spec(options_of(config.model)))
    return trained is not None and trained.task == "detection"


def _trained(weights: str, spec: ModelSpec) -> ModelSpec | None:
    """The model that weights belong to; None if that is unknown."""
    if is_file_name(weights):
        return read_pretrained(weights, spec).spec
    if weights == "coco":
        entry = default_entry(spec.name, TASK_OF_DATA[weights])
        return None if entry is None else spec_of_entry(entry)
    if weights in TASK_OF_DATA:  # of classifiers, which have no anchors
        return None
    return spec_of_entry(find_entry(weights))


def suggested_recipe(base: Path, config: DetectionConfig, model: Mapping[str, Any], folder: Path, comment: str) -> str:
    """A recipe as YAML: a base, what the command line changed of it, and the suggested keys of the model.

    Args:
        base: the file of the recipe that was given.
        config: the recipe with the changes of the command line.
        model: the suggested keys of the section `model`.
        folder: where the file will be, which the base is relative to.
        comment: the first line.
    """
    own = recipes_folder().resolve()
    if base.resolve().is_relative_to(own):
        name = base.resolve().relative_to(own).with_suffix("").as_posix()
    else:
        name = Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    changes = _difference(config.to_dict(), load_config(base).to_dict())
    if model:
        changes["model"] = {**changes.get("model", {}), **model}
    lines = [f"# {comment}", yaml.safe_dump({"base": name}, allow_unicode=True).rstrip()]
    if changes:
        lines.append(yaml.safe_dump(changes, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120))
    return "\n".join(lines).rstrip() + "\n"


def _difference(new: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, Any]:
    """What differs in a nested mapping, with the new values."""
    changes: dict[str, Any] = {}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, Mapping) and isinstance(before, Mapping):
            inner = _difference(value, before)
            if inner:
                changes[key] = inner
        elif key not in old or value != before:
            changes[key] = value
    return changes
