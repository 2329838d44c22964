"""Geometry of boxes: area, IoU, clipping, and the encoding of a box relative to its anchor.

Boxes are xyxy, absolute pixels, continuous coordinates (no +1). Format conversions for files live with the readers and
writers that need them; anchors are made in `models/anchors.py`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from effdet.types import IouKind

SMALLEST_SIDE = 1e-6  # floor of a box side in pixels before its logarithm
LARGEST_GROWTH = 10.0  # cap of dw and dh: no box is 22,000 anchors wide, and infinite boxes would make every IoU NaN


def box_area(boxes: Tensor) -> Tensor:
    """Area of each box: [..., 4] -> [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of every pair: [..., N, 4] and [..., M, 4] -> [..., N, M]; 0 where two boxes do not overlap.

    It has no gradient; `paired_iou` has one.
    """
    # Coordinates one by one, contiguous along the inner axis and mostly in place, take a fraction of the time that all
    # four take together.
    left, top, right, bottom = first.unsqueeze(-2).unbind(-1)
    other_left, other_top, other_right, other_bottom = second.mT.contiguous().unsqueeze(-3).unbind(-2)
    width = torch.minimum(right, other_right).sub_(torch.maximum(left, other_left)).clamp_(min=0)
    height = torch.minimum(bottom, other_bottom).sub_(torch.maximum(top, other_top)).clamp_(min=0)
    intersection = width.mul_(height)
    union = (box_area(first).unsqueeze(-1) + box_area(second).unsqueeze(-2)).sub_(intersection)
    return intersection.div_(union.clamp_(min=torch.finfo(union.dtype).tiny))


def paired_iou(boxes: Tensor, targets: Tensor, kind: IouKind) -> Tensor:
    """IoU of each box with its target, with a gradient: [..., 4] and [..., 4] -> [...], 1 where they are equal.

    The penalties have a gradient even where a box and its target do not overlap. Where neither has an area the IoU is
    0; values and gradients are finite there too.

    Args:
        boxes: xyxy, whose gradient is wanted.
        targets: xyxy.
        kind: 'iou' has no penalty; 'giou' subtracts the fraction of the enclosing box that belongs to neither; 'diou'
            the squared distance of the centres over the squared diagonal of the enclosing box; 'ciou' that and a
            penalty for different aspect ratios, whose weight is a constant to the gradient. Source: Generalized IoU
            (arXiv:1902.09630); Distance-IoU loss (arXiv:1911.08287), equations 7 to 11.
    """
    inner = torch.minimum(boxes[..., 2:], targets[..., 2:]) - torch.maximum(boxes[..., :2], targets[..., :2])
    width, height = inner.clamp(min=0).unbind(-1)
    intersection = width * height
    union = box_area(boxes) + box_area(targets) - intersection
    iou = _ratio(intersection, union)
    if kind == "iou":
        return iou
    enclosing = torch.maximum(boxes[..., 2:], targets[..., 2:]) - torch.minimum(boxes[..., :2], targets[..., :2])
    if kind == "giou":
        enclosing_area = enclosing[..., 0] * enclosing[..., 1]
        return iou - _ratio(enclosing_area - union, enclosing_area)
    shift = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    diou = iou - _ratio(shift.square().sum(-1), enclosing.square().sum(-1))
    if kind == "diou":
        return diou
    aspect_penalty = 4 / math.pi**2 * (_angle(boxes) - _angle(targets)).square()
    weight = aspect_penalty / (1 - iou + aspect_penalty).clamp(min=torch.finfo(iou.dtype).eps)
    return diou - weight.detach() * aspect_penalty


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """The quotient; 0, and no gradient, where the denominator is below the smallest area."""
    valid = denominator > SMALLEST_SIDE**2
    return torch.where(valid, numerator / torch.where(valid, denominator, 1), 0)


def _angle(boxes: Tensor) -> Tensor:
    """Arc tangent of each box's width over its height: [..., 4] -> [...]."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=SMALLEST_SIDE).unbind(-1)
    return torch.atan2(width, height)


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
