"""Every network by name: `build_efficientdet` and `build_efficientnet` make one, `list_models` tells the names.

Networks come out freshly initialised; `effdet.weights.create_model` is the door that also loads trained weights.
"""

from __future__ import annotations

from effdet.models.efficientdet import EFFICIENTDETS, EfficientDet, build_efficientdet
from effdet.models.efficientnet import EFFICIENTNETS, EfficientNet, build_efficientnet

__all__ = [
    "EFFICIENTDETS",
    "EFFICIENTNETS",
    "EfficientDet",
    "EfficientNet",
    "build_efficientdet",
    "build_efficientnet",
    "list_models",
]


def list_models() -> list[str]:
    """Names of all networks: detectors first, then classifiers."""
    return [*EFFICIENTDETS, *EFFICIENTNETS]
