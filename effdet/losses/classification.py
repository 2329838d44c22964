"""The classification criterion: cross-entropy of logits and class probabilities, as mixup and CutMix make them."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn


class ClassificationLoss(nn.Module):
    """Cross-entropy, averaged over the images of a batch.

    Args:
        label_smoothing: probability that is spread evenly over all classes.
    """

    names = ("loss",)
    term_weights: Mapping[str, float] = {}  # of the terms of the loss by name: there are none

    def __init__(self, label_smoothing: float = 0.1) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor, normalizer: float | Tensor | None = None) -> dict[str, Tensor]:
        """The loss of B images as {"loss": scalar}, computed in float32.

        Args:
            logits: [B, K], before the softmax.
            targets: [B, K], probability of each class; rows sum to 1.
            normalizer: images of the whole batch, so that the losses of its micro-batches add up to its mean; None
                for B.
        """
        total = F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing, reduction="sum")
        return {"loss": total / (len(logits) if normalizer is None else normalizer)}
