"""A trained network made ready to run: BatchNorm layers folded into convolutions, fusion weights computed once.

The result computes the same outputs up to rounding, faster, and cannot be trained. Precision, devices and runtimes are
elsewhere.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from effdet.models.bifpn import FusionNode, Projection
from effdet.models.efficientdet import EfficientDet
from effdet.models.efficientnet import (
    ConvBlock,
    EfficientNet,
    FusedBlock,
    InvertedResidual,
    SeparableBlock,
)
from effdet.models.heads import Head
from effdet.models.layers import SqueezeExcite
from effdet.models.timm_backbone import TimmBackbone

Network = TypeVar("Network", bound=EfficientDet | EfficientNet)

# The BatchNorm layers of each kind of module, each with the convolution before it.
_PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    EfficientNet: (("conv_stem", "bn1"), ("conv_head", "bn2")),
    ConvBlock: (("conv", "bn1"),),
    FusedBlock: (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    SeparableBlock: (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    InvertedResidual: (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    Projection: (("conv", "bn"),),
    FusionNode: (("conv.pointwise", "bn"),),
}


def fold(network: Network) -> Network:
    """A copy of a network for inference: in evaluation mode, without gradients, in channels-last memory.

    Every BatchNorm layer is merged into the convolution before it, in float64. The heads, whose levels share
    convolutions but not BatchNorm layers, get a pointwise convolution per level. Fusion weights become constants.
    Backbones of other libraries stay as they are.
    """
    folded = copy.deepcopy(network)
    folded.eval().requires_grad_(False)
    backbones = [module for module in folded.modules() if isinstance(module, TimmBackbone)]
    foreign = {module for backbone in backbones for module in backbone.modules()}
    for module in [module for module in folded.modules() if module not in foreign]:
        for conv, norm in _PAIRS.get(type(module), ()):
            if hasattr(module, norm):
                _fold_pair(module, conv, norm)
        if isinstance(module, FusionNode):
            module.fix_weights()
        if isinstance(module, (nn.SiLU, SqueezeExcite)):
            module.inplace = True  # the tensor before it is used by nothing else
    if isinstance(folded, EfficientDet):
        folded.class_head = FoldedHead(folded.class_head)  # type: ignore[assignment]
        folded.box_head = FoldedHead(folded.box_head)  # type: ignore[assignment]
    folded.to(memory_format=torch.channels_last)
    return folded


def _fold_pair(module: nn.Module, conv_name: str, norm_name: str) -> None:
    """Merges a BatchNorm layer of a module into a convolution of it."""
    conv, norm = module.get_submodule(conv_name), module.get_submodule(norm_name)
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    conv.weight, conv.bias = merged(conv, norm)
    setattr(module, norm_name, nn.Identity())


def merged(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[nn.Parameter, nn.Parameter]:
    """Weight and bias of a convolution that computes `norm(conv(x))` with the running statistics of `norm`."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
    before = torch.zeros_like(factor) if conv.bias is None else conv.bias.double()
    weight = conv.weight.double() * factor[:, None, None, None]
    bias = (before - norm.running_mean.double()) * factor + norm.bias.double()
    return _constant(weight, conv.weight), _constant(bias, conv.weight)


def _constant(values: Tensor, like: Tensor) -> nn.Parameter:
    return nn.Parameter(values.to(like.dtype), requires_grad=False)


class FoldedHead(nn.Module):
    """A `Head` whose BatchNorm layers are merged: the depthwise convolutions are shared, the pointwise are per level.

    Attributes:
        outputs: values predicted per anchor: K classes or 4 deltas.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.outputs, self.act, self.predict = head.outputs, head.act, head.predict
        self.depthwise, self.pointwise = nn.ModuleList(), nn.ModuleList()
        for conv, norms in zip(head.convs, head.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            self.depthwise.append(conv.get_submodule("depthwise"))
            levels = nn.ModuleList()
            for norm in norms:
                level = copy.deepcopy(conv.get_submodule("pointwise"))
                assert isinstance(level, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                level.weight, level.bias = merged(level, norm)
                levels.append(level)
            self.pointwise.append(levels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """See `Head.forward`."""
        return torch.cat([self._level(feature, level) for level, feature in enumerate(features)], dim=1)

    def _level(self, feature: Tensor, level: int) -> Tensor:
        for depthwise, pointwise in zip(self.depthwise, self.pointwise, strict=True):
            assert isinstance(pointwise, nn.ModuleList)
            feature = self.act(pointwise[level](depthwise(feature)))
        predicted: Tensor = self.predict(feature)
        return predicted.permute(0, 2, 3, 1).reshape(predicted.shape[0], -1, self.outputs)
