"""The weighted bidirectional feature pyramid: from C3, C4, C5 to P3 .. P7 (P8), all with the same channels.

Backbones and heads have files of their own. Source: EfficientDet (arXiv:1911.09070), section 3 and figure 2d; order
of operations from the reference code.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.models.layers import (
    Activation,
    NormFactory,
    SeparableConv,
    activation,
    convolutions,
    init_neck_conv,
    max_pool,
    recomputed,
)
from effdet.types import Padding

Fusion = Literal["fast", "sum"]
Topology = Literal["bifpn", "qufpn"]
Resampling = Literal["pool", "bilinear"]  # "pool": max-pool to coarser levels, nearest neighbour to finer ones


class Node(NamedTuple):
    """One node of a cell: its level, counted from the finest, and the features that it fuses.

    `inputs` are positions in the cell's growing list: first its inputs from fine to coarse, then the nodes in order.
    The first input is always from the node's own level.
    """

    level: int
    inputs: tuple[int, ...]


def cell_nodes(num_levels: int, topology: Topology = "bifpn") -> list[Node]:
    """The nodes of one cell; the last one of each level, from fine to coarse, are its outputs.

    A BiFPN goes from coarse to fine and back. A QuFPN does that, and from fine to coarse and back, both from the cell's
    inputs, and fuses the two results of every level. Source: EfficientDet figure 2; its reference code (fpn_configs).
    """
    nodes: list[Node] = []
    up = range(num_levels)
    down = _there_and_back(nodes, up[::-1])
    if topology == "qufpn":
        other = _there_and_back(nodes, up)
        nodes += [Node(level, (down[level], other[level])) for level in up]
    return nodes


def _there_and_back(nodes: list[Node], levels: Sequence[int]) -> dict[int, int]:
    """Adds the nodes of a pass through the levels and back; position of the last feature of each level."""
    made = {level: [level] for level in levels}

    def add(level: int, inputs: list[int]) -> None:
        made[level].append(len(levels) + len(nodes))
        nodes.append(Node(level, tuple(inputs)))

    for previous, level in pairwise(levels):
        add(level, [made[level][-1], made[previous][-1]])
    for previous, level in pairwise(levels[::-1]):
        add(level, [*made[level], made[previous][-1]])
    return {level: positions[-1] for level, positions in made.items()}


class Projection(nn.Module):
    """1x1 convolution and BatchNorm that give features the channels of the pyramid: [B, C, H, W] -> [B, C', H, W]."""

    def __init__(self, in_channels: int, out_channels: int, norm: NormFactory) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """The projected features, without activation."""
        out: Tensor = self.bn(self.conv(features))
        return out


def resample(features: Tensor, size: tuple[int, int], resampling: Resampling, padding: Padding) -> Tensor:
    """Features [B, C, H, W] resampled to the `size` (H, W) of a neighbouring level: half or double, up to rounding."""
    if features.shape[-2:] == size:
        return features
    if resampling == "bilinear":
        return F.interpolate(features, size=size, mode="bilinear", align_corners=False)
    if features.shape[-2] > size[0] or features.shape[-1] > size[1]:
        return max_pool(features, padding)
    return F.interpolate(features, size=size, mode="nearest")


class FusionNode(nn.Module):
    """Fuses features of neighbouring levels: project, resample, weighted sum, activation, convolution, BatchNorm.

    Attributes:
        weights: one value per input, or None for a plain sum.
        factors: the normalized weights as constants; None while they are learned.
    """

    factors: tuple[float, ...] | None

    def __init__(
        self,
        node: Node,
        in_channels: Sequence[int],
        channels: int,
        fusion: Fusion,
        norm: NormFactory,
        act: Activation,
        padding: Padding,
        resampling: Resampling,
    ) -> None:
        super().__init__()
        self.inputs = node.inputs
        self.padding = padding
        self.resampling = resampling
        self.projections = nn.ModuleList(
            nn.Identity() if width == channels else Projection(width, channels, norm) for width in in_channels
        )
        self.weights = nn.Parameter(torch.ones(len(node.inputs))) if fusion == "fast" else None
        self.factors = None
        self.act = activation(act)
        self.conv = SeparableConv(channels, channels)
        self.bn = norm(channels)

    def forward(self, features: list[Tensor]) -> Tensor:
        """The fused feature [B, C, H, W] at the node's level, from the cell's features so far."""
        height, width = features[self.inputs[0]].shape[-2:]
        size = height, width
        inputs = [
            resample(projection(features[position]), size, self.resampling, self.padding)
            for projection, position in zip(self.projections, self.inputs, strict=True)
        ]
        out: Tensor = self.bn(self.conv(self.act(self._fuse(inputs))))
        return out

    def fix_weights(self) -> None:
        """Makes constants of the weights, for inference."""
        if self.weights is not None:
            self.factors, self.weights = tuple(self._normalized(self.weights).tolist()), None

    def _fuse(self, inputs: list[Tensor]) -> Tensor:
        """Weighted mean with non-negative weights ("fast normalized fusion" in the paper), or the plain sum."""
        weights = self.factors if self.weights is None else self._normalized(self.weights)
        if weights is None:
            total = inputs[0] + inputs[1]
            return total if len(inputs) == 2 else total + inputs[2]
        total = inputs[0] * weights[0]
        for position in range(1, len(inputs)):
            total = total + inputs[position] * weights[position]
        return total

    @staticmethod
    def _normalized(weights: Tensor) -> Tensor:
        weights = weights.float().relu()
        return weights / (weights.sum() + 1e-4)


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
        topology: Topology,
        resampling: Resampling,
    ) -> None:
        super().__init__()
        plan = cell_nodes(len(in_channels), topology)
        widths = [*in_channels, *[channels] * len(plan)]
        self.nodes = nn.ModuleList(
            FusionNode(
                node, [widths[position] for position in node.inputs], channels, fusion, norm, act, padding, resampling
            )
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
    """The whole neck: coarser levels made from C5, then the cells.

    Attributes:
        recomputes: whether training keeps only the cells' outputs and recomputes the rest in the backward pass.
    """

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
        topology: Topology = "bifpn",
        resampling: Resampling = "pool",
    ) -> None:
        super().__init__()
        self.recomputes = False
        self.num_extra = num_levels - len(in_channels)
        self.padding = padding
        self.resampling = resampling
        self.coarser = Projection(in_channels[-1], channels, norm)  # P6; the levels above it are resampled from it
        first = [*in_channels, *[channels] * self.num_extra]
        self.cells = nn.ModuleList(
            BiFPNCell(
                first if index == 0 else [channels] * num_levels,
                channels,
                fusion,
                norm,
                act,
                padding,
                topology,
                resampling,
            )
            for index in range(num_cells)
        )
        for conv in convolutions(self):
            init_neck_conv(conv)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """P3 .. P7 (P8) [B, C, H, W] each, from the backbone's C3, C4, C5."""
        features = list(features)
        coarser = self.coarser(features[-1])
        for _ in range(self.num_extra):
            height, width = coarser.shape[-2:]
            coarser = resample(coarser, ((height + 1) // 2, (width + 1) // 2), self.resampling, self.padding)
            features.append(coarser)
        for cell in self.cells:
            features = recomputed(self.recomputes, cell, cell, features)
        return features
