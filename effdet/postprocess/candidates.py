"""The (anchor, class) pairs with the highest scores, which enter NMS.

NMS itself is in `nms.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from effdet.errors import NotFiniteError

# Measured in ONNX Runtime, OpenVINO and PyTorch on the CPU. Up to FEW_PAIRS per wanted pair, one search among all pairs
# is fastest. Groups are worth their overhead where they compare FEWER times fewer values.
FEW_PAIRS, FEWER = 24, 3


class Candidates(NamedTuple):
    """Decoded (anchor, class) pairs of one image, sorted by descending score.

    Attributes:
        boxes: [M, 4] float32, xyxy in pixels of the network input.
        scores: [M] float32, confidence in 0..1.
        labels: [M] int64 in 0..K-1.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor


def best_candidates(
    class_logits: Tensor, best: Tensor, boxes_of: Callable[[Tensor], Tensor], score_threshold: float, count: int
) -> Candidates:
    """The pairs of one image with the highest scores, of those at or above the threshold.

    Args:
        class_logits: [A, K].
        best: [A], the best logit of each anchor.
        boxes_of: gives the decoded boxes [M, 4] of anchors [M].
        score_threshold: lowest score of a pair, 0..1.
        count: most pairs.
    """
    values, anchor, label = pairs_above(class_logits, best, logit(score_threshold), count)
    return Candidates(boxes_of(anchor), values.sigmoid(), label)


def checked_best(class_logits: Tensor, boxes: Tensor) -> Tensor:
    """The best logit of every anchor: [B, A].

    Args:
        class_logits: [B, A, K].
        boxes: [B, A, 4], boxes or deltas.

    Raises:
        NotFiniteError: a value for an image is NaN or Inf.
    """
    best = class_logits.amax(2)
    check_finite(finite_sums(best) + finite_sums(boxes))
    return best


def pairs_above(class_logits: Tensor, best: Tensor, threshold: float, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best pairs of one image: logit [M] float32, anchor [M] and label [M], sorted by descending logit.

    They are among the anchors whose best logits are highest. Only the logits of these are looked at.

    Args:
        class_logits: [A, K].
        best: [A], the best logit of each anchor.
        threshold: lowest logit of a pair.
        count: most pairs.
    """
    num_classes = class_logits.shape[1]
    highest, anchors = best.topk(min(count, len(best)), sorted=False)
    rows = class_logits[anchors].flatten().float()
    if len(highest) == count:  # so many pairs are at least as good as the worst of these anchors
        threshold = max(threshold, float(highest.min()))
    passing = torch.nonzero(rows >= threshold).squeeze(1)
    values, order = rows[passing].topk(min(count, len(passing)))
    chosen = passing[order]
    return values, anchors[chosen // num_classes], chosen % num_classes


def best_pairs(
    class_logits: Tensor, count: int, best: Tensor | None = None, sort: bool = True, in_groups: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The (anchor, class) pairs with the highest logits, in shapes that do not depend on the values.

    They are among the anchors whose best logits are highest.

    Args:
        class_logits: [B, A, K].
        count: number of pairs per image, at most A * K.
        best: [B, A], the best logit of each anchor, if it is known already.
        sort: whether the pairs are sorted by descending logit.
        in_groups: whether many classes are searched in groups. That is faster in PyTorch and ONNX Runtime on the CPU,
            and slower in OpenVINO.

    Returns:
        Logit, anchor and label of each pair, [B, count].
    """
    num_anchors, num_classes = class_logits.shape[1:]
    if num_anchors * num_classes <= FEW_PAIRS * count:
        values, pairs = class_logits.flatten(1).topk(count, dim=1, sorted=sort)
        return values, pairs // num_classes, pairs % num_classes
    best = class_logits.amax(2) if best is None else best
    anchors = best.topk(min(count, num_anchors), dim=1, sorted=False).indices
    rows = select_rows(class_logits, anchors).flatten(1)
    size = group_size(rows.shape[1], count) if in_groups else 1
    values, pairs = grouped_topk(rows, count, size, sort) if size > 1 else rows.topk(count, dim=1, sorted=sort)
    return values, anchors.gather(1, pairs // num_classes), pairs % num_classes


def grouped_topk(values: Tensor, count: int, size: int, sort: bool) -> tuple[Tensor, Tensor]:
    """The highest values of each image and their positions, [B, count] each, from values [B, N].

    The values are split into groups of one size that divides N. The highest values are in the `count` groups whose
    maxima are highest.
    """
    groups = values.reshape(values.shape[0], -1, size)
    chosen = groups.amax(2).topk(count, dim=1, sorted=False).indices
    highest, within = select_rows(groups, chosen).flatten(1).topk(count, dim=1, sorted=sort)
    return highest, chosen.gather(1, within // size) * size + within % size


def group_size(number: int, count: int) -> int:
    """The size of groups with which `grouped_topk` compares fewest values; 1 if that is not much fewer than all.

    Args:
        number: number N of values.
        count: how many of them are searched.
    """

    def compared(size: int) -> int:
        return number // size + count * size

    best = min((size for size in range(1, math.isqrt(number) + 1) if number % size == 0), key=compared)
    return best if compared(best) * FEWER <= number else 1


def select_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Rows of each image: values [B, A, C] and rows [B, M] -> [B, M, C].

    Exported files copy whole rows, which `torch.gather` would read value by value.
    """
    first = torch.arange(values.shape[0], device=rows.device)[:, None] * values.shape[1]
    selected = values.flatten(0, 1).index_select(0, (rows + first).flatten())
    return selected.reshape(rows.shape[0], rows.shape[1], values.shape[2])


def finite_sums(values: Tensor) -> Tensor:
    """The sum of each image's values [B, ...], NaN or Inf if one of them is: [B] float32."""
    return values.flatten(1).sum(1, dtype=torch.float32)  # in float16 finite values would have infinite sums


def check_finite(sums: Tensor) -> None:
    """Raises NotFiniteError if a sum of `finite_sums`, [B], is NaN or Inf."""
    finite = sums.isfinite()
    if not finite.all():
        raise NotFiniteError(int(finite.int().argmin()))


def logit(score: float) -> float:
    """The logit of a score; minus infinity for 0 and infinity for 1."""
    if score <= 0 or score >= 1:
        return -math.inf if score <= 0 else math.inf
    return math.log(score / (1 - score))
