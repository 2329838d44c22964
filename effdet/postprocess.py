"""From raw outputs to results: detections by threshold, decoding and NMS; the most probable classes by softmax.

Boxes stay in pixels of the network input and are not clipped to it. `data/images.py` maps them to the original image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from effdet.boxes import decode_boxes, pairwise_iou
from effdet.errors import NotFiniteError
from effdet.structures import Classification, Detections, Outputs
from effdet.types import PostprocessOptions


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


@torch.no_grad()
def postprocess(outputs: Outputs, options: PostprocessOptions = PostprocessOptions()) -> list[Detections]:
    """The detections of each image of a batch: B entries in host memory, sorted by descending score.

    Args:
        outputs: raw outputs of the model, of any float type.
        options: thresholds and NMS. After soft-NMS a lowered score must still exceed the score threshold.

    Returns:
        Detections with boxes xyxy in pixels of the network input.

    Raises:
        NotFiniteError: the outputs for an image are NaN or Inf.

    Source: EfficientDet reference, post-processing; Soft-NMS (arXiv:1704.04503), equation 3.
    """
    _check_finite(outputs.box_deltas.flatten(1).sum(1))
    return [
        _suppressed(candidates, options).cpu()
        for candidates in select_candidates(outputs, options.score_threshold, options.max_candidates)
    ]


@torch.no_grad()
def postprocess_boxes(class_logits: Tensor, boxes: Tensor, options: PostprocessOptions) -> list[Detections]:
    """The same as `postprocess`, of boxes that are decoded already.

    Args:
        class_logits: [B, A, K].
        boxes: [B, A, 4] xyxy in pixels of the network input.
        options: thresholds and NMS.
    """
    _check_finite(boxes.flatten(1).sum(1))
    threshold, most = options.score_threshold, options.max_candidates
    results = []
    for image, (values, anchor, label) in enumerate(_best_pairs(class_logits, threshold, most)):
        candidates = Candidates(boxes[image, anchor].float(), values.sigmoid(), label)
        results.append(_suppressed(candidates, options).cpu())
    return results


def select_candidates(outputs: Outputs, score_threshold: float, max_candidates: int) -> list[Candidates]:
    """The (anchor, class) pairs of each image with the highest scores, of those at or above the threshold: B entries.

    Raises:
        NotFiniteError: the logits of an image are NaN or Inf.
    """
    pairs = _best_pairs(outputs.class_logits, score_threshold, max_candidates)
    return [
        Candidates(decode_boxes(deltas[anchor], outputs.anchors[anchor]), values.sigmoid(), label)
        for deltas, (values, anchor, label) in zip(outputs.box_deltas, pairs, strict=True)
    ]


def _best_pairs(
    class_logits: Tensor, score_threshold: float, max_candidates: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Logit [M], anchor [M] and label [M] of the best pairs of each image, sorted by descending logit.

    Logits are compared with the logit of the threshold. They are traversed once, for the best logit of every anchor:
    the best pairs are among the anchors whose best logits are highest. Only these few rows are looked at again.
    """
    threshold, num_classes = logit(score_threshold), class_logits.shape[-1]
    best = class_logits.amax(2)
    _check_finite(best.sum(1))
    pairs = []
    for logits, highest in zip(class_logits, best, strict=True):
        anchors = torch.nonzero(highest >= threshold).squeeze(1)
        least = threshold
        if len(anchors) > max_candidates:
            highest, order = highest[anchors].topk(max_candidates, sorted=False)
            anchors, least = anchors[order], highest.min()
        rows = logits[anchors].flatten()
        passing = torch.nonzero(rows >= least).squeeze(1)
        values, order = rows[passing].float().topk(min(max_candidates, len(passing)))
        chosen = passing[order]
        pairs.append((values, anchors[chosen // num_classes], chosen % num_classes))
    return pairs


def _suppressed(candidates: Candidates, options: PostprocessOptions) -> Detections:
    """The candidates of an image that NMS keeps."""
    if options.nms == "soft":
        return soft_nms(candidates, options.soft_sigma, options.score_threshold, options.max_detections)
    return hard_nms(candidates, options.iou_threshold, options.max_detections, within_class=options.nms == "class")


def _check_finite(sums: Tensor) -> None:
    """Raises NotFiniteError if the sum of an image, [B] sums, is NaN or Inf."""
    finite = sums.isfinite()
    if not finite.all():
        raise NotFiniteError(int(finite.int().argmin()))


def best_pairs(class_logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The (anchor, class) pairs with the highest logits, in shapes that do not depend on the values.

    Args:
        class_logits: [B, A, K].
        count: number of pairs per image, at most A * K.

    Returns:
        Logit, anchor and label of each pair, [B, count], sorted by descending logit.
    """
    num_anchors, num_classes = class_logits.shape[1:]
    anchors = class_logits.amax(2).topk(min(count, num_anchors), dim=1, sorted=False).indices
    rows = class_logits.gather(1, anchors[:, :, None].expand(-1, -1, num_classes)).flatten(1)
    values, pairs = rows.topk(count, dim=1)
    return values, anchors.gather(1, pairs // num_classes), pairs % num_classes


def hard_nms(
    candidates: Candidates, iou_threshold: float, max_detections: int, within_class: bool = True
) -> Detections:
    """Greedy NMS: the box of the highest score stays and suppresses boxes whose IoU with it is above the threshold.

    Only boxes of higher scores can suppress a box. So NMS runs over the first few hundred candidates, and over more
    only while fewer than `max_detections` stay; the result is the same as over all candidates.

    Args:
        candidates: of one image.
        iou_threshold: IoU in 0..1 above which the box of the lower score is dropped.
        max_detections: number of detections after which NMS stops.
        within_class: whether boxes suppress only boxes of their own class.
    """
    # Boxes of different classes are moved far apart so that they do not overlap, in float64 to lose no precision.
    precise = torch.float32 if candidates.boxes.device.type == "mps" else torch.float64  # Apple GPUs have no float64
    boxes = candidates.boxes.to(precise)
    if within_class and len(boxes):
        boxes = boxes + (candidates.labels * (boxes.max() - boxes.min() + 1))[:, None]
    tried, keep = 0, candidates.labels[:0]
    while tried < len(boxes) and len(keep) < max_detections:
        tried = min(len(boxes), max(4 * tried, 4 * max_detections))
        keep = torchvision_nms(boxes[:tried], candidates.scores[:tried].to(precise), iou_threshold)
    keep = keep[:max_detections]
    return Detections(candidates.boxes[keep], candidates.scores[keep], candidates.labels[keep])


def soft_nms(candidates: Candidates, sigma: float, score_threshold: float, max_detections: int) -> Detections:
    """Gaussian soft-NMS within classes: each box lowers the scores of boxes that overlap it instead of dropping them.

    Every round selects the highest score left, so the rounds run one after the other, one per detection.

    Args:
        candidates: of one image.
        sigma: width of the Gaussian exp(-IoU^2 / sigma), by which scores are multiplied.
        score_threshold: detections whose final score does not exceed it are dropped.
        max_detections: most rounds.
    """
    boxes, labels, scores = candidates.boxes, candidates.labels, candidates.scores.clone()
    picks, kept_scores = [], []
    for _ in range(min(max_detections, len(scores))):
        score, pick = scores.max(dim=0)
        picks.append(pick)
        kept_scores.append(score)
        overlap = pairwise_iou(boxes[pick][None], boxes)[0] * (labels == labels[pick])
        scores = scores * torch.exp(-overlap.square() / sigma)
        scores[pick] = -1.0
    if not picks:
        return Detections(boxes, scores, labels)
    final, order = torch.stack(kept_scores), torch.stack(picks)
    valid = final > score_threshold
    order = order[valid]
    return Detections(boxes[order], final[valid], labels[order])


def classify(logits: Tensor, top: int = 5) -> list[Classification]:
    """The most probable classes of each image of a batch: logits [B, K] -> B entries of min(top, K) classes."""
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


def logit(score: float) -> float:
    """The logit of a score; minus infinity for 0 and infinity for 1."""
    if score <= 0 or score >= 1:
        return -math.inf if score <= 0 else math.inf
    return math.log(score / (1 - score))
