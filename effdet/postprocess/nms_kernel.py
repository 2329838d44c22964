"""Hard and soft NMS of a batch in one Triton kernel, for CUDA.

Import this only where Triton is needed: CUDA builds of PyTorch on Linux bring it. The same in PyTorch operations is
`nms.suppress_by_rounds`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from effdet.postprocess.nms import ROW, lowest_kept
from effdet.types import PostprocessOptions


def suppress_by_kernel(boxes: Tensor, scores: Tensor, labels: Tensor, options: PostprocessOptions) -> Tensor:
    """See `nms.suppress_batch`; a program per image, whose candidates stay in registers."""
    images, count = scores.shape
    rows = boxes.new_full((images, options.max_detections, ROW), -1.0)
    block = max(triton.next_power_of_2(count), 128)
    with torch.cuda.device_of(boxes):
        _suppress[(images,)](
            boxes.contiguous(),
            scores.contiguous(),
            labels.to(torch.int32).contiguous(),
            rows,
            count,
            options.max_detections,
            options.iou_threshold,
            options.soft_sigma,
            lowest_kept(options),
            WITHIN_CLASS=options.nms != "agnostic",
            SOFT=options.nms == "soft",
            BLOCK=block,
            num_warps=min(max(block // 512, 4), 16),
        )
    return rows


@triton.jit
def _suppress(
    boxes,
    scores,
    labels,
    rows,
    count,
    most,
    iou_threshold,
    sigma,
    least,
    WITHIN_CLASS: tl.constexpr,
    SOFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    boxes += image * count * 4
    labels += image * count
    rows += image * most * 6
    index = tl.arange(0, BLOCK)
    inside = index < count
    score = tl.load(scores + image * count + index, mask=inside, other=-1.0)
    label = tl.load(labels + index, mask=inside, other=-1)
    left = tl.load(boxes + index * 4, mask=inside, other=0.0)
    top = tl.load(boxes + index * 4 + 1, mask=inside, other=0.0)
    right = tl.load(boxes + index * 4 + 2, mask=inside, other=0.0)
    bottom = tl.load(boxes + index * 4 + 3, mask=inside, other=0.0)
    area = (right - left) * (bottom - top)
    best, pick = tl.max(score, 0, return_indices=True)  # of equal scores the first
    made = 0
    while (made < most) & (best > least):
        own_left = tl.load(boxes + pick * 4)
        own_top = tl.load(boxes + pick * 4 + 1)
        own_right = tl.load(boxes + pick * 4 + 2)
        own_bottom = tl.load(boxes + pick * 4 + 3)
        own_label = tl.load(labels + pick)
        tl.store(rows, own_left)
        tl.store(rows + 1, own_top)
        tl.store(rows + 2, own_right)
        tl.store(rows + 3, own_bottom)
        tl.store(rows + 4, best)
        tl.store(rows + 5, own_label.to(tl.float32))
        width = tl.maximum(tl.minimum(right, own_right) - tl.maximum(left, own_left), 0.0)
        height = tl.maximum(tl.minimum(bottom, own_bottom) - tl.maximum(top, own_top), 0.0)
        both = width * height
        union = area + (own_right - own_left) * (own_bottom - own_top) - both
        overlap = tl.div_rn(both, tl.maximum(union, 1.1754943508222875e-38))
        if SOFT:
            lowered = score * tl.exp(-overlap * overlap / sigma)
            score = tl.where(label == own_label, lowered, score)
        elif WITHIN_CLASS:
            score = tl.where((overlap > iou_threshold) & (label == own_label), -1.0, score)
        else:
            score = tl.where(overlap > iou_threshold, -1.0, score)
        score = tl.where(index == pick, -1.0, score)
        best, pick = tl.max(score, 0, return_indices=True)
        made += 1
        rows += 6
