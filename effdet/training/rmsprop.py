"""RMSProp as TensorFlow defines it, with which EfficientNet was trained.

The other optimisers are torch's own; all are chosen in `optim.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RMSProp(torch.optim.Optimizer):
    """TensorFlow's RMSProp with momentum, for each weight w with gradient g (to which L2 weight decay is added):

        mean_square <- decay * mean_square + (1 - decay) * g**2
        momentum_buffer <- momentum * momentum_buffer + lr * g / sqrt(mean_square + eps)
        w <- w - momentum_buffer

    torch's own RMSprop is another method, for which EfficientNet's constants do not hold. Its mean square starts at 0
    instead of 1: the first step is then about 3 * lr however small the gradient, where here a small gradient makes a
    small step. Its epsilon stands outside the root, where 1e-3 does a thirtieth of what it does inside. And its rate
    stays out of the buffer, so that a new rate acts on past gradients too.

    Source: EfficientNet (arXiv:1905.11946), section 5.2; TensorFlow, tf.train.RMSPropOptimizer.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        *,
        decay: float = 0.9,
        momentum: float = 0.9,
        eps: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        """An optimiser of parameters or of groups of them, each with its own values if it likes.

        Args:
            params: parameters, or mappings with `params` and any of the values below.
            lr: learning rate.
            decay: of the mean square.
            momentum: of the steps.
            eps: added to the mean square inside the root.
            weight_decay: share of the weight that is added to its gradient.
        """
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of all parameters that have a gradient; gives what `closure` gives, the loss computed anew."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights:
                self._step_group(group, weights)
        return loss

    def _step_group(self, group: dict[str, Any], weights: list[Tensor]) -> None:
        """One step of the weights of a group that have a gradient, all at once."""
        for weight in weights:
            if not self.state[weight]:
                self.state[weight]["mean_square"] = torch.ones_like(weight)
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        squares = [self.state[weight]["mean_square"] for weight in weights]
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        gradients: Any = [weight.grad for weight in weights]
        if group["weight_decay"]:
            gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        torch._foreach_mul_(squares, group["decay"])
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["decay"])
        roots = torch._foreach_add(squares, group["eps"])
        torch._foreach_sqrt_(roots)
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_addcdiv_(buffers, gradients, roots, value=group["lr"])
        torch._foreach_sub_(weights, buffers)
