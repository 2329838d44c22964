"""The detection criterion: outputs and targets to class and box losses, weighted and normalized.

Matching, the focal loss and the box losses are in files of their own; recipes are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from effdet.losses.boxes import deltas_of, huber_loss_sum, iou_loss_sum
from effdet.losses.focal import flat_index, focal_loss_sum
from effdet.losses.matching import Assignment, assign
from effdet.structures import Outputs, Target
from effdet.types import DetectionLossOptions


class DetectionLoss(nn.Module):
    """Focal loss of the classes, Huber loss and IoU loss of the boxes, normalized by the positive anchors of a batch.

    Without arguments it has the constants of the reference. Its state, the moving average of the positives, belongs
    into a checkpoint.

    Args:
        options: weights and constants.
        class_weights: [K], factors of the class loss of each class; None for 1.
    """

    class_weights: Tensor | None
    positives: Tensor  # [2], moving averages before the newest step and after it; -1 before the first
    newest_step: Tensor

    def __init__(
        self, options: DetectionLossOptions = DetectionLossOptions(), class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        self.options = options
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("positives", torch.full((2,), -1.0))
        self.register_buffer("newest_step", torch.tensor(-1))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the losses that `forward` gives, in its order."""
        huber, iou = ("box_loss",) * (self.options.box_weight > 0), ("iou_loss",) * (self.options.iou is not None)
        return ("loss", "class_loss", *huber, *iou)

    @property
    def term_weights(self) -> dict[str, float]:
        """Weight of each term in the total, by the term's name."""
        weights = {"class_loss": 1.0, "box_loss": self.options.box_weight, "iou_loss": self.options.iou_weight}
        return {name: weights[name] for name in self.names[1:]}

    def forward(
        self, outputs: Outputs, targets: Sequence[Target] | Assignment, normalizer: int | Tensor | None = None
    ) -> dict[str, Tensor]:
        """Losses of B images as scalars by name: the total "loss", then its terms before their weights.

        Args:
            outputs: of the network.
            targets: the objects of the B images, or the positive anchors where they have been matched already.
            normalizer: positive anchors of the whole batch, so that the losses of its micro-batches add up to those of
                the batch; None for those of these images.

        Source: EfficientDet reference: sums over all anchors, divided by the positives plus one.
        """
        options = self.options
        if not isinstance(targets, Assignment):
            targets = assign(outputs.anchors, targets)
        divisor = (targets.num_positives if normalizer is None else normalizer) + 1.0
        image, anchor, label, boxes = targets
        logits = outputs.class_logits
        weights = self.to(logits.device).class_weights  # moves once
        class_sum = focal_loss_sum(
            logits, (image, anchor, label), options.alpha, options.gamma, options.label_smoothing, weights
        )
        positions = flat_index((image, anchor), outputs.box_deltas.shape)
        deltas, anchors = deltas_of(outputs.box_deltas, positions).float(), outputs.anchors[anchor]
        counted = image >= 0
        losses = {"class_loss": class_sum / divisor}
        total = losses["class_loss"]
        if options.box_weight > 0:
            losses["box_loss"] = huber_loss_sum(deltas, anchors, boxes, options.huber_delta, counted) / divisor
            total = total + options.box_weight * losses["box_loss"]
        if options.iou is not None:
            losses["iou_loss"] = iou_loss_sum(deltas, anchors, boxes, options.iou, counted) / divisor
            total = total + options.iou_weight * losses["iou_loss"]
        return {"loss": total, **losses}

    @torch.no_grad()
    def average_positives(self, num_positives: Tensor, step: int) -> Tensor:
        """The moving average of the positives over the steps, which starts with the first batch: a scalar.

        Asked again for the newest step it gives the same value, so that a step can be repeated.

        Args:
            num_positives: scalar, positive anchors of the whole batch.
            step: number of the step, higher than that of the step before.

        Source: EfficientDet reference, `positives_momentum`, whose average starts with 0.
        """
        self.to(num_positives.device)
        momentum = self.options.positives_momentum
        before, newest = self.positives
        before = torch.where(self.newest_step == step, before, newest)
        before = torch.where(before < 0, num_positives, before)
        now = momentum * before + (1 - momentum) * num_positives
        self.positives = torch.stack([before, now])
        self.newest_step.fill_(step)
        return now
