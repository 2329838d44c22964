"""Losses: matching, focal loss, box losses and the criterion of each task.

Losses are computed in float32, whatever the precision of the network. Nothing here knows recipes; optimizers and
schedules live in `training`.
"""

from effdet.losses.classification import ClassificationLoss
from effdet.losses.detection import DetectionLoss, Losses, weights_of_classes
from effdet.losses.focal import focal_loss_sum
from effdet.losses.matching import Assignment, match_anchors

__all__ = [
    "Assignment",
    "ClassificationLoss",
    "DetectionLoss",
    "Losses",
    "focal_loss_sum",
    "match_anchors",
    "weights_of_classes",
]
