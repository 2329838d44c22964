"""The model card: everything besides the weights that is needed to use a model.

Files that hold cards are read and written in `checkpoint.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from effdet.config import migrate
from effdet.errors import ConfigError
from effdet.models import EfficientDetSpec, EfficientNetSpec, ModelSpec
from effdet.plain_data import check_keys, check_mapping, shown
from effdet.types import Task
from effdet.weights.card_limits import check_card, checked_options

SPECS: dict[Task, type[ModelSpec]] = {"detection": EfficientDetSpec, "classification": EfficientNetSpec}


@dataclass(frozen=True)
class ModelCard:
    """Everything besides the weights that is needed to use a model.

    Attributes:
        spec: what the model is, its input included.
        class_names: name of each label, K names.
        category_ids: the data set's id of each label, used in written results.
        postprocess: keyword arguments of `postprocess` with which a detector was evaluated.
        value_range: values of images with more than 8 bits that become black and white, see `data.value_range`.
        metrics: metrics of these weights; empty if they were never evaluated.
        score_threshold: confidence threshold of the best F1 in that evaluation of a detector; None if there is none.
        class_thresholds: the same of each class, K of them; empty if there are none.
        temperature: by which to divide the logits of a detector's scores to calibrate them; None if there is none.
        config: the recipe as plain containers, for the record and for evaluating again.
        versions: of this package and of torch.
    """

    spec: ModelSpec
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    postprocess: dict[str, Any] = field(default_factory=dict)
    value_range: tuple[float, float] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    score_threshold: float | None = None
    class_thresholds: tuple[float, ...] = ()
    temperature: float | None = None
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task of the model."""
        return self.spec.task

    def to_dict(self) -> dict[str, Any]:
        """The card as plain containers, for `read_card`."""
        fields = {key: value for key, value in vars(self).items() if key != "spec"}
        return {"task": self.task, "spec": TypeAdapter(SPECS[self.task]).dump_python(self.spec, mode="json"), **fields}


def recipe_of(card: ModelCard, source: object, given: Collection[str] = ()) -> dict[str, Any]:
    """The recipe stored with a model, which may name no address to connect to.

    Args:
        card: of the model.
        source: the file that the card is in, for messages.
        given: dotted keys of the recipe that the user gives; one that says where the data is replaces the address.

    Raises:
        ConfigError: its data set is at an address that the user has not given.
    """
    data = card.config.get("data")
    if not isinstance(data, Mapping) or data.get("url") is None or "data.url" in given:
        return card.config
    if not {"data.root", "data.val.annotations", "data.val.images"} & set(given):
        raise ConfigError(
            f"{source}: its recipe reads the data set from {str(data['url'])[:200]}, and no address that a weights "
            f"file names is connected to unasked; add data.url={str(data['url'])[:200]} if you trust it, or "
            f"data.format=auto data.root=FOLDER"
        )
    return {**card.config, "data": {**data, "url": None}}


def read_card(plain: Mapping[str, Any]) -> ModelCard:
    """The card from the result of `ModelCard.to_dict`, with its recipe migrated to the current version.

    Raises:
        ValueError, TypeError, KeyError: it is not the result of `ModelCard.to_dict`, or beyond the limits of
            `check_card`.
        ConfigError: its recipe was written by a newer version of this package.
    """
    check_mapping(plain)
    if not isinstance(plain["task"], str) or plain["task"] not in SPECS:
        raise ValueError(f"unknown task {shown(plain['task'])}")
    fields = {key: value for key, value in plain.items() if key != "task"}
    check_keys(fields, ModelCard)
    fields["config"] = migrate(fields.get("config", {}))
    if plain["task"] == "detection":
        fields["postprocess"] = checked_options(fields.get("postprocess", {}))
    spec = TypeAdapter(SPECS[plain["task"]]).validate_python(plain["spec"])
    card = TypeAdapter(ModelCard).validate_python(vars(ModelCard(**{**fields, "spec": spec})))
    check_card(card)
    return card
