"""The debug dump of a step with a loss or gradient of NaN or Inf: what it holds, and reading it.

A dump is a folder that needs neither the data set nor the recipe: dump.pt, tensors and plain containers with
everything that the step was computed from; report.json for people; batch.png, the images with their targets. It is
written in `dump_step.py` and repeated in `replay.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from effdet.errors import WeightsError
from effdet.models import EfficientDet, EfficientNet
from effdet.plain_data import check_keys, first_fault
from effdet.structures import Target
from effdet.text import reason_of
from effdet.types import Precision
from effdet.weights.card import ModelCard, read_card
from effdet.weights.checkpoint import read_tensors

FORMAT = 3  # raised when the layout of dump.pt changes
TENSORS = "dump.pt"
PRECISIONS: dict[torch.dtype | None, Precision] = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class DebugDump:
    """A step with a loss or gradient of NaN or Inf, with everything that it was computed from.

    Attributes:
        card: the network, its classes and the recipe.
        weights: of the model before the step; its BatchNorm statistics have seen the forward pass.
        criterion: state of the criterion.
        evaluating: names of the modules that were in evaluation mode, such as frozen BatchNorm layers.
        fixed: names of the parameters that are not trained.
        dropout: rate of each dropout layer by name.
        images: [B, C, H, W] uint8, augmented and mixed; of several processes, those of this one.
        targets: of the images, as plain containers.
        sizes: images of each micro-batch.
        normalizer: the losses are divided by it.
        files: names of the images' files.
        ids: ids of the images in the data set.
        rows: rows of the images in the training table.
        precision: of the network.
        loss_scale: factor of the loss before backward().
        seed: of torch's generators before the forward pass.
        step: steps done before this one.
        epoch: counted from 0.
        metrics: learning rate, losses, gradient norm and settings of the step.
        process: rank of the process and number of processes.
        device: type of the device.
    """

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    card: ModelCard
    weights: dict[str, Tensor]
    criterion: dict[str, Tensor]
    evaluating: tuple[str, ...]
    fixed: tuple[str, ...]
    dropout: dict[str, float]
    images: Tensor
    targets: Any
    sizes: tuple[int, ...]
    normalizer: float
    files: tuple[str, ...]
    ids: tuple[int | str, ...]
    rows: tuple[int, ...]
    precision: Precision
    loss_scale: float
    seed: int
    step: int
    epoch: int
    metrics: dict[str, float]
    process: tuple[int, int]
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers, which load with `weights_only=True`."""
        return {"dump": FORMAT, **vars(self), "card": self.card.to_dict()}


def read_dump(path: Path) -> DebugDump:
    """The dump in a folder, or of its dump.pt.

    Raises:
        WeightsError: there is none, or it is damaged or of another version of this package.
    """
    file = path / TENSORS if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"{path}: no debug dump; expected a folder such as runs/NAME/debug-12")
    content = read_tensors(file)
    version = content.pop("dump", None)
    if version is None:
        raise WeightsError(f"{path}: not a debug dump; expected a folder such as runs/NAME/debug-12, or its {TENSORS}")
    if version != FORMAT:
        raise WeightsError(f"{path}: a debug dump of another version of this package; replay it with that version")
    try:
        check_keys(content, DebugDump)
        dump = DebugDump(**{**content, "card": read_card(content["card"])})
        TypeAdapter(DebugDump).validate_python(vars(dump))
        _check_lengths(dump)
        _check_targets(dump.targets, len(dump.card.class_names))
        model_of(dump)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except ValidationError as error:
        raise WeightsError(f"{path}: the debug dump is damaged: {first_fault(error)}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path}: the debug dump is damaged: {reason_of(error)}") from None
    return dump


def model_of(dump: DebugDump) -> EfficientDet | EfficientNet:
    """The model as it was before the step, in host memory.

    Raises:
        WeightsError: the weights do not fit the network of the card.
    """
    model = dump.card.spec.build(len(dump.card.class_names))
    try:
        model.load_state_dict(dump.weights)
    except RuntimeError as error:
        raise WeightsError(f"the weights of the dump do not fit its network: {last_line(error)}") from None
    model.train()
    for name in dump.evaluating:
        model.get_submodule(name).training = False
    for name in dump.fixed:
        model.get_parameter(name).requires_grad_(False)
    for name, rate in dump.dropout.items():
        dropout = model.get_submodule(name)
        if not isinstance(dropout, nn.Dropout):
            raise WeightsError(f"{name} is no dropout layer")
        dropout.p = rate
    return model


def last_line(error: RuntimeError) -> str:
    """The last line of an error of torch, which says what does not fit."""
    return str(error).strip().splitlines()[-1].strip()


def _check_lengths(dump: DebugDump) -> None:
    """Raises ValueError if the columns of a dump do not belong together."""
    if dump.images.ndim != 4 or dump.images.dtype != torch.uint8:
        raise ValueError(f"images have the type {dump.images.dtype} and the shape {list(dump.images.shape)}")
    lengths = {name: len(getattr(dump, name)) for name in ("images", "files", "ids", "rows", "targets")}
    lengths["sizes"] = sum(dump.sizes)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"it has {', '.join(f'{length} {name}' for name, length in lengths.items())}")


def _check_targets(targets: Any, classes: int) -> None:
    """Raises ValueError if targets are not what `plain_targets` of a task gives."""
    if isinstance(targets, Tensor):
        if targets.ndim != 2 or targets.shape[1] != classes:
            raise ValueError(f"targets have the shape {list(targets.shape)}, but there are {classes} classes")
        return
    for target in targets:
        check_keys(target, Target)
        boxes, labels = target["boxes"], target["labels"]
        if not (isinstance(boxes, Tensor) and isinstance(labels, Tensor) and boxes.shape == (labels.numel(), 4)):
            raise ValueError("boxes and labels of a target are no tensors of one length")
        if labels.dtype != torch.int64 or labels.ndim != 1 or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f"labels of a target are not from 0 to {classes - 1}")
