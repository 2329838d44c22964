"""Two sets of values that a recipe can start from by `preset: scratch` or `preset: finetune`, for each task.

They settle start, optimiser, schedule, length, average and crops, whatever stood there before. Network, data,
`train.accumulation_steps` and, from scratch, the batch are the recipe's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# A detector for images of one's own, some hundred to some ten thousand. Optimiser, decay, warm-up, jitter and momentum
# of the norms are those of configs/bccd.yaml, where they were settled on train against val. Its rate of 3e-3 is for a
# neck and heads that start at random; here, where nearly all weights come from COCO, it is a third of that: our choice.
_FINETUNED_DETECTOR = {
    "model": {"weights": "coco", "backbone_weights": None, "norm_momentum": 0.1},
    "augment": {"scale_jitter": [0.6, 1.4]},
    "optim": {
        "name": "adamw",
        "learning_rate": 1e-3,
        "base_batch_size": None,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "warmup_epochs": 2.0,
        "warmup_start_factor": 0.1,
        "schedule": "cosine",
        "grad_clip_norm": 10.0,
    },
    # The average looks back at most 1000 steps, as in configs/voc.yaml.
    "train": {"epochs": 20, "batch_size": 16, "ema_decay": 0.999},
}

# A detector from random weights on COCO or more. Source: EfficientDet section 5.1 and its reference code, hparams.
_SCRATCH_DETECTOR = {
    "model": {"weights": None, "backbone_weights": None, "keep_known_classes": False, "norm_momentum": 0.01},
    "augment": {"scale_jitter": [0.1, 2.0]},
    "optim": {
        "name": "sgd",
        "learning_rate": 0.08,
        "base_batch_size": 64,
        "momentum": 0.9,
        "weight_decay": 4e-5,
        "warmup_epochs": 1.0,
        "warmup_start_factor": 0.1,
        "schedule": "cosine",
        "grad_clip_norm": 10.0,
    },
    "train": {"epochs": 300, "ema_decay": 0.9998, "freeze": [], "norms": "auto"},
}

# A classifier for images of one's own: configs/classification/finetune.yaml, whose result was measured.
_FINETUNED_CLASSIFIER = {
    "model": {"weights": "imagenet", "backbone_weights": None, "norm_momentum": 0.1, "drop_path": 0.1},
    "augment": {"crop_area": [0.5, 1.0], "rand_augment": {"layers": 0}, "mixup_alpha": 0.0, "cutmix_alpha": 0.0},
    "progressive": None,
    "optim": {
        "name": "adamw",
        "learning_rate": 1e-3,
        "base_batch_size": None,
        "momentum": 0.9,
        "weight_decay": 1e-2,
        "warmup_epochs": 1.0,
        "warmup_start_factor": 0.1,
        "schedule": "cosine",
        "grad_clip_norm": 10.0,
    },
    "train": {"epochs": 8, "batch_size": 32, "ema_decay": 0.99},
}

# A classifier from random weights on ImageNet or more: configs/classification/imagenet.yaml. RandAugment and stages
# differ from network to network and are left to the recipe. Source: EfficientNet section 5.2 and its reference code.
_SCRATCH_CLASSIFIER = {
    "model": {
        "weights": None,
        "backbone_weights": None,
        "keep_known_classes": False,
        "norm_momentum": 0.01,
        "drop_path": None,
    },
    "augment": {"crop_area": [0.08, 1.0]},
    "optim": {
        "name": "rmsprop",
        "learning_rate": 0.016,
        "base_batch_size": 256,
        "momentum": 0.9,
        "weight_decay": 1e-5,
        "warmup_epochs": 5.0,
        "warmup_start_factor": 0.0,
        "schedule": "exponential",
        "decay_factor": 0.97,
        "decay_epochs": 2.4,
        "grad_clip_norm": None,
    },
    "train": {"epochs": 350, "ema_decay": 0.9999, "freeze": [], "norms": "auto"},
}

PRESETS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "detection": {"scratch": _SCRATCH_DETECTOR, "finetune": _FINETUNED_DETECTOR},
    "classification": {"scratch": _SCRATCH_CLASSIFIER, "finetune": _FINETUNED_CLASSIFIER},
}
