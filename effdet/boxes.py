"""Geometry of boxes: area, overlap, clipping, and the code that relates a box to its anchor.

Boxes are xyxy, absolute pixels, continuous coordinates (no +1). Format conversions for files live with the readers and
writers that need them; anchors are made in `models/anchors.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_SIDE = 1e-6  # floor of a box side in pixels before its logarithm
LARGEST_GROWTH = 10.0  # cap of dw and dh: no box is 22,000 anchors wide, and infinite ones would spoil every overlap


def box_area(boxes: Tensor) -> Tensor:
    """Area of each box: [..., 4] -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair: [..., N, 4], [..., M, 4] -> [..., N, M]; 0 where two boxes do not meet."""
    first, second = first.unsqueeze(-2), second.unsqueeze(-3)
    top_left = torch.maximum(first[..., :2], second[..., :2])
    bottom_right = torch.minimum(first[..., 2:], second[..., 2:])
    width, height = (bottom_right - top_left).clamp_(min=0).unbind(-1)
    intersection = width * height
    union = box_area(first) + box_area(second) - intersection
    return torch.where(intersection > 0, intersection / union, intersection)


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [..., 4] cut to an image of `size` (H, W)."""
    height, width = size
    limits = boxes.new_tensor([width, height, width, height])
    return torch.minimum(boxes.clamp(min=0), limits)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Deltas that turn anchors into boxes: [..., 4] and [..., 4] -> [..., 4] as (dx, dy, dw, dh).

    dx, dy: shift of the centre in units of the anchor's sides; dw, dh: logarithm of the ratio of the sides. There are
    no further variances. Source: EfficientDet reference, target assignment; Faster R-CNN, equation 2.
    """
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=SMALLEST_SIDE)
    shift = ((boxes[..., :2] + boxes[..., 2:]) - (anchors[..., :2] + anchors[..., 2:])) / 2 / anchor_size
    return torch.cat([shift, (size / anchor_size).log()], dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes of deltas and anchors, the inverse of `encode_boxes`: [..., 4] and [..., 4] -> [..., 4] float32 xyxy."""
    deltas = deltas.float()
    anchor_size = anchors[..., 2:] - anchors[..., :2]
    centre = (anchors[..., :2] + anchors[..., 2:]) / 2 + deltas[..., :2] * anchor_size
    half = deltas[..., 2:].clamp(max=LARGEST_GROWTH).exp() * anchor_size / 2
    return torch.cat([centre - half, centre + half], dim=-1)
