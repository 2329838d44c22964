"""Recipes of older versions of this package, as stored in checkpoints and config.yaml, turned into today's.

A stored recipe says its version; one function per version turns it into the next. A recipe that a user writes has no
version: it is of today, and an old key in it gets a suggestion (`suggestions.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from effdet.errors import ConfigError
from effdet.plain_data import kind_of, shown

Recipe = dict[str, Any]

# Keys of version 1 under their names of version 2; those of classification mean something else in detection.
RENAMED_IN_2 = {
    "model.keep_rows": "model.keep_known_classes",
    "data.background_share": "data.background_fraction",
    "augment.rand_layers": "augment.rand_augment.layers",
    "augment.rand_magnitude": "augment.rand_augment.magnitude",
    "optim.reference_batch": "optim.base_batch_size",
    "optim.rates": "optim.lr_multipliers",
    "optim.warmup_start": "optim.warmup_start_factor",
    "optim.clip_norm": "optim.grad_clip_norm",
    "train.accumulate": "train.accumulation_steps",
    "train.checkpoint_activations": "train.activation_checkpointing",
    "train.norms": "train.batch_norm",
    "train.save_minutes": "train.save_every_minutes",
    "log.to": "log.trackers",
    "postprocess.suppression": "postprocess.nms",
    "progressive.rand_magnitude": "progressive.rand_augment_magnitude",
    "progressive.mixup": "progressive.mixup_alpha",
    "progressive.cutmix": "progressive.cutmix_alpha",
}
RENAMED_IN_2_FOR_CLASSIFICATION = {
    "augment.mixup": "augment.mixup_alpha",
    "augment.cutmix": "augment.cutmix_alpha",
}


def _from_1(recipe: Recipe) -> Recipe:
    if recipe.get("task") == "classification":
        return _rename(recipe, {**RENAMED_IN_2, **RENAMED_IN_2_FOR_CLASSIFICATION})
    renamed = _rename(recipe, RENAMED_IN_2)
    model = renamed.get("model", {})
    if recipe.get("task") == "detection" and isinstance(model, dict):  # detectors were evaluated without antialiasing
        renamed["model"] = {"antialias": False, **model}
    return renamed


_STEPS: tuple[Callable[[Recipe], Recipe], ...] = (_from_1,)  # from version 1, from version 2, ...

VERSION = len(_STEPS) + 1  # of the recipes that `schema.py` describes


def migrate(stored: Mapping[str, Any]) -> Recipe:
    """A stored recipe with the keys of today.

    Args:
        stored: what `Config.to_dict` of this or an older version gave; without a version it is of version 1. An empty
            mapping, of weights that no recipe was trained by, stays empty.

    Raises:
        ConfigError: it is no recipe, or one of a newer version, or its version is no number.
    """
    if not isinstance(stored, Mapping):
        raise ConfigError(
            f"the recipe is of the type {kind_of(stored)}; expected a mapping of sections such as 'model'"
        )
    if not stored:
        return {}
    version = stored.get("version", 1)
    if not isinstance(version, int) or version < 1:
        raise ConfigError(f"the recipe's version is {shown(version)}; expected a number from 1 to {VERSION}")
    if version > VERSION:
        raise ConfigError(
            f"the recipe is of version {shown(version)}, written by a newer version of this package; this one reads "
            f"versions up to {VERSION}, update to use it"
        )
    recipe = dict(stored)
    for step in _STEPS[version - 1 :]:
        recipe = step(recipe)
    return {**recipe, "version": VERSION}


def _rename(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """A recipe with keys moved; `names` maps dotted keys, and those that are absent stay absent."""
    renamed = _copy(recipe)
    for old, new in names.items():
        *sections, key = old.split(".")
        section: Any = renamed
        for name in sections:
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict) and key in section:
            _set(renamed, new, section.pop(key))
    return renamed


def _set(recipe: Recipe, dotted: str, value: Any) -> None:
    """Sets a key in its section, which is made where it is missing; where that is no section, the schema says so."""
    *sections, key = dotted.split(".")
    section: Any = recipe
    for name in sections:
        section = section.setdefault(name, {})
        if not isinstance(section, dict):
            return
    section[key] = value


def _copy(tree: Recipe) -> Recipe:
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in tree.items()}
