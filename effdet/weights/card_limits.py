"""Limits of a model card: what a file may claim of a model before anything is built from it.

They are far beyond every model of this package, and small enough that no card can fill the memory or reach the network.
The types of the fields are checked in `card.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter
from torch import Tensor

from effdet.models import EfficientDetSpec, EfficientNetSpec
from effdet.plain_data import check_keys, kind_of, shown
from effdet.types import PostprocessOptions

if TYPE_CHECKING:
    from effdet.weights.card import ModelCard

LONGEST_SIDE = 16384  # pixels of an input
MOST_CLASSES = 1_000_000
_PLAIN_NAME = re.compile(r"[\w.+/-]{1,200}")  # so that no address of a model hub is one
_ID_BITS = 63


@dataclass(frozen=True)
class _Range:
    low: float
    high: float


_POSITIVE_FACTOR, _RATE = _Range(1e-3, 1e3), _Range(0, 1)
_DETECTOR: dict[str, _Range] = {
    "channels": _Range(1, 2048),
    "num_cells": _Range(1, 32),
    "num_repeats": _Range(0, 32),
    "max_level": _Range(5, 12),
    "anchor_scale": _POSITIVE_FACTOR,
    "norm_momentum": _RATE,
}
_POSTPROCESS: dict[str, _Range] = {
    "score_threshold": _RATE,
    "iou_threshold": _RATE,
    "soft_sigma": _POSITIVE_FACTOR,
    "max_candidates": _Range(1, 1_000_000),
    "max_detections": _Range(1, 100_000),
}
_BACKBONE: dict[str, _Range] = {
    "width": _Range(1e-3, 32),
    "depth": _Range(1e-3, 32),
    "stem": _Range(1, 4096),
    "head": _Range(1, 65536),
    "dropout": _RATE,
    "drop_path": _RATE,
    "squeeze_excite": _RATE,
    "round_limit": _RATE,
    "norm_eps": _Range(1e-12, 1),
    "norm_momentum": _RATE,
    "in_channels": _Range(1, 1024),
    "crop": _Range(0.01, 1),
}
_STAGE: dict[str, _Range] = {
    "kernel": _Range(1, 31),
    "stride": _Range(1, 8),
    "expand": _Range(1, 64),
    "channels": _Range(1, 8192),
    "repeats": _Range(1, 128),
}


def check_card(card: ModelCard) -> None:
    """Does nothing if a card is within the limits.

    Raises:
        ValueError: it is not; the message names the field.
    """
    spec: Any = card.spec
    if isinstance(spec, EfficientDetSpec):
        _check_numbers("postprocess", PostprocessOptions(**card.postprocess), _POSTPROCESS)
        _check_numbers("spec", spec, _DETECTOR)
        _check("spec.anchor_aspects", (side for pair in spec.anchor_aspects for side in pair), _POSITIVE_FACTOR)
        _check_length("spec.anchor_aspects", spec.anchor_aspects, 1, 100)
    _check("spec.image_size", spec.image_size, _Range(1, LONGEST_SIDE))
    _check_backbone(spec.backbone)
    _check_classes(card)
    _check_config(card.config)
    _check("score_threshold", _given(getattr(card, "score_threshold", None)), _RATE)
    if card.class_thresholds:
        _check_length("class_thresholds", card.class_thresholds, len(card.class_names), len(card.class_names))
    _check("class_thresholds", card.class_thresholds, _RATE)
    _check("temperature", _given(getattr(card, "temperature", None)), _POSITIVE_FACTOR)
    if card.value_range is not None:
        _check("value_range", card.value_range, _Range(-1e300, 1e300))
        if not card.value_range[0] < card.value_range[1]:
            raise ValueError(f"value_range is {card.value_range}; expected the lower value first")


def checked_options(plain: Any) -> dict[str, Any]:
    """Options of `postprocess` by name, with values of their types.

    Raises:
        ValueError, ValidationError: a name is unknown, or a value of another type.
    """
    check_keys(plain, PostprocessOptions)
    options = TypeAdapter(PostprocessOptions).validate_python(dict(plain))
    return {name: getattr(options, name) for name in plain}


def check_weights(card: ModelCard, state: Mapping[str, Any]) -> None:
    """Does nothing if weights may be those of a card's model, so that no memory is taken for a much larger one.

    Raises:
        ValueError: they have fewer tensors or values than such a model.
    """
    tensors = [value for value in state.values() if isinstance(value, Tensor)]
    values, (blocks, least) = sum(map(Tensor.numel, tensors)), _least(card)
    if blocks > len(tensors) or least > values:
        raise ValueError(f"{len(tensors)} tensors with {values:,} values, the card says {least:,} values or more")


def _least(card: ModelCard) -> tuple[int, int]:
    """The number of blocks of a card's model, and a lower bound of the number of its weights."""
    spec: Any = card.spec
    blocks = least = 0
    backbone = spec.backbone
    if isinstance(backbone, EfficientNetSpec):
        before = 1
        for stage in backbone.scaled_stages():
            wider = stage.expand if stage.block in ("inverted", "fused") else 1
            least += wider * stage.channels * (before + (stage.repeats - 1) * stage.channels)
            blocks, before = blocks + stage.repeats, stage.channels
        if backbone is spec:  # a classifier
            least += spec.head_channels * (before + len(card.class_names))
    if isinstance(spec, EfficientDetSpec):
        nodes = spec.num_cells * 2 * (spec.max_level - 3)
        least += (nodes + 2 * spec.num_repeats) * spec.channels**2
        least += spec.channels * len(card.class_names) * len(spec.anchor_aspects)
        blocks += nodes
    return blocks, least


def _check_config(config: Mapping[str, Any]) -> None:
    """Checks that the sections which are looked at without building the recipe are sections."""
    sections = {name: config.get(name, {}) for name in ("model", "data", "optim", "train")}
    if isinstance(sections["data"], Mapping) and sections["data"].get("val") is not None:
        sections["data.val"] = sections["data"]["val"]
    for name, section in sections.items():
        if not isinstance(section, Mapping):
            raise ValueError(f"config.{name} is a {kind_of(section)}; expected a section of keys")


def _check_backbone(backbone: Any) -> None:
    if not _PLAIN_NAME.fullmatch(backbone.name):
        raise ValueError(f"spec.backbone.name is {backbone.name[:80]!r}; expected the name of a network")
    _check_numbers("spec.backbone", backbone, _BACKBONE)
    if isinstance(backbone, EfficientNetSpec):
        _check("spec.backbone.image_size", backbone.image_size, _Range(1, LONGEST_SIDE))
        _check_length("spec.backbone.stages", backbone.stages, 1, 64)
        for stage in backbone.stages:
            _check_numbers("spec.backbone.stages", stage, _STAGE)
    for name in ("mean", "std"):
        values = getattr(backbone, name)
        _check_length(f"spec.backbone.{name}", values, backbone.in_channels, backbone.in_channels)
        _check(f"spec.backbone.{name}", values, _Range(-1e9 if name == "mean" else 1e-9, 1e9))


def _check_classes(card: ModelCard) -> None:
    _check_length("class_names", card.class_names, 1, MOST_CLASSES)
    _check_length("category_ids", card.category_ids, len(card.class_names), len(card.class_names))
    if len(set(card.category_ids)) < len(card.category_ids):
        raise ValueError("category_ids names a category twice")
    _check("category_ids", card.category_ids, _Range(-(2**_ID_BITS), 2**_ID_BITS - 1))
    for name in card.class_names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f"class_names has {name!r}, which holds half of a character") from None


def _check_numbers(place: str, owner: Any, ranges: dict[str, _Range]) -> None:
    for name, limits in ranges.items():
        _check(f"{place}.{name}", _given(getattr(owner, name, None)), limits)


def _given(value: float | None) -> tuple[float, ...]:
    return () if value is None else (value,)


def _check(name: str, values: Iterable[float], limits: _Range) -> None:
    for value in values:
        if not limits.low <= value <= limits.high:  # NaN is not
            raise ValueError(f"{name} is {shown(value)}; expected {limits.low:g} to {limits.high:g}")


def _check_length(name: str, values: Sequence[Any], fewest: int, most: int) -> None:
    if not fewest <= len(values) <= most:
        expected = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        raise ValueError(f"{name} has {len(values)} values; expected {expected}")
