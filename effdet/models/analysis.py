"""What a network costs before it is run: parameters, multiply-adds, and the memory that training keeps.

Everything is counted on PyTorch's meta device, where tensors have shapes and no values: the largest network takes
seconds and next to no memory. Printing the figures is the work of the command line.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from effdet.models.anchors import level_sizes
from effdet.models.efficientdet import EfficientDet, EfficientDetSpec
from effdet.models.efficientnet import EfficientNet, EfficientNetSpec, count_parameters

# Name in the figures -> modules; what is in none of them belongs to the part that is named first.
DETECTOR_PARTS = {"backbone": (), "neck": ("neck",), "class head": ("class_head",), "box head": ("box_head",)}
CLASSIFIER_PARTS = {"trunk": (), "head": ("conv_head", "bn2", "classifier")}


@dataclass(frozen=True)
class ModelFigures:
    """What a network is and costs, for one image of its own size.

    Attributes:
        name: what the network is called.
        num_classes: classes K that it tells apart.
        image_size: (H, W) of the image in pixels.
        parameters: trainable values of each part: backbone, neck, class head and box head, or trunk and head.
        multiply_adds: multiply-adds of each part, see `multiply_adds`.
        feature_channels: channels of the backbone's features C3, C4, C5.
        feature_strides: their strides in pixels.
        feature_sizes: their (H, W).
        anchors: anchors A of a detector; 0 for classifiers.
        activation_bytes: memory that a training step keeps, see `activation_bytes`.
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


def figures_of(spec: EfficientDetSpec | EfficientNetSpec, num_classes: int) -> ModelFigures:
    """The figures of a network with K classes; it is never built in memory.

    Raises:
        ConfigError: the network cannot be built, such as a backbone of timm without timm.
    """
    with torch.device("meta"):
        model = spec.build(num_classes)
    if isinstance(model, EfficientDet):
        backbone, parts, anchors = model.backbone, DETECTOR_PARTS, len(model.anchors)
    else:
        backbone, parts, anchors = model, CLASSIFIER_PARTS, 0
    children = {name: count_parameters(child) for name, child in model.named_children()}
    return ModelFigures(
        name=spec.name,
        num_classes=num_classes,
        image_size=spec.image_size,
        parameters=_by_part(parts, count_parameters(model), children),
        multiply_adds=_by_part(parts, *_counted(model, spec.image_size)),
        feature_channels=backbone.feature_channels,
        feature_strides=backbone.feature_strides,
        feature_sizes=tuple(level_sizes(spec.image_size, 3, 5)),
        anchors=anchors,
        activation_bytes=activation_bytes(model, spec.image_size),
    )


def multiply_adds(model: EfficientDet | EfficientNet, image_size: tuple[int, int]) -> int:
    """Multiply-adds of convolutions and matrix products for one image (H, W); half of the usual FLOPs.

    The published tables of these networks count the same way, some with norms and additions on top (2 % for D0).
    """
    return _counted(_on_meta(model), image_size)[0]


def activation_bytes(model: EfficientDet | EfficientNet, image_size: tuple[int, int]) -> int:
    """Bytes that a training step keeps for its backward pass, per image (H, W), in float32.

    Weights, gradients, the optimiser and the loss come on top; frozen layers keep less; bfloat16 takes about half.
    """
    model = _on_meta(model).train()
    constant = {_storage(tensor) for tensor in [*model.parameters(), *model.buffers()]}
    kept: dict[int, Tensor] = {}  # the tensors stay alive here, so that no two storages share an address

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in constant:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    batch = 2  # norms refuse to train on one value per channel, which one small image has at the coarsest level
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, _same):
        outputs = model(_images(model, batch, image_size))
    del outputs
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) // batch


def _counted(model: nn.Module, image_size: tuple[int, int]) -> tuple[int, dict[str, int]]:
    """Multiply-adds of a meta model and of its direct children for one image."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval()(_images(model, 1, image_size))
    flops = counter.get_flop_counts()
    root = type(model).__name__
    children = {name: sum(flops.get(f"{root}.{name}", {}).values()) // 2 for name, _ in model.named_children()}
    return counter.get_total_flops() // 2, children


def _by_part(parts: dict[str, tuple[str, ...]], total: int, children: dict[str, int]) -> dict[str, int]:
    counts = {part: sum(children[name] for name in names) for part, names in parts.items()}
    return {part: count if parts[part] else total - sum(counts.values()) for part, count in counts.items()}


def _on_meta(model: Any) -> Any:
    """A copy of a model on the meta device; the values of the original are not copied on the way."""
    stand_ins: dict[int, Any] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in model.buffers()}
    for tensor in model.parameters():
        stand_ins[id(tensor)] = nn.Parameter(torch.empty_like(tensor, device="meta"), tensor.requires_grad)
    return copy.deepcopy(model, stand_ins)


def _images(model: nn.Module, batch: int, image_size: tuple[int, int]) -> Tensor:
    """Images [B, C, H, W] without values; a detector's channels are those of its backbone."""
    backbone: Any = getattr(model, "backbone", model)
    return torch.empty(batch, len(backbone.mean), *image_size, device="meta")


def _storage(tensor: Tensor) -> int:
    """The address of a storage's record; its data has none on the meta device."""
    return int(tensor.untyped_storage()._cdata)


def _same(tensor: Tensor) -> Tensor:
    return tensor
