"""The detection criterion: outputs and targets to class and box losses.

Matching, the focal loss and the box losses are in files of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from effdet.boxes import decode_boxes, encode_boxes, paired_iou
from effdet.errors import ConfigError
from effdet.losses.focal import focal_loss_sum
from effdet.losses.matching import Assignment, match_anchors
from effdet.structures import Outputs, Target
from effdet.types import IouKind

Losses = dict[str, Tensor]  # scalars by name; "loss", the first, is the total to call backward() on


class DetectionLoss(nn.Module):
    """Outputs and targets to losses, normalised by the positives of the whole batch.

    Args:
        alpha, gamma, label_smoothing: see `focal_loss_sum`.
        huber_delta: where the Huber loss of the deltas turns from square to linear.
        box_weight: weight of the Huber loss in the total; 0 leaves it out.
        iou: a second box loss, 1 - `boxes.paired_iou` of the decoded boxes, over 4 as the Huber loss; None for none.
        iou_weight: its weight in the total.
        positives_momentum: share of the steps before in the number that normalises a step, see `smoothed`.
        class_weights: [K], see `focal_loss_sum`.
    """

    class_weights: Tensor | None
    positives: Tensor  # [2], averages up to the step before the newest, and up to the newest; -1 before any
    newest_step: Tensor

    def __init__(
        self,
        alpha: float,
        gamma: float,
        label_smoothing: float,
        huber_delta: float,
        box_weight: float,
        iou: IouKind | None = None,
        iou_weight: float = 1.0,
        positives_momentum: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.alpha, self.gamma, self.label_smoothing = alpha, gamma, label_smoothing
        self.huber_delta, self.box_weight = huber_delta, box_weight
        self.iou, self.iou_weight = iou, iou_weight
        self.positives_momentum = positives_momentum
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.register_buffer("positives", torch.full((2,), -1.0))
        self.register_buffer("newest_step", torch.tensor(-1))

    @property
    def names(self) -> tuple[str, ...]:
        """The losses that `forward` gives, in its order."""
        huber, iou = ("box_loss",) * (self.box_weight > 0), ("iou_loss",) * (self.iou is not None)
        return ("loss", "class_loss", *huber, *iou)

    def assign(self, anchors: Tensor, targets: Sequence[Target]) -> Assignment:
        """Positive anchors of a batch: anchors [A, 4] and B targets in the same frame and on the same device."""
        boxes = torch.cat([target.boxes for target in targets])
        labels = torch.cat([target.labels for target in targets])
        counts = torch.tensor([len(target.boxes) for target in targets])
        image = torch.arange(len(targets)).repeat_interleave(counts).to(boxes.device, non_blocking=True)
        positive, box = match_anchors(anchors, boxes, image)
        return Assignment(image[box], positive % len(anchors), labels[box], boxes[box])

    @torch.no_grad()
    def smoothed(self, num_positives: Tensor, step: int) -> Tensor:
        """The positives of a step's batch as a moving average over the steps, which begins with the first batch.

        Asked again for its newest step it gives the same, so that a step can be taken again.

        Args:
            num_positives: scalar, positives of the whole batch.
            step: which step it is, each higher than the one before.

        Source: EfficientDet reference, `positives_momentum`, whose average begins with 0.
        """
        self.to(num_positives.device)
        before, newest = self.positives
        before = torch.where(self.newest_step == step, before, newest)
        before = torch.where(before < 0, num_positives, before)
        now = self.positives_momentum * before + (1 - self.positives_momentum) * num_positives
        self.positives = torch.stack([before, now])
        self.newest_step.fill_(step)
        return now

    def forward(self, outputs: Outputs, assignment: Assignment, num_positives: int | Tensor) -> Losses:
        """Losses of a batch or of a part of one, each before its weight: class_loss, box_loss and iou_loss.

        Args:
            outputs: of the network for B images.
            assignment: of the same B images.
            num_positives: positives of the whole batch, so that its parts add up to it.

        Source: EfficientDet reference: sums over everything, divided by the positives plus one.
        """
        normaliser = num_positives + 1.0
        image, anchor, label, boxes = assignment
        logits = outputs.class_logits
        weights = self.to(logits.device).class_weights  # moves once
        class_sum = focal_loss_sum(
            logits, (image, anchor, label), self.alpha, self.gamma, self.label_smoothing, weights
        )
        deltas, anchors = outputs.box_deltas[image, anchor].float(), outputs.anchors[anchor]
        losses = {"class_loss": class_sum / normaliser}
        total = losses["class_loss"]
        if self.box_weight > 0:
            losses["box_loss"] = self._huber_sum(deltas, anchors, boxes) / normaliser
            total = total + self.box_weight * losses["box_loss"]
        if self.iou is not None:
            unlike = 1 - paired_iou(decode_boxes(deltas, anchors), boxes, self.iou)
            losses["iou_loss"] = unlike.sum() / 4 / normaliser
            total = total + self.iou_weight * losses["iou_loss"]
        return {"loss": total, **losses}

    def _huber_sum(self, deltas: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Sum over the positives, [P, 4] each, of the mean over their coordinates: a scalar."""
        wanted = encode_boxes(boxes, anchors)
        # The reference leaves out coordinates whose target is exactly zero, as those of the background are.
        errors = F.huber_loss(deltas, wanted, reduction="none", delta=self.huber_delta) * (wanted != 0)
        return errors.sum() / 4


def weights_of_classes(weights: Mapping[str, float], names: Sequence[str]) -> Tensor | None:
    """The weights in label order, 1 where none is given: [K] float32; None where none is given at all.

    Args:
        weights: weights by class name.
        names: name of each label, K names.

    Raises:
        ConfigError: a name is none of the classes.
    """
    for name in weights:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"its classes are {', '.join(names[:10])}"
            hint += ", ..." if not near and len(names) > 10 else ""
            raise ConfigError(f"loss.class_weights: the training set has no class '{name}'; {hint}")
    return torch.tensor([weights.get(name, 1.0) for name in names]) if weights else None
