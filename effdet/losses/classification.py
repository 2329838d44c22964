"""The classification criterion: cross-entropy of logits and soft targets."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from effdet.losses.detection import Losses


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
