"""Every network by name: a spec says what it is and builds it, `list_models` tells the names.

Networks come out freshly initialised; `effdet.weights.create_model` is the door that also loads trained weights.
"""

from __future__ import annotations

from effdet.models.efficientdet import EFFICIENTDETS, EfficientDet, EfficientDetSpec, efficientdet_spec
from effdet.models.efficientnet import EFFICIENTNETS, EfficientNet, EfficientNetSpec, efficientnet_spec

__all__ = [
    "EFFICIENTDETS",
    "EFFICIENTNETS",
    "EfficientDet",
    "EfficientDetSpec",
    "EfficientNet",
    "EfficientNetSpec",
    "efficientdet_spec",
    "efficientnet_spec",
    "list_models",
]


def list_models() -> list[str]:
    """Names of all networks: detectors first, then classifiers."""
    return [*EFFICIENTDETS, *EFFICIENTNETS]
