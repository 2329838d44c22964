"""How weights move: what is decayed and what is frozen, the optimiser, and the learning rate as a function of the step.

The weight average that is evaluated is in `ema.py`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from effdet.config import OptimConfig, TrainConfig
from effdet.data.loader import steps_per_epoch
from effdet.errors import ConfigError
from effdet.training.rmsprop import RMSProp


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to zero or an exponential decay in steps.

    Attributes:
        peak: learning rate after the warm-up.
        start: learning rate of the first step.
        warmup_steps: steps of the warm-up.
        total_steps: steps of the run.
        steps_per_epoch: steps between two epochs.
        decay: (factor, steps between two factors) of the exponential decay; None for the cosine.
    """

    peak: float
    start: float
    warmup_steps: int
    total_steps: int
    steps_per_epoch: int
    decay: tuple[float, float] | None = None

    def learning_rate(self, step: int) -> float:
        """Learning rate of a step 0..total_steps-1."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / self.warmup_steps
        if self.decay is not None:  # counted from the first step, as in the EfficientNet reference
            factor, interval = self.decay
            return self.peak * math.pow(factor, step // interval)
        progress = (step - self.warmup_steps) / max(self.total_steps - self.warmup_steps, 1)
        return 0.5 * self.peak * (1 + math.cos(math.pi * progress))


def make_schedule(optim: OptimConfig, train: TrainConfig, num_images: int) -> Schedule:
    """Schedule of a run over `num_images` training images."""
    per_epoch = steps_per_epoch(num_images, train.batch_size)
    total = train.epochs * per_epoch
    if train.max_steps is not None:
        total = min(total, train.max_steps)
    peak = optim.learning_rate
    if optim.reference_batch is not None:
        peak *= train.batch_size / optim.reference_batch
    warmup = min(round(optim.warmup_epochs * per_epoch), total)
    decay = (optim.decay_factor, optim.decay_epochs * per_epoch) if optim.schedule == "exponential" else None
    return Schedule(peak, peak * optim.warmup_start, warmup, total, per_epoch, decay)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Optimiser of all weights that are not frozen; only kernels of convolutions and linear layers are decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise ConfigError("train.freeze leaves nothing to train; name fewer modules")
    groups: list[dict[str, Any]] = [
        {"params": [value for value in trained if value.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [value for value in trained if value.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "rmsprop":
        return RMSProp(groups, config.learning_rate, momentum=config.momentum)
    fused = trained[0].device.type in ("cpu", "cuda")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=fused)


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Takes the named modules out of training and gives them back, for `train_mode`.

    Raises:
        ConfigError: the model has no module of such a name; the message suggests near ones.
    """
    modules = dict(model.named_modules())
    frozen = []
    for name in names:
        if name not in modules or not name:
            near = difflib.get_close_matches(name, [key for key in modules if key], n=3, cutoff=0.4)
            near = near or [key for key, _ in model.named_children()]
            raise ConfigError(f"train.freeze: the model has no module '{name}'; near names are {', '.join(near)}")
        modules[name].requires_grad_(False)
        frozen.append(modules[name])
    return frozen


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Training mode for all but the frozen modules, whose norms keep their statistics."""
    model.train()
    for module in frozen:
        module.eval()
