"""From raw outputs to detections: threshold, best candidates, decoding, NMS; and to classes.

Boxes stay in the frame of the network input, not clipped to it; undoing the letterbox, which clips them to the original
image, is the work of `data/images.py`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from effdet.boxes import decode_boxes, pairwise_iou
from effdet.structures import Classification, Detections, Outputs
from effdet.types import NmsMethod


class Candidates(NamedTuple):
    """Decoded (anchor, class) pairs of one image by falling score: boxes [M, 4], scores [M], labels [M]."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor


@torch.no_grad()
def postprocess(
    outputs: Outputs,
    *,
    score_threshold: float = 0.001,
    nms: NmsMethod = "class",
    iou_threshold: float = 0.5,
    soft_sigma: float = 0.5,
    max_candidates: int = 5000,
    max_detections: int = 100,
) -> list[Detections]:
    """Detections of each image of a batch, B entries, boxes xyxy in pixels of the network input.

    Args:
        outputs: of the network.
        score_threshold: smallest score of a candidate; after soft NMS scores must still exceed it.
        nms: 'class' lets a box suppress boxes of its class, 'agnostic' of any class, and 'soft' lowers scores
            of its class by a Gaussian of the overlap instead of dropping boxes.
        iou_threshold: overlap from which hard NMS drops the lower score.
        soft_sigma: width of the Gaussian of soft NMS.
        max_candidates: best (anchor, class) pairs of an image that are decoded and enter NMS.
        max_detections: most detections of an image.

    Source: EfficientDet reference, post-processing; Soft-NMS (arXiv:1704.04503), equation 3.
    """
    detections = []
    for candidates in select_candidates(outputs, score_threshold, max_candidates):
        if nms == "soft":
            detections.append(soft_nms(candidates, soft_sigma, score_threshold, max_detections))
        else:
            detections.append(hard_nms(candidates, iou_threshold, max_detections, within_class=nms == "class"))
    return detections


def select_candidates(outputs: Outputs, score_threshold: float, max_candidates: int) -> list[Candidates]:
    """The best pairs of each image whose score reaches the threshold.

    Logits are compared with the threshold's logit, so that sigmoid, sorting and decoding touch the survivors alone.
    """
    num_classes = outputs.class_logits.shape[-1]
    threshold = _logit(score_threshold)
    chosen = []
    for logits, deltas in zip(outputs.class_logits.flatten(1), outputs.box_deltas, strict=True):
        survivors = torch.nonzero(logits >= threshold).squeeze(1)
        values = logits[survivors].float()
        values, order = values.topk(min(max_candidates, len(values)))  # falling
        pairs = survivors[order]
        anchor = pairs // num_classes
        boxes = decode_boxes(deltas[anchor], outputs.anchors[anchor])
        chosen.append(Candidates(boxes, values.sigmoid(), pairs % num_classes))
    return chosen


def hard_nms(
    candidates: Candidates, iou_threshold: float, max_detections: int, within_class: bool = True
) -> Detections:
    """Greedy NMS: the best box stays and drops what overlaps it by more than the threshold.

    What becomes of a candidate depends on better ones alone, so the best few are tried first and more only while fewer
    than `max_detections` are kept: the result is that of all candidates, mostly at the price of a few hundred.
    """
    # Classes are told apart by moving their boxes far from each other; in float64, where that costs no precision.
    precise = torch.float32 if candidates.boxes.device.type == "mps" else torch.float64  # Apple's GPUs have no float64
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
    """Gaussian NMS within classes: each pick lowers the scores of what overlaps it.

    Picks follow one another by definition, so there is one round per detection kept, each over all candidates at once.
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
    """The most probable classes of each image of a batch: [B, K] -> B entries of min(top, K) classes."""
    scores, labels = rank_classes(logits, top)
    return [Classification(*row) for row in zip(scores, labels, strict=True)]


@torch.no_grad()
def rank_classes(logits: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Probabilities and labels of the best classes by falling logit: [B, K] -> two of [B, min(top, K)].

    Softmax is over all K classes, in float32; of classes with equal logits the lower label comes first.
    """
    logits = logits.float()
    labels = logits.argsort(dim=1, descending=True, stable=True)[:, :top]  # topk breaks ties as it likes
    return logits.softmax(dim=1).gather(1, labels), labels


def _logit(score: float) -> float:
    """The logit of a score; minus infinity for 0 and infinity for 1."""
    if score <= 0 or score >= 1:
        return -math.inf if score <= 0 else math.inf
    return math.log(score / (1 - score))
