"""RMSProp as TensorFlow defines it. EfficientNet was trained with it.

The other optimizers come from PyTorch; `optim.py` chooses between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RMSProp(torch.optim.Optimizer):
    """TensorFlow's RMSProp with momentum, for each weight w with gradient g (L2 weight decay is added to g first):

        mean_square <- decay * mean_square + (1 - decay) * g**2
        momentum_buffer <- momentum * momentum_buffer + lr * g / sqrt(mean_square + eps)
        w <- w - momentum_buffer

    PyTorch's RMSprop differs in three ways, so EfficientNet's constants do not fit it:

    - Its mean square starts at 0. The first step is then about 3 * lr, however small the gradient is. Here the mean
      square starts at 1, and a small gradient makes a small step.
    - Its eps is outside the root. There 1e-3 has about a thirtieth of the effect that it has inside the root.
    - Its learning rate is not part of the momentum buffer. A new learning rate then scales past gradients too.

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
        """An optimizer of parameters or of parameter groups. A group may override any value below.

        Args:
            params: parameters, or mappings with the key `params` and any of the values below.
            lr: learning rate.
            decay: decay of the mean square.
            momentum: momentum of the steps.
            eps: added to the mean square inside the root.
            weight_decay: L2 weight decay: this factor times the weight is added to the gradient.
        """
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates all parameters that have a gradient; gives the loss that `closure` recomputes, or None."""
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
        """Updates the weights of a group that have a gradient, in one call of each kernel."""
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
