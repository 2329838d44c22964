"""NMS of exported detectors: an operator in PyTorch that becomes ONNX's NonMaxSuppression.

The network around it is in `network.py`, writing the file in `onnx_file.py`.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from effdet.exporting.network import Suppression
from effdet.postprocess import select_rows
from effdet.types import PostprocessOptions


def suppression(num_classes: int) -> Suppression:
    """NMS for a detector of K classes; see `Suppression`. Labels and counts are int32."""
    return partial(_suppress, num_classes)


def _suppress(
    num_classes: int, boxes: Tensor, scores: Tensor, labels: Tensor, options: PostprocessOptions
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    groups, most = num_classes if options.nms == "class" else 1, options.max_detections
    stays = nms_mask(boxes, scores, labels, options.iou_threshold, most, groups)
    count = min(most, scores.shape[1])
    best, rows = (scores * stays).topk(count, dim=1)  # of equal scores, the candidate that comes first
    valid = best > 0
    boxes = select_rows(boxes, rows) * valid[:, :, None]
    labels = labels.gather(1, rows).to(torch.int32) * valid
    if count < most:
        boxes, best, labels = (
            F.pad(boxes, (0, 0, 0, most - count)),
            F.pad(best, (0, most - count)),
            F.pad(labels, (0, most - count)),
        )
    return boxes, best, labels, valid.sum(1).to(torch.int32)


@torch.library.custom_op("effdet::nms_mask", mutates_args=())
def nms_mask(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int, num_groups: int
) -> Tensor:
    """Which candidates hard NMS selects: 1 or 0, [B, M] float32.

    Args:
        boxes: [B, M, 4] xyxy.
        scores: [B, M] sorted in descending order; candidates with the score 0 are never selected.
        labels: [B, M] in 0..K-1.
        iou_threshold: IoU above which the box of the lower score is dropped.
        max_detections: candidates selected per image, or more: at most this number of each class.
        num_groups: K to suppress within classes, 1 to suppress boxes of any class.
    """
    mask = torch.zeros_like(scores)
    for row, image_boxes, image_scores, image_labels in zip(mask, boxes.double(), scores, labels, strict=True):
        valid = int((image_scores > 0).sum())
        if num_groups > 1 and valid:  # boxes of different classes are moved far apart
            extent = image_boxes.max() - image_boxes.min() + 1
            image_boxes = image_boxes + (image_labels * extent)[:, None]
        kept = torchvision_nms(image_boxes[:valid], image_scores[:valid].double(), iou_threshold)
        row[kept[:max_detections]] = 1
    return mask


@nms_mask.register_fake
def _(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int, num_groups: int
) -> Tensor:
    return torch.empty_like(scores)


def translations() -> dict[Any, Any]:
    """How torch's exporter writes the operator of this module in ONNX operators; needs onnxscript.

    NonMaxSuppression suppresses within the rows of its scores [B, K, M]. A candidate has its score in the row of its
    label and 0 in the others. So boxes stay as they are, and no precision is lost.
    """
    from onnxscript import opset18

    op: Any = opset18  # its annotations do not fit constants

    def nms_mask_in_onnx(
        boxes: Any, scores: Any, labels: Any, iou_threshold: float, max_detections: int, num_groups: int
    ) -> Any:
        axis = op.Constant(value_ints=[1])
        rows = op.Unsqueeze(scores, axis)
        if num_groups > 1:
            groups = op.Constant(value=_column(num_groups))
            rows = op.Where(op.Equal(op.Unsqueeze(labels, axis), groups), rows, op.Constant(value_float=0.0))
        selected = op.NonMaxSuppression(
            boxes,
            rows,
            op.Constant(value_ints=[max_detections]),
            op.Constant(value_floats=[iou_threshold]),
            op.Constant(value_floats=[0.0]),
        )  # rows of (image, group, candidate)
        positions = op.Gather(selected, op.Constant(value_ints=[0, 2]), axis=1)
        number = op.Shape(selected, start=0, end=1)
        ones = op.Expand(op.Constant(value_float=1.0), number)
        return op.ScatterND(op.Mul(scores, op.Constant(value_float=0.0)), positions, ones)

    return {torch.ops.effdet.nms_mask.default: nms_mask_in_onnx}


def _column(count: int) -> Any:
    """The numbers below `count`, [1, count, 1], as a constant of ONNX."""
    import onnx

    return onnx.helper.make_tensor("groups", onnx.TensorProto.INT64, [1, count, 1], list(range(count)))
