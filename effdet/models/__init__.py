"""Every model by name: options become a spec, which says what a network is and builds it.

Networks are freshly initialised here; `effdet.weights.create.create_model` also loads trained weights.
"""

from __future__ import annotations

from effdet.models.efficientdet import EfficientDet, EfficientDetSpec
from effdet.models.efficientdet_specs import EFFICIENTDETS, detector_spec
from effdet.models.efficientnet import EfficientNet, EfficientNetSpec
from effdet.models.efficientnet_specs import EFFICIENTNETS, classifier_spec
from effdet.models.options import ModelOptions, find_spec

__all__ = [
    "EFFICIENTDETS",
    "EFFICIENTNETS",
    "EfficientDet",
    "EfficientDetSpec",
    "EfficientNet",
    "EfficientNetSpec",
    "ModelOptions",
    "ModelSpec",
    "list_models",
    "make_spec",
]

ModelSpec = EfficientDetSpec | EfficientNetSpec


def list_models() -> list[str]:
    """Names of all models: detectors first, then classifiers."""
    return [*EFFICIENTDETS, *EFFICIENTNETS]


def make_spec(options: ModelOptions) -> ModelSpec:
    """The spec of a detector or a classifier: its row in the tables with the options applied.

        make_spec(ModelOptions("efficientdet_d0", image_size=(384, 640))).build(num_classes=3)

    Raises:
        ConfigError: there is no such model, or an option does not fit it.
    """
    find_spec({**EFFICIENTDETS, **EFFICIENTNETS}, options.name)
    return detector_spec(options) if options.name in EFFICIENTDETS else classifier_spec(options)
