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
        self._pairs: _Pairs | None = None

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Moves the average towards the weights after step `step`, counted from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        if self._pairs is None or self._pairs.model is not model:
            self._pairs = _Pairs(model, self.model)
        pairs = self._pairs
        torch._foreach_lerp_(pairs.averages, pairs.weights, 1 - decay)
        if pairs.counters:
            torch._foreach_copy_(pairs.copies, pairs.counters)


class _Pairs:
    """The tensors of a model and of its average, collected once: state_dict() takes longer than the update itself.

    Both change their tensors in place only.
    """

    def __init__(self, model: nn.Module, average: nn.Module) -> None:
        self.model = model
        pairs = list(zip(average.state_dict().values(), model.state_dict().values(), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        counting = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.averages: list[Tensor] = [mean for mean, _ in floating]
        self.weights: list[Tensor] = [weight for _, weight in floating]
        self.copies: list[Tensor] = [copied for copied, _ in counting]
        self.counters: list[Tensor] = [counter for _, counter in counting]
