"""Matching: which anchor is responsible for which object.

The losses of the matched anchors are in files of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.boxes import pairwise_iou
from effdet.structures import Target

PAIRS_AT_ONCE = 2**24  # (box, anchor) pairs whose IoU is computed at a time
PAIRS_AT_ONCE_ON_CPU = 2**20  # where larger buffers do not fit into the cache and are slower
CLAIM = 2.0  # IoU that a box is given with its best anchor: above every real one


class Assignment(NamedTuple):
    """The positive anchors of a batch; all other anchors are background.

    Attributes:
        image: [P] int64, image of each positive, 0..B-1; -1 in a row of padding, which counts nowhere.
        anchor: [P] int64, its anchor, 0..A-1.
        label: [P] int64, its class.
        box: [P, 4] float32, its box, xyxy in pixels of the network input.
    """

    image: Tensor
    anchor: Tensor
    label: Tensor
    box: Tensor

    @property
    def num_positives(self) -> int:
        """P, without padding."""
        return int((self.image >= 0).sum())

    def padded(self, rows: int) -> Assignment:
        """The same positives with padding up to a number of rows, at least P."""
        missing = rows - len(self.image)
        image, anchor, label = (
            F.pad(values, (0, missing), value=fill) for values, fill in zip(self[:3], (-1, 0, 0), strict=True)
        )
        return Assignment(image, anchor, label, F.pad(self.box, (0, 0, 0, missing)))


def assign(anchors: Tensor, targets: Sequence[Target]) -> Assignment:
    """Matches the anchors [A, 4] with the objects of B images, in the same frame and on the same device."""
    boxes = torch.cat([target.boxes for target in targets])
    labels = torch.cat([target.labels for target in targets])
    counts = torch.tensor([len(target.boxes) for target in targets])
    image = torch.arange(len(targets)).repeat_interleave(counts).to(boxes.device, non_blocking=True)
    positive, box = match_anchors(anchors, boxes, image)
    return Assignment(image[box], positive % len(anchors), labels[box], boxes[box])


def match_anchors(
    anchors: Tensor, boxes: Tensor, image: Tensor | None = None, threshold: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Matches anchors with boxes, in one image or in all images of a batch at once.

    An anchor is matched with the box of highest IoU if that is at least `threshold`. In addition every box claims its
    best anchor whatever the IoU, so that no object is left out; where two boxes claim one anchor, the first has it. No
    anchor is ignored: all others are background. Source: EfficientDet reference, target assignment.

    Args:
        anchors: [A, 4] xyxy.
        boxes: [N, 4] xyxy in the same frame.
        image: [N] int64, the image of each box; None if all are in one.
        threshold: smallest IoU of a match.

    Returns:
        Positive anchors [P] in ascending order, numbered through the images as image * A + anchor, and the index of the
        box of each [P]; both int64.
    """
    step = max(1, (PAIRS_AT_ONCE_ON_CPU if boxes.device.type == "cpu" else PAIRS_AT_ONCE) // len(anchors))
    pairs = []  # the few that overlap enough, or in which the box claims the anchor
    for start in range(0, max(1, len(boxes)), step):
        overlap = pairwise_iou(boxes[start : start + step], anchors)
        best, best_anchor = overlap.max(dim=1, keepdim=True)
        overlap.scatter_(1, best_anchor, torch.where(best > 0, CLAIM, best))
        row, anchor = torch.nonzero(overlap >= threshold).unbind(1)
        pairs.append((row + start, anchor, overlap[row, anchor]))
    box, slot, overlap = map(torch.cat, zip(*pairs, strict=True))
    if image is not None:
        slot = slot + image[box] * len(anchors)
    # Among the pairs of an anchor the highest IoU wins, and the first box among equals.
    positive, group = torch.unique(slot, return_inverse=True)
    best = overlap.new_zeros(len(positive)).scatter_reduce(0, group, overlap, "amax")
    first = torch.where(overlap == best[group], box, len(boxes))
    return positive, torch.full_like(positive, len(boxes)).scatter_reduce(0, group, first, "amin")
