"""Matching: which anchor answers for which object. Losses over the matched anchors are in `detection.py`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from effdet.boxes import pairwise_iou

PAIRS_AT_ONCE = 2**24  # of boxes and anchors whose overlaps are computed in one go
PAIRS_AT_ONCE_ON_CPU = 2**20  # where larger buffers are slower, since no cache holds them
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
