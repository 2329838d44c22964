"""The optimizer, weight decay, frozen modules, and the learning rate as a function of the step.

The EMA of the weights is in `ema.py`, BatchNorm statistics are in `batch_norm.py`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from effdet.config import OptimConfig, TrainConfig
from effdet.data.train_order import steps_per_epoch
from effdet.errors import ConfigError
from effdet.models import EfficientDet, EfficientNet
from effdet.training.rmsprop import RMSProp


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then a cosine to zero or an exponential decay in steps.

    Attributes:
        peak: learning rate after the warm-up.
        start: learning rate of the first step.
        warmup_steps: steps of the warm-up.
        total_steps: steps of the run.
        steps_per_epoch: steps of an epoch.
        decay: (factor, steps after which it applies again) of the exponential decay; None for the cosine.
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
    if optim.base_batch_size is not None:
        peak *= train.batch_size / optim.base_batch_size
    warmup = min(round(optim.warmup_epochs * per_epoch), total)
    decay = (optim.decay_factor, optim.decay_epochs * per_epoch) if optim.schedule == "exponential" else None
    return Schedule(peak, peak * optim.warmup_start_factor, warmup, total, per_epoch, decay)


def make_optimizer(model: EfficientDet | EfficientNet, config: OptimConfig) -> torch.optim.Optimizer:
    """Optimizer of all weights that are not frozen; weight decay acts on kernels of convolutions and linear layers.

    Each parameter group has a `rate`: its multiplier of the learning rate, see `lr_multipliers`.

    Raises:
        ConfigError: nothing is left to train, or optim.lr_multipliers names a module that does not exist.
    """
    rates = lr_multipliers(model, config.lr_multipliers, config.layer_decay)
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((rates[name], parameter.ndim > 1), []).append(parameter)
    if not groups:
        raise ConfigError("train.freeze leaves nothing to train; name fewer modules")
    settings: list[dict[str, Any]] = [
        {"params": groups[rate, decayed], "weight_decay": config.weight_decay if decayed else 0.0, "rate": rate}
        for rate, decayed in sorted(groups, reverse=True)
    ]
    optimizer = _optimizer_of(settings, config)
    set_learning_rate(optimizer, config.learning_rate)
    return optimizer


def _optimizer_of(groups: list[dict[str, Any]], config: OptimConfig) -> torch.optim.Optimizer:
    if config.name == "rmsprop":
        return RMSProp(groups, config.learning_rate, momentum=config.momentum)
    fused = groups[0]["params"][0].device.type in ("cpu", "cuda")
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=fused)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Sets the learning rate of the next step; each parameter group applies its own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]


def lr_multipliers(
    model: EfficientDet | EfficientNet, by_module: Mapping[str, float], layer_decay: float = 1.0
) -> dict[str, float]:
    """Multiplier of the learning rate of every parameter, by its name.

    Args:
        model: a detector or a classifier.
        by_module: multipliers by module. Inside nested modules the innermost one counts; 1 where none is named.
        layer_decay: a further factor for each layer away from the heads, see `layer_groups` of the models.

    Raises:
        ConfigError: the model has no module of such a name; the message suggests similar ones.
    """
    for name in by_module:
        _module(model, name, "optim.lr_multipliers")
    layers = model.layer_groups() if layer_decay != 1 else []
    decays = {name: layer_decay**steps for steps, layer in enumerate(layers) for name in layer}
    return {
        name: _of_innermost(name, by_module, 1.0) * _of_innermost(name, decays, 1.0)
        for name, _ in model.named_parameters()
    }


def _of_innermost(name: str, values: Mapping[str, float], default: float) -> float:
    """The value of the innermost module that contains a parameter."""
    around = [module for module in values if name.startswith(f"{module}.")]
    return values[max(around, key=len)] if around else default


def freeze(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Freezes the named modules and returns them, for `train_mode`.

    Raises:
        ConfigError: the model has no module of such a name; the message suggests similar ones.
    """
    frozen = [_module(model, name, "train.freeze") for name in names]
    for module in frozen:
        module.requires_grad_(False)
    return frozen


def _module(model: nn.Module, name: str, key: str) -> nn.Module:
    """The module of a name that the recipe gives under `key`."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules or not name:
        near = difflib.get_close_matches(name, [other for other in modules if other], n=3, cutoff=0.4)
        near = near or [child for child, _ in model.named_children()]
        raise ConfigError(f"{key}: the model has no module '{name}'; similar names are {', '.join(near)}")
    return modules[name]


def train_mode(model: nn.Module, frozen: Sequence[nn.Module]) -> None:
    """Puts all but the frozen modules and BatchNorm layers into training mode."""
    model.train()
    for module in frozen:
        module.eval()
