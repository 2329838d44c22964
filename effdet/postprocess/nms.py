"""Hard NMS and Gaussian soft-NMS.

For one image at a time `hard_nms` and `soft_nms` choose their shapes by the values. For a batch on a GPU
`suppress_batch` has fixed shapes and never waits for the GPU.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from effdet.boxes import pairwise_iou
from effdet.devices import kernel_works
from effdet.postprocess.candidates import Candidates
from effdet.structures import Detections
from effdet.types import PostprocessOptions

ROW = 6  # values of a detection: box, score, label
MOST_IN_KERNEL = 16384  # candidates that fit into the registers of one multiprocessor


def hard_nms(
    candidates: Candidates, iou_threshold: float, max_detections: int, within_class: bool = True
) -> Detections:
    """Greedy NMS: the box of the highest score stays and suppresses boxes whose IoU with it is above the threshold.

    Only boxes of higher scores can suppress a box. So NMS runs over the first few hundred candidates, and over those
    after them only while fewer than `max_detections` stay; the result is the same as over all candidates.

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
        low, high = boxes.aminmax()
        boxes = boxes + (candidates.labels * (high - low + 1))[:, None]
    scores = candidates.scores.to(precise)
    tried, keep = 0, candidates.labels[:0]
    while tried < len(boxes) and len(keep) < max_detections:
        until = min(len(boxes), max(2 * tried, 4 * max_detections))
        left = torch.arange(tried, until, device=boxes.device)
        if tried:
            left = left[pairwise_iou(boxes[keep], boxes[left]).amax(0) <= iou_threshold]
        keep = torch.cat([keep, left[torchvision_nms(boxes[left], scores[left], iou_threshold)]])
        tried = until
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


def suppress_batch(boxes: Tensor, scores: Tensor, labels: Tensor, options: PostprocessOptions) -> Tensor:
    """NMS of a batch in shapes that do not depend on the values, so that a CUDA graph can hold it.

    Args:
        boxes: [B, N, 4] float32 xyxy in pixels.
        scores: [B, N] float32 in any order; below 0 for what is no candidate.
        labels: [B, N] int64.
        options: IoU threshold, kind of NMS, sigma and number of detections.

    Returns:
        [B, max_detections, 6] float32: box, score and label of each detection, sorted by descending score. The labels
        of unused rows are -1.
    """
    if boxes.shape[1] <= MOST_IN_KERNEL and _has_kernel(boxes.device):
        from effdet.postprocess.nms_kernel import suppress_by_kernel

        return suppress_by_kernel(boxes, scores, labels, options)
    return suppress_by_rounds(boxes, scores, labels, options)


def suppress_by_rounds(boxes: Tensor, scores: Tensor, labels: Tensor, options: PostprocessOptions) -> Tensor:
    """The same as `suppress_batch` in PyTorch operations: a round per detection, over all candidates."""
    soft, least = options.nms == "soft", lowest_kept(options)
    rows = []
    for _ in range(options.max_detections):
        score, pick = scores.max(1, keepdim=True)  # [B, 1] each
        box, label = boxes.gather(1, pick[:, :, None].expand(-1, -1, 4)), labels.gather(1, pick)
        overlap = pairwise_iou(box, boxes)[:, 0]
        concerned = labels == label if options.nms != "agnostic" else torch.ones_like(labels, dtype=torch.bool)
        if soft:
            scores = torch.where(concerned, scores * torch.exp(-overlap.square() / options.soft_sigma), scores)
        else:
            scores = scores.masked_fill(concerned & (overlap > options.iou_threshold), -1.0)
        scores = scores.scatter(1, pick, -1.0)
        row = torch.cat([box[:, 0], score, label.float()], 1)
        rows.append(row.masked_fill(score <= least, -1.0))
    return torch.stack(rows, 1) if rows else boxes.new_empty(len(boxes), 0, ROW)


def lowest_kept(options: PostprocessOptions) -> float:
    """The score that a detection must exceed: after soft-NMS the threshold, else that of what is no candidate."""
    return options.score_threshold if options.nms == "soft" else -1.0


@functools.cache
def _has_kernel(device: torch.device) -> bool:
    """Whether the kernel of `nms_kernel.py` runs on a device; if not on a GPU, a warning says so once."""
    if device.type != "cuda":
        return False

    def launch() -> None:
        from effdet.postprocess.nms_kernel import suppress_by_kernel

        box, score = torch.zeros(1, 1, 4, device=device), torch.ones(1, 1, device=device)
        suppress_by_kernel(box, score, torch.zeros(1, 1, dtype=torch.long, device=device), PostprocessOptions()).cpu()

    return kernel_works("NMS", launch)
