"""Box losses of matched anchors: Huber loss of the deltas, IoU loss of the decoded boxes.

Which anchor is matched with which box is decided in `matching.py`; weights and normalization belong to `detection.py`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from effdet.boxes import decode_boxes, encode_boxes, paired_iou
from effdet.types import IouKind


def huber_loss_sum(
    deltas: Tensor, anchors: Tensor, boxes: Tensor, delta: float, counted: Tensor | None = None
) -> Tensor:
    """Huber loss of the deltas, summed over P positives and averaged over their 4 coordinates: a scalar.

    Args:
        deltas: [P, 4], predicted.
        anchors: [P, 4] xyxy.
        boxes: [P, 4] xyxy, the boxes that the anchors are matched with.
        delta: where the loss turns from quadratic to linear, in units of the deltas.
        counted: [P] bool, false where a row is padding; None for no padding.

    Source: EfficientDet reference, which leaves out coordinates whose target is exactly zero.
    """
    targets = encode_boxes(boxes, anchors)
    errors = F.huber_loss(deltas, targets, reduction="none", delta=delta) * (targets != 0)
    return _sum(errors, counted) / 4


def iou_loss_sum(
    deltas: Tensor, anchors: Tensor, boxes: Tensor, kind: IouKind, counted: Tensor | None = None
) -> Tensor:
    """1 - `boxes.paired_iou` of the decoded boxes, summed over P positives and divided by 4: a scalar.

    Args:
        deltas: [P, 4], predicted.
        anchors: [P, 4] xyxy.
        boxes: [P, 4] xyxy, the boxes that the anchors are matched with.
        kind: which IoU.
        counted: [P] bool, false where a row is padding; None for no padding.

    Source: EfficientDet reference, which averages over 4 coordinates here too.
    """
    return _sum(1 - paired_iou(decode_boxes(deltas, anchors), boxes, kind), counted) / 4


def deltas_of(deltas: Tensor, index: Tensor) -> Tensor:
    """The deltas of P anchors: [B, A, 4] and their positions [P] in B * A -> [P, 4].

    No position may be there twice, except B * A itself, which is padding: it gives the last deltas, without a gradient.
    """
    rows: Tensor = _Rows.apply(deltas.reshape(-1, deltas.shape[-1]), index)
    return rows


class _Rows(torch.autograd.Function):
    """Rows of a matrix. Autograd alone would sort the index to add up the gradients of rows that are there twice."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = matrix.shape
        return matrix[index.clamp(max=len(matrix) - 1)]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        count, width = ctx.shape
        spare = gradient.new_zeros(count + 1, width)  # the last row takes what padding writes
        spare[index] = gradient
        return spare[:-1], None


def _sum(losses: Tensor, counted: Tensor | None) -> Tensor:
    """Sum of the losses [P, ...] of the rows that count."""
    if counted is None:
        return losses.sum()
    return torch.where(counted.view(-1, *[1] * (losses.ndim - 1)), losses, 0).sum()
