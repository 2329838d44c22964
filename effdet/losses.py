"""From targets to losses: which anchor answers for which object, focal and box loss; cross-entropy of classifiers.

Losses are computed in float32 whatever the network's precision; optimisers and schedules live in `training`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from effdet.boxes import IouKind, decode_boxes, encode_boxes, paired_iou, pairwise_iou
from effdet.errors import ConfigError
from effdet.structures import Outputs, Target

Losses = dict[str, Tensor]  # scalars by name; "loss", the first, is the total to go backward from
PAIRS_AT_ONCE = 2**24  # of boxes and anchors whose overlaps are computed in one go
PAIRS_AT_ONCE_ON_CPU = 2**20  # where larger buffers are slower, since no cache holds them
LOGITS_AT_ONCE = 2**24  # whose focal loss is computed in one go
LOGITS_AT_ONCE_ON_CPU = 2**17
CLAIM = 2.0  # of a box on its best anchor; above every overlap


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


def match_anchors(
    anchors: Tensor, boxes: Tensor, image: Tensor | None = None, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Positive anchors of one image, or of all images of a batch at once.

    An anchor answers for the box it overlaps most, if by at least `threshold`; and every box gets its best anchor
    whatever the overlap, so that none is left without (the first box wins where two claim one anchor). There is no band
    of ignored anchors. Source: EfficientDet reference, target assignment.

    Args:
        anchors: [A, 4] xyxy.
        boxes: [N, 4] xyxy in the same frame.
        image: [N] int64, which image each box is in; None for all in one.
        threshold: smallest IoU of a match.

    Returns:
        Positive anchors [P] in rising order, counted on through the images as image * A + anchor, and for each the
        index of its box [P]; both int64.
    """
    step = max(1, (PAIRS_AT_ONCE_ON_CPU if boxes.device.type == "cpu" else PAIRS_AT_ONCE) // len(anchors))
    found = []  # the few pairs that overlap enough, or where the box claims the anchor
    for start in range(0, max(1, len(boxes)), step):
        overlap = pairwise_iou(boxes[start : start + step], anchors)
        best, best_anchor = overlap.max(dim=1, keepdim=True)
        overlap.scatter_(1, best_anchor, torch.where(best > 0, CLAIM, best))
        row, anchor = torch.nonzero(overlap >= threshold).unbind(1)
        found.append((row + start, anchor, overlap[row, anchor]))
    box, slot, overlap = map(torch.cat, zip(*found, strict=True))
    if image is not None:
        slot = slot + image[box] * len(anchors)
    # Of an anchor's pairs the largest decides, and the first box among equals.
    positive, place = torch.unique(slot, return_inverse=True)
    best = overlap.new_zeros(len(positive)).scatter_reduce(0, place, overlap, "amax")
    first = torch.where(overlap == best[place], box, len(boxes))
    return positive, torch.full_like(positive, len(boxes)).scatter_reduce(0, place, first, "amin")


def focal_loss_sum(
    logits: Tensor,
    positive: tuple[Tensor, ...],
    alpha: float,
    gamma: float,
    label_smoothing: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Sum of the focal loss over all logits, computed in float32 (of float64 in float64): a scalar.

    Every logit is first counted as a negative, and the few positives are corrected afterwards: no one-hot targets are
    made. Modulating factors are powers of probabilities taken through their logarithms, which stay finite.

    Args:
        logits: [..., K].
        positive: index of the logits whose target is 1, as for `logits[positive]`; none twice.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: focusing exponent.
        label_smoothing: inside the cross-entropy alone. Source: EfficientDet reference; Focal loss, equation 5.
        class_weights: [K], factors of the loss of each class; None for 1.
    """
    total: Tensor = _FocalLossSum.apply(logits, positive, alpha, gamma, label_smoothing / 2, class_weights)
    return total


class _FocalLossSum(torch.autograd.Function):
    """See `focal_loss_sum`. The gradient is found together with the loss, in pieces that stay in the cache: autograd
    would keep and walk through a dozen arrays of the size of the logits, which are the largest of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        positive: tuple[Tensor, ...],
        alpha: float,
        gamma: float,
        half: float,
        class_weights: Tensor | None,
    ) -> Tensor:
        computed = torch.promote_types(logits.dtype, torch.float32)
        weights = logits.new_ones(1, dtype=computed) if class_weights is None else class_weights.to(computed)
        rows = logits.reshape(-1, logits.shape[-1])
        # float16 would lose the gradients of easy negatives, which bfloat16 holds
        gradient = torch.empty_like(rows, dtype=computed if logits.dtype == torch.float16 else logits.dtype)
        total = logits.new_zeros((), dtype=computed)
        step = max(1, (LOGITS_AT_ONCE_ON_CPU if logits.device.type == "cpu" else LOGITS_AT_ONCE) // rows.shape[1])
        for start in range(0, len(rows), step):
            loss, slope = _focal_negative(rows[start : start + step].to(computed), gamma, half)
            total += (loss.mul_(weights)).sum()
            torch.mul(slope, weights * (1 - alpha), out=slope)
            gradient[start : start + step] = slope
        chosen = logits[positive].to(computed)
        if class_weights is not None:
            weights = weights[positive[-1]]
        total = (1 - alpha) * (total - (_focal_negative(chosen, gamma, half)[0] * weights).sum())
        # With labels turned round, a positive is a negative of the opposite logit.
        loss, slope = _focal_negative(-chosen, gamma, half)
        gradient = gradient.view(logits.shape)
        gradient[positive] = (-alpha * weights * slope).to(gradient.dtype)
        ctx.save_for_backward(gradient)
        ctx.dtype = logits.dtype
        return total + alpha * (loss * weights).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * factor).to(ctx.dtype), None, None, None, None, None


def _focal_negative(logits: Tensor, gamma: float, half: float) -> tuple[Tensor, Tensor]:
    """Unweighted focal loss of negatives and its derivative, both of the shape of the logits.

    With p the score, the loss is p^gamma (-log(1 - p) - half logit).
    """
    softplus = F.softplus(logits)  # -log(1 - p)
    log_p = logits - softplus
    entropy = softplus.sub_(logits, alpha=half)
    power = torch.exp(gamma * log_p)
    p = log_p.exp_()
    loss = power * entropy
    # power * (gamma * (1 - p) * entropy + p - half)
    slope = entropy.mul_(gamma).mul_(1 - p).add_(p).sub_(half).mul_(power)
    return loss, slope


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


class ClassificationLoss(nn.Module):
    """Logits and targets to the cross-entropy, normalised by the images of the whole batch.

    Args:
        label_smoothing: share of the targets that is spread over all classes.
    """

    names = ("loss",)

    def __init__(self, label_smoothing: float) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor, num_images: int) -> Losses:
        """Loss of a batch or of a part of one, computed in float32.

        Args:
            logits: [B, K], before the softmax.
            targets: [B, K], share of every class in each image, rows summing to 1.
            num_images: images of the whole batch, so that its parts add up to it.
        """
        total = F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing, reduction="sum")
        return {"loss": total / num_images}


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
