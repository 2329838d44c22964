"""Small types that several modules share: names such as tasks and precisions, and options with their defaults.

Nothing here needs torch. Containers of tensors are in `structures.py`; types that one module alone uses stay there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Task = Literal["detection", "classification"]
Part = Literal["train", "val"]  # of a data set
Precision = Literal["auto", "fp32", "bf16", "fp16"]
BatchNormMode = Literal["auto", "batch", "sync", "frozen"]
NmsMethod = Literal["class", "agnostic", "soft"]
IouKind = Literal["iou", "giou", "diou", "ciou"]
Padding = Literal["same", "symmetric"]  # of strided convolutions: as in TensorFlow, or as in PyTorch
Letterbox = Literal["pad", "stretch"]  # into a detector's input: with padding and the aspect kept, or filling it
Interpolation = Literal["bilinear", "bicubic"]
StoredPrecision = Literal["float32", "float16", "dynamic-int8", "int8"]  # of an exported file
ExportFormat = Literal["onnx", "openvino", "litert", "torch"]

# The outputs of an exported file:
#   detections  boxes [B, M, 4] xyxy in pixels of the input, scores [B, M], labels [B, M], counts [B]; NMS is inside
#   raw         class_logits [B, A, K], boxes [B, A, 4] xyxy in pixels of the input; without NMS
#   logits      logits [B, K] of a classifier
#   features    c3, c4, c5 of a backbone
#   coral       the four outputs of TFLite_Detection_PostProcess, as Coral and Frigate expect them
#   mediapipe   raw boxes and scores with the metadata with which MediaPipe Tasks decodes them
Face = Literal["detections", "raw", "logits", "features", "coral", "mediapipe"]


@dataclass(frozen=True)
class PostprocessOptions:
    """How raw outputs become detections; the defaults are those of COCO evaluation.

    Attributes:
        score_threshold: lowest confidence of a detection, 0..1.
        nms: 'class' suppresses boxes of the same class, 'agnostic' boxes of any class, and 'soft' lowers the scores of
            the same class by a Gaussian of the IoU.
        iou_threshold: IoU above which hard NMS drops the box of lower score, 0..1.
        soft_sigma: width of the Gaussian of soft-NMS.
        max_candidates: (anchor, class) pairs per image, best scores first, that enter NMS.
        max_detections: detections per image, best scores first.

    Source: EfficientDet reference, post-processing; Soft-NMS (arXiv:1704.04503).
    """

    score_threshold: float = 0.001
    nms: NmsMethod = "class"
    iou_threshold: float = 0.5
    soft_sigma: float = 0.5
    max_candidates: int = 5000
    max_detections: int = 100


@dataclass(frozen=True)
class DetectionLossOptions:
    """Constants of the detection loss.

    Attributes:
        alpha: focal loss: weight of positive anchors, 0..1; negatives have 1 - alpha.
        gamma: focal loss: focusing exponent.
        label_smoothing: smoothing of the class targets, 0..1.
        huber_delta: where the Huber loss turns from quadratic to linear, in units of the box deltas.
        box_weight: weight of the Huber loss in the total; 0 leaves it out.
        iou: an IoU loss of the decoded boxes beside it; None for none.
        iou_weight: weight of the IoU loss in the total.
        positives_momentum: 0 normalizes by the positive anchors of the batch; above 0, by their moving average with
            this momentum.

    Source: EfficientDet reference, hparams; focal loss (arXiv:1708.02002).
    """

    alpha: float = 0.25
    gamma: float = 1.5
    label_smoothing: float = 0.0
    huber_delta: float = 0.1
    box_weight: float = 50.0
    iou: IouKind | None = None
    iou_weight: float = 1.0
    positives_momentum: float = 0.0
