"""The most probable classes of images by softmax.

Detections are in `detections.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effdet.postprocess.candidates import check_finite, finite_sums
from effdet.structures import Classification


def classify(logits: Tensor, top: int = 5) -> list[Classification]:
    """The most probable classes of each image of a batch: logits [B, K] -> B entries of min(top, K) classes.

    Raises:
        NotFiniteError: the logits of an image are NaN or Inf.
    """
    check_finite(finite_sums(logits))
    scores, labels = rank_classes(logits, top)
    return [Classification(*row) for row in zip(scores, labels, strict=True)]


@torch.no_grad()
def rank_classes(logits: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of the best classes, sorted by descending logit: [B, K] -> two of [B, min(top, K)].

    Softmax is over all K classes, in float32. Of classes with equal logits the lower label comes first.
    """
    logits = logits.float()
    labels = logits.argsort(dim=1, descending=True, stable=True)[:, :top]  # topk breaks ties arbitrarily
    return logits.softmax(dim=1).gather(1, labels), labels
