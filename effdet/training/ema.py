"""The exponential moving average (EMA) of the weights, which is evaluated and saved in place of the trained weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class ExponentialMovingAverage:
    """EMA of the weights and BatchNorm statistics of a model over the steps.

    The decay warms up as min(decay, (1 + t) / (10 + t)), so that short runs are not held back by their first steps.
    Source: EfficientDet reference (TensorFlow's ExponentialMovingAverage).

    Attributes:
        model: a model with the averaged weights, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the weights after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        average, current = self.model.state_dict(), model.state_dict()
        floating = [name for name, value in average.items() if value.is_floating_point()]
        counters = [name for name, value in average.items() if not value.is_floating_point()]
        averages: list[Tensor] = [average[name] for name in floating]
        torch._foreach_lerp_(averages, [current[name] for name in floating], 1 - decay)
        if counters:
            torch._foreach_copy_([average[name] for name in counters], [current[name] for name in counters])
