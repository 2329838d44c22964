"""EfficientDet and EfficientNet in PyTorch: train, evaluate and predict.

    import effdet

    result = effdet.train("lite0", ["data.root=/data/coco"])
    detections = effdet.Predictor(result.folder / "best.pt")("street.jpg")

The public names below are loaded when first used, so that `import effdet` and `effdet --help` are quick.
"""

from __future__ import annotations

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

from effdet.version import __version__

if TYPE_CHECKING:
    from effdet.api import TrainResult, evaluate, train
    from effdet.config import Config, load_config
    from effdet.errors import ConfigError, DataError, EffdetError, ExportError, TrainingError, WeightsError
    from effdet.exporting.api import export, verify
    from effdet.exporting.pipeline import ExportResult
    from effdet.exporting.verifying import VerifyResult
    from effdet.inference.predictor import Predictor
    from effdet.losses import ClassificationLoss, DetectionLoss
    from effdet.models import ModelOptions, list_models
    from effdet.structures import Batch, Classification, Detections, Outputs, Target
    from effdet.weights.checkpoint import load_checkpoint
    from effdet.weights.create import create_model

_HOMES = {
    "Batch": "effdet.structures",
    "Classification": "effdet.structures",
    "ClassificationLoss": "effdet.losses",
    "Config": "effdet.config",
    "ConfigError": "effdet.errors",
    "DataError": "effdet.errors",
    "DetectionLoss": "effdet.losses",
    "Detections": "effdet.structures",
    "EffdetError": "effdet.errors",
    "ExportError": "effdet.errors",
    "ExportResult": "effdet.exporting.pipeline",
    "ModelOptions": "effdet.models",
    "Outputs": "effdet.structures",
    "Predictor": "effdet.inference.predictor",
    "Target": "effdet.structures",
    "TrainResult": "effdet.api",
    "TrainingError": "effdet.errors",
    "VerifyResult": "effdet.exporting.verifying",
    "WeightsError": "effdet.errors",
    "create_model": "effdet.weights.create",
    "evaluate": "effdet.api",
    "export": "effdet.exporting.api",
    "list_models": "effdet.models",
    "load_checkpoint": "effdet.weights.checkpoint",
    "load_config": "effdet.config",
    "train": "effdet.api",
    "verify": "effdet.exporting.api",
}

__all__ = [
    "Batch",
    "Classification",
    "ClassificationLoss",
    "Config",
    "ConfigError",
    "DataError",
    "DetectionLoss",
    "Detections",
    "EffdetError",
    "ExportError",
    "ExportResult",
    "ModelOptions",
    "Outputs",
    "Predictor",
    "Target",
    "TrainResult",
    "TrainingError",
    "VerifyResult",
    "WeightsError",
    "__version__",
    "create_model",
    "evaluate",
    "export",
    "list_models",
    "load_checkpoint",
    "load_config",
    "train",
    "verify",
]


def _warn_of_other_package() -> None:
    """Warns if PyPI's effdet is installed beside this package: each has replaced files of the other, or will."""
    try:
        neighbors = os.listdir(os.path.dirname(os.path.dirname(__file__)))
    except OSError:  # inside an archive there are no neighbors
        return
    if any(name.startswith("effdet-") and name.endswith(".dist-info") for name in neighbors):
        warnings.warn(
            "another package named effdet is installed, which has files of the same names as efficientdet-torch; run: "
            "pip uninstall -y effdet efficientdet-torch && pip install efficientdet-torch",
            RuntimeWarning,
            stacklevel=2,
        )


_warn_of_other_package()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'effdet' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
