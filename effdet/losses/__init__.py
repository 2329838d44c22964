"""Losses: matching, focal loss, box losses, and the criterion of each task.

Losses are computed in float32, whatever the precision of the network. Nothing here knows recipes; optimizers and
schedules live in `training`.
"""

from effdet.losses.classification import ClassificationLoss
from effdet.losses.detection import DetectionLoss
from effdet.losses.matching import Assignment, assign

__all__ = ["Assignment", "ClassificationLoss", "DetectionLoss", "assign"]
