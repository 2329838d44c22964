"""Post-processing of a batch in shapes that do not depend on the values, into one tensor.

A CUDA graph can hold it, and one copy brings the results of the batch to the host. `detections.py` chooses between it
and the way of the CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effdet.boxes import decode_boxes
from effdet.postprocess.candidates import best_pairs, check_finite, finite_sums, logit
from effdet.postprocess.nms import ROW, suppress_batch
from effdet.structures import Detections, Outputs
from effdet.types import PostprocessOptions


@torch.no_grad()
def pack_detections(outputs: Outputs, options: PostprocessOptions) -> Tensor:
    """The detections of B images as one tensor on their device, without waiting for it.

    Returns:
        [B, max_detections * 6 + 1] float32: the rows of `nms.suppress_batch`, and a last value that is NaN or Inf if
        outputs for the image are.
    """
    logits = outputs.class_logits
    best = logits.amax(2)
    count = min(options.max_candidates, logits[0].numel())
    values, anchor, label = best_pairs(logits, count, best, sort=False)
    deltas = outputs.box_deltas.gather(1, anchor[:, :, None].expand(-1, -1, 4))
    boxes = decode_boxes(deltas, outputs.anchors[anchor])
    values = values.float()
    scores = values.sigmoid().masked_fill(values < logit(options.score_threshold), -1.0)
    rows = suppress_batch(boxes, scores, label, options)
    sums = finite_sums(best) + finite_sums(outputs.box_deltas)
    return torch.cat([rows.flatten(1), sums[:, None]], 1)


def unpack_detections(packed: Tensor) -> list[Detections]:
    """The detections of each image, in host memory, of the result of `pack_detections`: B entries.

    Raises:
        NotFiniteError: the outputs for an image are NaN or Inf.
    """
    packed = packed.cpu()
    check_finite(packed[:, -1])
    rows = packed[:, :-1].reshape(len(packed), -1, ROW)
    counts = (rows[:, :, 5] >= 0).sum(1).tolist()
    return [
        Detections(found[:, :4].clone(), found[:, 4].clone(), found[:, 5].long())
        for found in (image[:count] for image, count in zip(rows, counts, strict=True))
    ]
