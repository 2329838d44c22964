"""Box losses of matched anchors: Huber loss of the deltas, IoU loss of the decoded boxes.

Which anchor is matched with which box is decided in `matching.py`; weights and normalization belong to `detection.py`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from effdet.boxes import decode_boxes, encode_boxes, paired_iou
from effdet.types import IouKind


def huber_loss_sum(deltas: Tensor, anchors: Tensor, boxes: Tensor, delta: float) -> Tensor:
    """Huber loss of the deltas, summed over P positives and averaged over their 4 coordinates: a scalar.

    Args:
        deltas: [P, 4], predicted.
        anchors: [P, 4] xyxy.
        boxes: [P, 4] xyxy, the boxes that the anchors are matched with.
        delta: where the loss turns from quadratic to linear, in units of the deltas.

    Source: EfficientDet reference, which leaves out coordinates whose target is exactly zero.
    """
    targets = encode_boxes(boxes, anchors)
    errors = F.huber_loss(deltas, targets, reduction="none", delta=delta) * (targets != 0)
    return errors.sum() / 4


def iou_loss_sum(deltas: Tensor, anchors: Tensor, boxes: Tensor, kind: IouKind) -> Tensor:
    """1 - `boxes.paired_iou` of the decoded boxes, summed over P positives and divided by 4: a scalar.

    Args:
        deltas: [P, 4], predicted.
        anchors: [P, 4] xyxy.
        boxes: [P, 4] xyxy, the boxes that the anchors are matched with.
        kind: which IoU.

    Source: EfficientDet reference, which averages over 4 coordinates here too.
    """
    return (1 - paired_iou(decode_boxes(deltas, anchors), boxes, kind)).sum() / 4
