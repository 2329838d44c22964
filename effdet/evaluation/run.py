"""Running a detector over a data set and handing its detections to the evaluator.

The metrics themselves are in `coco.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from effdet.data.annotations import Annotations
from effdet.data.dataset import DetectionDataset
from effdet.data.images import undo_letterbox
from effdet.data.loader import evaluation_batches
from effdet.evaluation.coco import CocoEvaluator
from effdet.models import EfficientDet
from effdet.postprocess import postprocess


@torch.inference_mode()
def evaluate(
    model: EfficientDet, annotations: Annotations, options: dict[str, Any], batch_size: int, workers: int
) -> CocoEvaluator:
    """An evaluator with the detections of all images, boxes in pixels of the original images.

    The network computes in float32 whatever it was trained in, so that its numbers are the same everywhere.

    Args:
        model: the detector; it is put into evaluation mode.
        annotations: the images and their objects, with the labels of the model.
        options: keyword arguments of `postprocess`.
        batch_size: images per forward pass.
        workers: processes that load images.

    Raises:
        DataError: an image cannot be read.
    """
    model.eval()
    evaluator = CocoEvaluator(annotations)
    dataset = DetectionDataset(annotations, model.image_size, model.fill_color, augment=None, seed=0)
    for batch in evaluation_batches(dataset, batch_size, workers, pin_memory=model.anchors.is_cuda):
        outputs = model(batch.images.to(model.anchors.device, non_blocking=True))
        for target, detections in zip(batch.targets, postprocess(outputs, **options), strict=True):
            boxes = undo_letterbox(detections.boxes, target.scale, target.size)
            evaluator.add(target.index, replace(detections, boxes=boxes))
    return evaluator
