"""The weighted bidirectional feature pyramid: from C3, C4, C5 to P3 .. P7 (P8), all of one width.

Backbones and heads are in files of their own. Source: EfficientDet (arXiv:1911.09070), section 3 and figure 2d; order
of operations from the reference code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.models.layers import (
    Activation,
    NormFactory,
    Padding,
    SeparableConv,
    activation,
    convolutions,
    init_neck_conv,
    max_pool,
)

Fusion = Literal["fast", "sum"]


class Node(NamedTuple):
    """One node of a cell: its level counted from the finest, and the features it fuses.

    `inputs` are positions in the cell's growing list: first its inputs from fine to coarse, then the nodes in order.
    The first input is always of the node's own level.
    """

    level: int
    inputs: tuple[int, ...]


def cell_nodes(num_levels: int) -> list[Node]:
    """The nodes of one cell: from coarse to fine, then back from fine to coarse."""
    made = [[level] for level in range(num_levels)]  # positions of the features of each level so far
    nodes: list[Node] = []

    def add(level: int, inputs: list[int]) -> None:
        made[level].append(num_levels + len(nodes))
        nodes.append(Node(level, tuple(inputs)))

    for level in reversed(range(num_levels - 1)):
        add(level, [made[level][-1], made[level + 1][-1]])
    for level in range(1, num_levels):
        add(level, [*made[level], made[level - 1][-1]])
    return nodes


class Projection(nn.Module):
    """1x1 convolution and norm that bring features to the width of the pyramid: [B, C, H, W] -> [B, C', H, W]."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """The projected features, without activation."""
        out: Tensor = self.bn(self.conv(features))
        return out


class FusionNode(nn.Module):
    """Fuses features of neighbouring levels: project, resample, weigh and add, activate, convolve, normalise.

    Attributes:
        weights: one value per input, or None where features are simply added.
    """

    def __init__(
        self,
        node: Node,
        in_channels: Sequence[int],
        channels: int,
        fusion: Fusion,
        norm: NormFactory,
        act: Activation,
        padding: Padding,
    ) -> None:
        super().__init__()
        self.inputs = node.inputs
        self.padding = padding
        self.projections = nn.ModuleList(
            nn.Identity() if width == channels else Projection(width, channels, norm) for width in in_channels
        )
        self.weights = nn.Parameter(torch.ones(len(node.inputs))) if fusion == "fast" else None
        self.act = activation(act)
        self.conv = SeparableConv(channels, channels)
        self.bn = norm(channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The new feature [B, C, H, W] at the node's level, from the cell's features so far."""
        size = features[self.inputs[0]].shape[-2:]
        inputs = [
            self._resample(projection(features[position]), size)
            for projection, position in zip(self.projections, self.inputs, strict=True)
        ]
        out: Tensor = self.bn(self.conv(self.act(self._fuse(inputs))))
        return out

    def _resample(self, features: Tensor, size: torch.Size) -> Tensor:
        if features.shape[-2] > size[0] or features.shape[-1] > size[1]:
            return max_pool(features, self.padding)
        if features.shape[-2:] == size:
            return features
        return F.interpolate(features, size=size, mode="nearest")

    def _fuse(self, inputs: list[Tensor]) -> Tensor:
        """Weighted mean with weights kept positive (equation "fast normalized fusion"), or the plain sum."""
        if self.weights is None:
            total = inputs[0] + inputs[1]
            return total if len(inputs) == 2 else total + inputs[2]
        weights = self.weights.float().relu()
        weights = weights / (weights.sum() + 1e-4)
        total = inputs[0] * weights[0]
        for position in range(1, len(inputs)):
            total = total + inputs[position] * weights[position]
        return total


class BiFPNCell(nn.Module):
    """One pass up and down the pyramid: L features -> L features of the same sizes."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        fusion: Fusion,
        norm: NormFactory,
        act: Activation,
        padding: Padding,
    ) -> None:
        super().__init__()
        plan = cell_nodes(len(in_channels))
        widths = [*in_channels, *[channels] * len(plan)]
        self.nodes = nn.ModuleList(
            FusionNode(node, [widths[position] for position in node.inputs], channels, fusion, norm, act, padding)
            for node in plan
        )
        self.num_levels = len(in_channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """The last feature made at each level, from fine to coarse."""
        features = list(features)
        for node in self.nodes:
            features.append(node(features))
        return features[-self.num_levels :]


class BiFPN(nn.Module):
    """The whole neck: coarser levels made from C5, then the cells."""

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        num_levels: int,
        num_cells: int,
        norm: NormFactory,
        fusion: Fusion = "fast",
        act: Activation = "silu",
        padding: Padding = "same",
    ) -> None:
        super().__init__()
        self.num_extra = num_levels - len(in_channels)
        self.padding = padding
        self.coarser = Projection(in_channels[-1], channels, norm)  # P6; the levels above it are pooled from it
        first = [*in_channels, *[channels] * self.num_extra]
        self.cells = nn.ModuleList(
            BiFPNCell(first if index == 0 else [channels] * num_levels, channels, fusion, norm, act, padding)
            for index in range(num_cells)
        )
        for conv in convolutions(self):
            init_neck_conv(conv)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """P3 .. P7 (P8) [B, C, H, W] each, from the backbone's C3, C4, C5."""
        features = [*features, max_pool(self.coarser(features[-1]), self.padding)]
        for _ in range(self.num_extra - 1):
            features.append(max_pool(features[-1], self.padding))
        for cell in self.cells:
            features = cell(features)
        return features
