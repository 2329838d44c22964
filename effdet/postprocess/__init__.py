"""From raw outputs to results: detections by threshold, decoding and NMS; the most probable classes by softmax.

Boxes stay in pixels of the network input and are not clipped to it. `data/images.py` maps them to the original image.
"""

from effdet.postprocess.candidates import Candidates, best_pairs, check_finite, finite_sums, logit, select_rows
from effdet.postprocess.classes import classify, rank_classes
from effdet.postprocess.detections import postprocess, postprocess_boxes
from effdet.postprocess.nms import hard_nms, soft_nms

__all__ = [
    "Candidates",
    "best_pairs",
    "check_finite",
    "classify",
    "finite_sums",
    "hard_nms",
    "logit",
    "postprocess",
    "postprocess_boxes",
    "rank_classes",
    "select_rows",
    "soft_nms",
]
