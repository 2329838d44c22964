"""From targets to losses: which anchor answers for which object, focal and Huber loss; cross-entropy of classifiers.

Losses are computed in float32 whatever the network's precision; optimisers and schedules live in `training`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.boxes import encode_boxes, pairwise_iou
from effdet.structures import Outputs, Target


class Assignment(NamedTuple):
    """The positive anchors of a batch; every other anchor is background.

    Attributes:
        image: [P] int64, the positive's image in 0..B-1.
        anchor: [P] int64, its anchor in 0..A-1.
        label: [P] int64, the class it answers for.
        box: [P, 4] float32, the box it answers for, xyxy in pixels of the network input.
    """

    image: Tensor
    anchor: Tensor
    label: Tensor
    box: Tensor

    def __len__(self) -> int:
        return len(self.anchor)


class DetectionLosses(NamedTuple):
    """Scalars, ready for backward: `total` is `class_loss` plus the weighted `box_loss`."""

    total: Tensor
    class_loss: Tensor
    box_loss: Tensor


def match_anchors(anchors: Tensor, boxes: Tensor, threshold: float = 0.5) -> tuple[Tensor, Tensor]:
    """Positive anchors of one image.

    An anchor answers for the box it overlaps most, if by at least `threshold`; and every box gets its best anchor
    whatever the overlap, so that none is left without (the first box wins where two claim one anchor). There is no band
    of ignored anchors. Source: EfficientDet reference, target assignment.

    Args:
        anchors: [A, 4] xyxy.
        boxes: [N, 4] xyxy in the same frame.
        threshold: smallest IoU of a match.

    Returns:
        Positive anchors [P] in rising order, and for each the index of its box [P]; both int64.
    """
    if len(boxes) == 0:
        nothing = torch.empty(0, dtype=torch.int64, device=anchors.device)
        return nothing, nothing
    iou = pairwise_iou(boxes, anchors)
    best_iou, best_box = iou.max(dim=0)
    matched = torch.where(best_iou >= threshold, best_box, -1)
    box_iou, best_anchor = iou.max(dim=1)
    meets = torch.nonzero(box_iou > 0).squeeze(1)
    nobody = len(boxes)
    claims = torch.full_like(matched, nobody).scatter_reduce(0, best_anchor[meets], meets, "amin")
    matched = torch.where(claims < nobody, claims, matched)
    positive = torch.nonzero(matched >= 0).squeeze(1)
    return positive, matched[positive]


def focal_loss_sum(
    logits: Tensor, positive: tuple[Tensor, ...], alpha: float, gamma: float, label_smoothing: float
) -> Tensor:
    """Sum of the focal loss over all logits: a scalar.

    Every logit is first counted as a negative, and the few positives are corrected afterwards: no one-hot targets are
    made. Modulating factors are powers of probabilities taken through their logarithms, which stay finite.

    Args:
        logits: float32 of any shape.
        positive: index of the logits whose target is 1, as for `logits[positive]`.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: focusing exponent.
        label_smoothing: inside the cross-entropy alone. Source: EfficientDet reference; Focal loss, equation 5.
    """
    half = label_smoothing / 2
    softplus = F.softplus(logits)  # -log(1 - p); log p is logits - softplus
    negative = torch.exp(gamma * (logits - softplus)) * (softplus - half * logits)
    chosen, soft = logits[positive], softplus[positive]
    as_positive = torch.exp(-gamma * soft) * (soft - (1 - half) * chosen)
    return (1 - alpha) * (negative.sum() - negative[positive].sum()) + alpha * as_positive.sum()


class DetectionLoss(nn.Module):
    """Outputs and targets to losses, normalised by the positives of the whole batch.

    Args:
        alpha, gamma, label_smoothing: see `focal_loss_sum`.
        huber_delta: where the box loss turns from square to linear.
        box_weight: weight of the box loss in the total.
    """

    def __init__(
        self, alpha: float, gamma: float, label_smoothing: float, huber_delta: float, box_weight: float
    ) -> None:
        super().__init__()
        self.alpha, self.gamma, self.label_smoothing = alpha, gamma, label_smoothing
        self.huber_delta, self.box_weight = huber_delta, box_weight

    def assign(self, anchors: Tensor, targets: Sequence[Target]) -> Assignment:
        """Positive anchors of a batch: anchors [A, 4] and B targets in the same frame and on the same device."""
        images, positives, labels, boxes = [], [], [], []
        for image, target in enumerate(targets):
            anchor, box = match_anchors(anchors, target.boxes)
            images.append(torch.full_like(anchor, image))
            positives.append(anchor)
            labels.append(target.labels[box])
            boxes.append(target.boxes[box])
        return Assignment(torch.cat(images), torch.cat(positives), torch.cat(labels), torch.cat(boxes))

    def forward(self, outputs: Outputs, assignment: Assignment, num_positives: int | Tensor) -> DetectionLosses:
        """Losses of a batch or of a part of one.

        Args:
            outputs: of the network for B images.
            assignment: of the same B images.
            num_positives: positives of the whole batch, so that its parts add up to it.

        Source: EfficientDet reference: sums over everything, divided by the positives plus one.
        """
        normaliser = num_positives + 1.0
        image, anchor, label, box = assignment
        class_sum = focal_loss_sum(
            outputs.class_logits.float(), (image, anchor, label), self.alpha, self.gamma, self.label_smoothing
        )
        deltas = outputs.box_deltas[image, anchor].float()
        wanted = encode_boxes(box, outputs.anchors[anchor])
        # The reference leaves out coordinates whose target is exactly zero, as those of the background are.
        box_sum = (F.huber_loss(deltas, wanted, reduction="none", delta=self.huber_delta) * (wanted != 0)).sum()
        class_loss, box_loss = class_sum / normaliser, box_sum / (4 * normaliser)
        return DetectionLosses(class_loss + self.box_weight * box_loss, class_loss, box_loss)


def cross_entropy_sum(logits: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """Sum over the images of the cross-entropy, computed in float32: a scalar.

    Args:
        logits: [B, K], before the softmax.
        targets: [B, K], share of every class in each image, rows summing to 1.
        label_smoothing: share of the targets that is spread over all classes.
    """
    return F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing, reduction="sum")
