"""The class and the box head: the same convolutions on every level, with BatchNorm layers of each level's own.

`structures.Outputs` says what their outputs mean; anchors, losses and decoding are elsewhere.
Source: EfficientDet section 4.1; order of operations and initialisers from the reference code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from effdet.models.layers import (
    Activation,
    NormFactory,
    SeparableConv,
    activation,
    convolutions,
    init_head_conv,
    recomputed,
)

PRIOR = 0.01  # confidence of every class at every anchor before training


class Head(nn.Module):
    """Separable convolutions with BatchNorm and activation, and a last convolution that predicts.

    All levels share the convolutions. Each level has its own BatchNorm layers, since statistics differ.

    Attributes:
        outputs: values predicted per anchor: K classes or 4 deltas.
        recomputes: whether training keeps only the predictions and recomputes the rest in the backward pass.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        anchors_per_cell: int,
        num_repeats: int,
        num_levels: int,
        norm: NormFactory,
        act: Activation = "silu",
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.recomputes = False
        self.convs = nn.ModuleList(SeparableConv(channels, channels) for _ in range(num_repeats))
        self.norms = nn.ModuleList(nn.ModuleList(norm(channels) for _ in range(num_levels)) for _ in range(num_repeats))
        self.act = activation(act)
        self.predict = SeparableConv(channels, anchors_per_cell * outputs)
        for conv in convolutions(self):
            init_head_conv(conv)

    def forward(self, features: list[Tensor]) -> Tensor:
        """[B, A, outputs] over all levels, from fine to coarse, of the features [B, C, H, W] of L levels."""
        levels = [
            recomputed(self.recomputes, self, self._level, feature, level) for level, feature in enumerate(features)
        ]
        return torch.cat(levels, dim=1)

    def _level(self, feature: Tensor, level: int) -> Tensor:
        for conv, norms in zip(self.convs, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            feature = self.act(norms[level](conv(feature)))
        predicted: Tensor = self.predict(feature)
        return predicted.permute(0, 2, 3, 1).reshape(len(predicted), -1, self.outputs)


def set_prior(class_head: Head) -> None:
    """Sets the class head's biases so that every confidence is `PRIOR`. Source: Focal loss (arXiv:1708.02002), 3.3."""
    assert class_head.predict.pointwise.bias is not None
    nn.init.constant_(class_head.predict.pointwise.bias, -math.log((1 - PRIOR) / PRIOR))
