"""EfficientDet and EfficientNet in PyTorch: train, evaluate and predict.

The public names below are loaded when first used, so that importing the package, and asking the command line for help,
costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from effdet.version import __version__

if TYPE_CHECKING:
    from effdet.config import Config, load_config
    from effdet.errors import ConfigError, DataError, EffdetError, TrainingError, WeightsError
    from effdet.inference.predictor import Predictor
    from effdet.models import ModelOptions, list_models
    from effdet.structures import Batch, Classification, Detections, Outputs, Target
    from effdet.weights.checkpoint import load_checkpoint
    from effdet.weights.create import create_model

_HOMES = {
    "Batch": "effdet.structures",
    "Classification": "effdet.structures",
    "Config": "effdet.config",
    "ConfigError": "effdet.errors",
    "DataError": "effdet.errors",
    "Detections": "effdet.structures",
    "EffdetError": "effdet.errors",
    "ModelOptions": "effdet.models",
    "Outputs": "effdet.structures",
    "Predictor": "effdet.inference.predictor",
    "Target": "effdet.structures",
    "TrainingError": "effdet.errors",
    "WeightsError": "effdet.errors",
    "create_model": "effdet.weights.create",
    "list_models": "effdet.models",
    "load_checkpoint": "effdet.weights.checkpoint",
    "load_config": "effdet.config",
}

__all__ = [
    "Batch",
    "Classification",
    "Config",
    "ConfigError",
    "DataError",
    "Detections",
    "EffdetError",
    "ModelOptions",
    "Outputs",
    "Predictor",
    "Target",
    "TrainingError",
    "WeightsError",
    "__version__",
    "create_model",
    "list_models",
    "load_checkpoint",
    "load_config",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'effdet' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
