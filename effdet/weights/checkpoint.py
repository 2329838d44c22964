"""Our own weight files: how they are written, so that a crash never leaves half a file, and read without running code.

A file holds tensors and plain containers: `model`, the weights to use; `card`, all that is needed to use them; and in
last.pt `training`, what a resumed run needs. Foreign files are read in `sources.py`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.files import replacing
from effdet.models.efficientdet import EfficientDet, build_efficientdet
from effdet.models.layers import Padding

FORMAT = 1  # raised when the layout of the file changes

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
    """All that is needed to use the weights of a detector.

    Attributes:
        name: the network, a name of `list_models()`.
        class_names: name of each label, K names.
        category_ids: the training set's id of each label, used in written results.
        image_size: (H, W) of the network input.
        padding, anchor_scale, anchor_aspects, mean, std: as the model was built, see `build_efficientdet`.
        postprocess: keyword arguments of `postprocess` with which the model was evaluated.
        metrics: COCO numbers of these weights, empty if never evaluated.
        config: the recipe as plain containers, for the record and for evaluating again.
        versions: of this package and of torch.
    """

    name: str
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: tuple[int, int]
    padding: Padding
    anchor_scale: float
    anchor_aspects: tuple[tuple[float, float], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    postprocess: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def build(self) -> EfficientDet:
        """The model of this card, freshly initialised."""
        return build_efficientdet(
            self.name,
            len(self.class_names),
            image_size=self.image_size,
            padding=self.padding,
            anchor_scale=self.anchor_scale,
            anchor_aspects=self.anchor_aspects,
            mean=self.mean,
            std=self.std,
        )


@dataclass(frozen=True)
class Checkpoint:
    """A read file: the model with its weights, in evaluation mode, and its card; `training` is empty in best.pt."""

    model: EfficientDet
    card: ModelCard
    training: dict[str, Any]


def save_checkpoint(
    path: Path, state: Mapping[str, Tensor], card: ModelCard, training: Mapping[str, Any] | None = None
) -> None:
    """Writes a checkpoint in one step: whoever reads `path` finds the old file or the whole new one."""
    content = {"format": FORMAT, "model": dict(state), "card": asdict(card), "training": dict(training or {})}
    try:
        with replacing(path) as partial:
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
    if content["format"] > FORMAT:
        raise WeightsError(f"{path}: written by a newer version of this package; update to read it")
    try:
        card = ModelCard(**content["card"])
    except TypeError as error:
        raise WeightsError(f"{path}: the model card is damaged or of another version: {error}") from None
    model = card.build()
    try:
        model.load_state_dict(content["model"])
    except RuntimeError as error:
        raise WeightsError(f"{path}: the weights do not fit their own card: {str(error).splitlines()[-1]}") from None
    return Checkpoint(model.eval(), card, content["training"])


def is_checkpoint(content: Mapping[str, Any]) -> bool:
    """Whether a read file has the parts of a checkpoint of ours."""
    return {"format", "model", "card", "training"} <= content.keys()


def read_tensors(path: str | Path) -> dict[str, Any]:
    """Content of a file of tensors and plain containers; code in it is never run.

    Raises:
        WeightsError: the file is missing, damaged, or something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED:
        raise WeightsError(
            f"{path}: not a weights file, or damaged; expected a file of tensors written by torch.save"
        ) from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds a {type(content).__name__}; expected a state dict or a checkpoint")
    return content


def card_of(
    model: EfficientDet, name: str, class_names: Sequence[str], category_ids: Sequence[int], padding: Padding
) -> ModelCard:
    """The card of a model as it was built; what training knows beyond that is added with `dataclasses.replace`."""
    return ModelCard(
        name=name,
        class_names=tuple(class_names),
        category_ids=tuple(category_ids),
        image_size=model.image_size,
        padding=padding,
        anchor_scale=model.anchor_scale,
        anchor_aspects=model.anchor_aspects,
        mean=tuple(model.mean.tolist()),
        std=tuple(model.std.tolist()),
    )
