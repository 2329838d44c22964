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
    """The detections of each image of a batch: B entries, sorted by descending score.

    Args:
        outputs: raw outputs of the model, of any float type.
        options: thresholds and NMS. After soft-NMS a lowered score must still exceed the score threshold.

    Returns:
        Detections with boxes xyxy in pixels of the network input, on the device of the outputs.

    Source: EfficientDet reference, post-processing; Soft-NMS (arXiv:1704.04503), equation 3.
    """
    threshold, most = options.score_threshold, options.max_detections
    detections = []
    for candidates in select_candidates(outputs, threshold, options.max_candidates):
        if options.nms == "soft":
            detections.append(soft_nms(candidates, options.soft_sigma, threshold, most))
        else:
            detections.append(hard_nms(candidates, options.iou_threshold, most, within_class=options.nms == "class"))
    return detections


def select_candidates(outputs: Outputs, score_threshold: float, max_candidates: int) -> list[Candidates]:
    """The (anchor, class) pairs of each image with the highest scores, of those at or above the threshold: B entries.

    Logits are compared with the logit of the threshold, so that only the pairs that pass need sigmoid, sorting and
    decoding.
    """
    num_classes = outputs.class_logits.shape[-1]
    threshold = _logit(score_threshold)
    candidates = []
    for logits, deltas in zip(outputs.class_logits.flatten(1), outputs.box_deltas, strict=True):
        passing = torch.nonzero(logits >= threshold).squeeze(1)
        values = logits[passing].float()
        values, order = values.topk(min(max_candidates, len(values)))  # sorted in descending order
        pairs = passing[order]
        anchor = pairs // num_classes
        boxes = decode_boxes(deltas[anchor], outputs.anchors[anchor])
        candidates.append(Candidates(boxes, values.sigmoid(), pairs % num_classes))
    return candidates


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


def _logit(score: float) -> float:
    """The logit of a score; minus infinity for 0 and infinity for 1."""
    if score <= 0 or score >= 1:
        return -math.inf if score <= 0 else math.inf
    return math.log(score / (1 - score))
