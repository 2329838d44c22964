"""The recipe of a run: the typed tree with every default, how YAML is read into it, and how old recipes are migrated.

The tree is in `schema.py`, its sections about images in `data_sections.py`.
"""

from effdet.config.data_sections import (
    ClassificationAugment,
    ClassificationData,
    DataConfig,
    DetectionAugment,
    DetectionData,
    ProgressiveConfig,
    SplitConfig,
    ValidationConfig,
)
from effdet.config.loading import load_config, make_config
from effdet.config.migration import migrate
from effdet.config.schema import (
    TASKS,
    ClassificationConfig,
    ClassificationLossConfig,
    ClassifierConfig,
    Config,
    DetectionConfig,
    DetectionLossConfig,
    DetectorConfig,
    ModelConfig,
    OptimConfig,
    PostprocessConfig,
    TrainConfig,
)

__all__ = [
    "TASKS",
    "ClassificationAugment",
    "ClassificationConfig",
    "ClassificationData",
    "ClassificationLossConfig",
    "ClassifierConfig",
    "Config",
    "DataConfig",
    "DetectionAugment",
    "DetectionConfig",
    "DetectionData",
    "DetectionLossConfig",
    "DetectorConfig",
    "ModelConfig",
    "OptimConfig",
    "PostprocessConfig",
    "ProgressiveConfig",
    "SplitConfig",
    "TrainConfig",
    "ValidationConfig",
    "load_config",
    "make_config",
    "migrate",
]
