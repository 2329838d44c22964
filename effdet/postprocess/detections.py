"""Detections of the raw outputs of a batch: candidates, NMS, and results in host memory.

Its steps are in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from effdet.boxes import decode_boxes
from effdet.postprocess.candidates import Candidates, best_candidates, checked_best
from effdet.postprocess.nms import hard_nms, soft_nms
from effdet.postprocess.packed import pack_detections, unpack_detections
from effdet.structures import Detections, Outputs
from effdet.types import PostprocessOptions

FIRST_PER_DETECTION = 4  # candidates that hard NMS tries first, per detection wanted


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
    if outputs.class_logits.is_cuda:
        return unpack_detections(pack_detections(outputs, options))
    logits, deltas, anchors = outputs
    best = checked_best(logits, deltas)

    def decoded(image: int, anchor: Tensor) -> Tensor:
        return decode_boxes(deltas[image, anchor], anchors[anchor])

    return [
        _detections(partial(best_candidates, *rows, partial(decoded, image), options.score_threshold), options)
        for image, rows in enumerate(zip(logits, best, strict=True))
    ]


@torch.no_grad()
def postprocess_boxes(class_logits: Tensor, boxes: Tensor, options: PostprocessOptions) -> list[Detections]:
    """The same as `postprocess`, of boxes that are decoded already.

    Args:
        class_logits: [B, A, K].
        boxes: [B, A, 4] xyxy in pixels of the network input.
        options: thresholds and NMS.
    """
    best = checked_best(class_logits, boxes)

    def selected(image: int, anchor: Tensor) -> Tensor:
        return boxes[image, anchor].float()

    return [
        _detections(partial(best_candidates, *rows, partial(selected, image), options.score_threshold), options)
        for image, rows in enumerate(zip(class_logits, best, strict=True))
    ]


def _detections(candidates: Callable[[int], Candidates], options: PostprocessOptions) -> Detections:
    """The candidates of an image that NMS keeps.

    Hard NMS needs only the best candidates: those of lower scores suppress none of them. So it tries a few first.

    Args:
        candidates: gives the best of them, at most a number.
        options: thresholds and NMS.
    """
    most, kept = options.max_candidates, options.max_detections
    if options.nms == "soft":
        return soft_nms(candidates(most), options.soft_sigma, options.score_threshold, kept).cpu()
    few = min(FIRST_PER_DETECTION * kept, most)
    for count in sorted({few, most}):
        chosen = candidates(count)
        result = hard_nms(chosen, options.iou_threshold, kept, within_class=options.nms == "class")
        if len(result) == kept or len(chosen.scores) < count:
            break
    return result.cpu()
