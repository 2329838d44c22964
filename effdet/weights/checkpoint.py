"""Our own weight files: how they are written, so that a crash never leaves half a file, and read without running code.

A file holds tensors and plain containers: `model`, the weights to use; `card`, all that is needed to use them; and in
last.pt `training`, what a resumed run needs. Foreign files are read in `sources.py`.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from effdet.config import migrate
from effdet.errors import ConfigError, WeightsError
from effdet.files import atomic_write
from effdet.models.efficientdet import EfficientDet, EfficientDetSpec
from effdet.models.efficientnet import EfficientNet, EfficientNetSpec
from effdet.types import Task

FORMAT = 3  # raised when the layout of the file changes
OLDEST_FORMAT = 2  # that can be read; its model card has the keys of recipes of version 1

# What torch.load raises for files of other kinds and for damaged ones.
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True)
class ModelCard:
    """All that is needed to use the weights of a network.

    Attributes:
        spec: what the network is, its input included.
        class_names: name of each label, K names.
        category_ids: the training set's id of each label, used in written results.
        postprocess: keyword arguments of `postprocess` with which a detector was evaluated.
        metrics: numbers of these weights, empty if never evaluated.
        config: the recipe as plain containers, for the record and for evaluating again.
        versions: of this package and of torch.
    """

    spec: EfficientDetSpec | EfficientNetSpec
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    postprocess: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """What the network was trained for."""
        return self.spec.task

    def to_dict(self) -> dict[str, Any]:
        """The card as plain containers."""
        fields = {key: value for key, value in vars(self).items() if key != "spec"}
        return {"task": self.task, "spec": _adapter(self.task).dump_python(self.spec, mode="json"), **fields}


def read_card(plain: Mapping[str, Any]) -> ModelCard:
    """The card that `ModelCard.to_dict` gave, its recipe migrated to today's version.

    Raises:
        ValueError, TypeError, KeyError: it is not such a card.
        ConfigError: its recipe is of a newer version of this package.
    """
    fields = {key: value for key, value in plain.items() if key not in ("task", "spec")}
    fields["config"] = migrate(fields.get("config", {}))
    card = ModelCard(spec=_adapter(plain["task"]).validate_python(plain["spec"]), **fields)
    return TypeAdapter(ModelCard).validate_python(vars(card))


def _adapter(task: Task) -> TypeAdapter[Any]:
    """Turns specs into plain containers and back, and checks them."""
    if task == "detection":
        return TypeAdapter(EfficientDetSpec)
    if task == "classification":
        return TypeAdapter(EfficientNetSpec)
    raise ValueError(f"unknown task {task!r}")


@dataclass(frozen=True)
class Checkpoint:
    """A read file: the model with its weights, in evaluation mode, and its card; `training` is empty in best.pt."""

    model: EfficientDet | EfficientNet
    card: ModelCard
    training: dict[str, Any]


def save_checkpoint(
    path: Path, state: Mapping[str, Tensor], card: ModelCard, training: Mapping[str, Any] | None = None
) -> None:
    """Writes a checkpoint in one step: whoever reads `path` finds the old file or the whole new one."""
    content = {"format": FORMAT, "model": dict(state), "card": card.to_dict(), "training": dict(training or {})}
    try:
        with atomic_write(path) as partial:
            torch.save(content, partial)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to torch
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: cannot be written ({reason}); make room or choose another folder") from None


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Model and card of one of our files.

    Raises:
        WeightsError: the file is missing, damaged, or not a checkpoint of ours.
    """
    content = read_tensors(path)
    if not is_checkpoint(content):
        raise WeightsError(
            f"{path}: holds weights but no model card; expected a checkpoint of this package such as runs/NAME/best.pt"
        )
    card = card_in(content, path)
    model = card.spec.build(len(card.class_names))
    try:
        model.load_state_dict(content["model"])
    except (RuntimeError, TypeError) as error:
        raise WeightsError(f"{path}: the weights do not fit their own card: {str(error).splitlines()[-1]}") from None
    return Checkpoint(model.eval(), card, content["training"])


def card_in(content: Mapping[str, Any], path: str | Path) -> ModelCard:
    """The card in the content of a checkpoint.

    Raises:
        WeightsError: the file is of another version, or the card is damaged.
    """
    written = content["format"]
    if not isinstance(written, int) or written > FORMAT:
        raise WeightsError(f"{path}: written by a newer version of this package; update to read it")
    if written < OLDEST_FORMAT:
        raise WeightsError(
            f"{path}: written by an older version of this package that this one cannot read; train again"
        )
    try:
        return read_card(content["card"] if written == FORMAT else _of_today(content["card"]))
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"])
        raise WeightsError(f"{path}: the model card is damaged: '{place}': {fault['msg']}") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise WeightsError(f"{path}: the model card is damaged: {str(error).splitlines()[0]}") from None


def _of_today(card: Mapping[str, Any]) -> dict[str, Any]:
    """The plain card of a file of format 2 with the options of `postprocess` under their names of today."""
    options = migrate({"version": 1, "postprocess": card["postprocess"]})["postprocess"]
    return {**card, "postprocess": options}


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether a read file has the parts of a checkpoint of ours."""
    return {"format", "model", "card", "training"} <= content.keys() and isinstance(content["model"], dict)


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Content of a file of tensors and plain containers; code in it is never run.

    Raises:
        WeightsError: the file is missing, damaged, or something else.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise WeightsError(f"{path} is a folder; give the file of weights in it, such as {path / 'best.pt'}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        with warnings.catch_warnings():  # of strange pickles, which are refused below in our own words
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise WeightsError(f"{path}: may not be read; check its permissions") from None
    except (OSError, *_DAMAGED):  # torch takes a cut file for an invalid argument
        raise WeightsError(
            f"{path}: not a weights file, or damaged; expected a file of tensors written by torch.save"
        ) from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}; expected a state dict or a checkpoint")
    return content
