"""Cost of a model before it runs: parameters, multiply-adds, and the activation memory of a training step.

Everything is counted on PyTorch's meta device, where tensors have shapes but no values: even the largest model needs
only seconds and almost no memory. Printing is in the command line.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from effdet.models import EfficientDet, EfficientNet, ModelSpec
from effdet.models.anchors import level_sizes
from effdet.types import Task

# Groups in which a model is counted: name -> its modules. All other modules belong to the group without modules.
GROUPS: dict[Task, dict[str, tuple[str, ...]]] = {
    "detection": {"backbone": (), "neck": ("neck",), "class head": ("class_head",), "box head": ("box_head",)},
    "classification": {"backbone": (), "head": ("conv_head", "bn2", "classifier")},
}


@dataclass(frozen=True)
class ModelSummary:
    """What a model is and what it costs, for one image of its own size.

    Attributes:
        name: name of the model.
        num_classes: number K of classes.
        image_size: (H, W) of the image in pixels.
        parameters: parameters of backbone, neck, class head and box head, or of backbone and head.
        multiply_adds: multiply-adds of the same, see `multiply_adds`.
        feature_channels: channels of the backbone's features C3, C4, C5.
        feature_strides: their strides in pixels.
        feature_sizes: their (H, W).
        anchors: anchors A of a detector; 0 for classifiers.
        activation_bytes: memory of the activations in a training step, see `activation_bytes`.
    """

    name: str
    num_classes: int
    image_size: tuple[int, int]
    parameters: dict[str, int]
    multiply_adds: dict[str, int]
    feature_channels: tuple[int, ...]
    feature_strides: tuple[int, ...]
    feature_sizes: tuple[tuple[int, int], ...]
    anchors: int
    activation_bytes: int


def summarize(spec: ModelSpec, num_classes: int) -> ModelSummary:
    """The summary of a model with K classes, without building it in memory.

    Raises:
        ConfigError: the model cannot be built, for example with a backbone of timm where timm is not installed.
    """
    with torch.device("meta"):
        model = spec.build(num_classes)
    groups = GROUPS[spec.task]
    children = {name: count_parameters(child) for name, child in model.named_children()}
    anchors: Tensor | tuple[()] = getattr(model, "anchors", ())
    return ModelSummary(
        name=spec.name,
        num_classes=num_classes,
        image_size=spec.image_size,
        parameters=_by_group(groups, count_parameters(model), children),
        multiply_adds=_by_group(groups, *_counted(model, spec.image_size)),
        feature_channels=model.backbone.feature_channels,
        feature_strides=model.backbone.feature_strides,
        feature_sizes=tuple(level_sizes(spec.image_size, 3, 5)),
        anchors=len(anchors),
        activation_bytes=activation_bytes(model, spec.image_size),
    )


def count_parameters(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def multiply_adds(model: EfficientDet | EfficientNet, image_size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions and matrix products for one image (H, W): half of the FLOPs.

    The published tables of these networks count the same way; some add BatchNorm and additions (2 % for D0).
    """
    return _counted(_on_meta(model), image_size)[0]


def activation_bytes(model: EfficientDet | EfficientNet, image_size: tuple[int, int]) -> int:
    """Bytes of the activations that a training step keeps for its backward pass, per image (H, W), in float32.

    Weights, gradients, the optimiser and the loss need memory too. Frozen layers keep less; bfloat16 needs about half.
    """
    model = _on_meta(model).train()
    constant = {_storage(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}  # the tensors stay alive here, so that no two storages share an address

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in constant:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    batch = 2  # BatchNorm cannot train on one value per channel, which one small image has at the coarsest level
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, _same):
        outputs = model(_images(model, batch, image_size))
    del outputs
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // batch


def _counted(model: EfficientDet | EfficientNet, image_size: tuple[int, int]) -> tuple[int, dict[str, int]]:
    """Multiply-adds of a meta model and of its direct children for one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(_images(model, 1, image_size))
    flops = counter.get_flop_counts()
    root = type(model).__name__
    children = {name: sum(flops.get(f"{root}.{name}", {}).values()) // 2 for name, _ in model.named_children()}
    return counter.get_total_flops() // 2, children


def _by_group(groups: dict[str, tuple[str, ...]], total: int, children: dict[str, int]) -> dict[str, int]:
    counts = {group: sum(children[name] for name in names) for group, names in groups.items()}
    return {group: count if groups[group] else total - sum(counts.values()) for group, count in counts.items()}


def _on_meta(model: Any) -> Any:
    """A copy of a model on the meta device; the values of the original are not copied."""
    stand_ins: dict[int, Any] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in model.buffers()}
    for tensor in model.parameters():
        stand_ins[id(tensor)] = nn.Parameter(torch.empty_like(tensor, device="meta"), tensor.requires_grad)
    return copy.deepcopy(model, stand_ins)


def _images(model: EfficientDet | EfficientNet, batch: int, image_size: tuple[int, int]) -> Tensor:
    """Images [B, C, H, W] without values."""
    return torch.empty(batch, model.spec.in_channels, *image_size, device="meta")


def _storage(tensor: Tensor) -> int:
    """The address of a storage's record; its data has no address on the meta device."""
    return int(tensor.untyped_storage()._cdata)


def _same(tensor: Tensor) -> Tensor:
    return tensor
