"""Anchor boxes of an image size: the boxes that the heads' predictions start from.

Matching anchors with objects is in `effdet/losses`. Nothing is cached here; the detector keeps its anchors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

OCTAVES = 3  # sizes per level, a third of an octave apart
ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))  # (width, height) factors: square, wide, tall


def level_sizes(image_size: tuple[int, int], min_level: int, max_level: int) -> list[tuple[int, int]]:
    """(H, W) of the features of each level: each level is half of the one before, rounded up."""
    height, width = image_size
    sizes = []
    for level in range(1, max_level + 1):
        height, width = (height + 1) // 2, (width + 1) // 2
        if level >= min_level:
            sizes.append((height, width))
    return sizes


def anchor_boxes(
    image_size: tuple[int, int],
    min_level: int = 3,
    max_level: int = 7,
    scale: float = 4.0,
    aspects: Sequence[tuple[float, float]] = ASPECTS,
) -> Tensor:
    """All anchors of an image: [A, 4] float32, xyxy in pixels of the network input, not clipped to it.

    Args:
        image_size: (H, W) in pixels; strides are fractional where a level does not divide it.
        min_level: finest level, with stride 2 ** min_level.
        max_level: coarsest level.
        scale: side of the smallest square anchor of a level, in strides.
        aspects: (width, height) factors of each shape.

    The order is that of the heads' outputs: level, row, column, octave, aspect. Source: EfficientDet reference.
    """
    height, width = image_size
    shapes = torch.tensor(
        [
            (2 ** (octave / OCTAVES) * across, 2 ** (octave / OCTAVES) * down)
            for octave in range(OCTAVES)
            for across, down in aspects
        ],
        dtype=torch.float64,
    )
    levels = []
    for rows, columns in level_sizes(image_size, min_level, max_level):
        stride = torch.tensor([width / columns, height / rows], dtype=torch.float64)
        x = (torch.arange(columns, dtype=torch.float64) + 0.5) * stride[0]
        y = (torch.arange(rows, dtype=torch.float64) + 0.5) * stride[1]
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[:, :, None]
        half = shapes * stride * scale / 2
        levels.append(torch.cat([centres - half, centres + half], dim=-1).reshape(-1, 4))
    return torch.cat(levels).to(torch.float32)


def anchors_per_cell(aspects: Sequence[tuple[float, float]] = ASPECTS) -> int:
    """Anchors in one cell of one level's grid."""
    return OCTAVES * len(aspects)


def aspects_of_ratios(ratios: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Aspect factors of equal area from ratios width / height, as newer reference configurations give them."""
    return tuple((math.sqrt(ratio), math.sqrt(1 / ratio)) for ratio in ratios)
