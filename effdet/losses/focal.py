"""The focal loss as one sum over all logits, with its gradient computed in the same pass.

Which anchors are positive is decided in `matching.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from effdet.devices import kernel_works

LOGITS_AT_ONCE = 2**24  # logits whose loss is computed at a time
LOGITS_AT_ONCE_ON_CPU = 2**17


def focal_loss_sum(
    logits: Tensor,
    positive: tuple[Tensor, ...],
    alpha: float,
    gamma: float,
    label_smoothing: float,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Sum of the focal loss over all logits, computed in float32 (of float64 in float64): a scalar.

    Every logit is first treated as a negative, and the few positives are corrected afterwards: no one-hot targets are
    made. Modulating factors are powers of probabilities, computed from their logarithms, which stay finite.

    Args:
        logits: [..., K].
        positive: index of the logits whose target is 1, as for `logits[positive]`; no index twice. Where the first
            index is negative, the row is padding.
        alpha: weight of positives; negatives weigh 1 - alpha.
        gamma: focusing exponent.
        label_smoothing: inside the cross-entropy alone. Source: EfficientDet reference; Focal loss, equation 5.
        class_weights: [K], factors of the loss of each class; None for 1.
    """
    fused = logits.device.type == "cuda" and logits.dtype != torch.float64 and has_kernels()
    function = _FusedFocalLossSum if fused else _FocalLossSum
    total: Tensor = function.apply(logits, positive, alpha, gamma, label_smoothing / 2, class_weights)
    return total


@functools.cache
def has_kernels() -> bool:
    """Whether the kernels of `focal_kernels.py` run on this GPU; if not, a warning says so once."""

    def launch() -> None:
        from effdet.losses.focal_kernels import loss_of_negatives

        loss_of_negatives(torch.zeros(1, 1, device="cuda"), None, 1.5, 0.0).item()

    return kernel_works("focal loss", launch)


class _FocalLossSum(torch.autograd.Function):
    """See `focal_loss_sum`. The gradient is computed together with the loss, in chunks that stay in the cache: autograd
    would keep and traverse a dozen arrays of the size of the logits, which are the largest of a training step.
    """

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        positive: tuple[Tensor, ...],
        alpha: float,
        gamma: float,
        half: float,
        class_weights: Tensor | None,
    ) -> Tensor:
        computed = torch.promote_types(logits.dtype, torch.float32)
        weights = logits.new_ones(1, dtype=computed) if class_weights is None else class_weights.to(computed)
        rows = logits.reshape(-1, logits.shape[-1])
        # float16 would lose the gradients of easy negatives, which bfloat16 holds. One value more takes what padding
        # writes.
        low = computed if logits.dtype == torch.float16 else logits.dtype
        spare = torch.empty(rows.numel() + 1, dtype=low, device=logits.device)
        gradient = spare[:-1].view(rows.shape)
        total = logits.new_zeros((), dtype=computed)
        step = max(1, (LOGITS_AT_ONCE_ON_CPU if logits.device.type == "cpu" else LOGITS_AT_ONCE) // rows.shape[1])
        for start in range(0, len(rows), step):
            loss, slope = _focal_negative(rows[start : start + step].to(computed), gamma, half)
            total += (loss.mul_(weights)).sum()
            torch.mul(slope, weights * (1 - alpha), out=slope)
            gradient[start : start + step] = slope
        is_positive, index = positive[0] >= 0, flat_index(positive, logits.shape)
        chosen = rows.view(-1)[index.clamp(max=rows.numel() - 1)].to(computed)
        if class_weights is not None:
            weights = weights[positive[-1]]
        as_negatives = _focal_negative(chosen, gamma, half)[0] * weights
        total = (1 - alpha) * (total - torch.where(is_positive, as_negatives, 0).sum())
        # A positive costs what a negative of the opposite logit costs.
        loss, slope = _focal_negative(-chosen, gamma, half)
        spare[index] = (-alpha * weights * slope).to(low)
        ctx.save_for_backward(gradient.view(logits.shape))
        ctx.dtype = logits.dtype
        return total + alpha * torch.where(is_positive, loss * weights, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * factor).to(ctx.dtype), None, None, None, None, None


class _FusedFocalLossSum(torch.autograd.Function):
    """See `focal_loss_sum`. On a GPU one kernel computes the loss and another the gradient, from the logits alone."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        positive: tuple[Tensor, ...],
        alpha: float,
        gamma: float,
        half: float,
        class_weights: Tensor | None,
    ) -> Tensor:
        from effdet.losses.focal_kernels import loss_of_negatives

        logits = logits.contiguous()
        weights = None if class_weights is None else class_weights.float()
        of_positives: Tensor | float = 1.0 if weights is None else weights[positive[-1]]
        is_positive, index = positive[0] >= 0, flat_index(positive, logits.shape)
        chosen = logits.view(-1)[index.clamp(max=logits.numel() - 1)].float()
        as_negatives = _focal_negative(chosen, gamma, half)[0] * of_positives
        loss, slope = _focal_negative(-chosen, gamma, half)
        total = loss_of_negatives(logits, weights, gamma, half) - torch.where(is_positive, as_negatives, 0).sum()
        ctx.save_for_backward(logits, weights, index, -alpha * of_positives * slope)
        ctx.constants = alpha, gamma, half
        return (1 - alpha) * total + alpha * torch.where(is_positive, loss * of_positives, 0).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        from effdet.losses.focal_kernels import write_gradient_of_negatives

        logits, weights, index, slope = ctx.saved_tensors
        alpha, gamma, half = ctx.constants
        spare = torch.empty(logits.numel() + 1, dtype=logits.dtype, device=logits.device)  # the last is for padding
        gradient = spare[:-1].view(logits.shape)
        write_gradient_of_negatives(gradient, logits, weights, factor.float() * (1 - alpha), gamma, half)
        spare[index] = (slope * factor).to(logits.dtype)
        return gradient, None, None, None, None, None


def flat_index(index: tuple[Tensor, ...], shape: Sequence[int]) -> Tensor:
    """Position of each indexed value in a flattened array of a shape; one behind the last where the first index is
    negative.
    """
    flat = index[0]
    for positions, size in zip(index[1:], shape[1:], strict=False):
        flat = flat * size + positions
    return torch.where(index[0] < 0, math.prod(shape[: len(index)]), flat)


def _focal_negative(logits: Tensor, gamma: float, half: float) -> tuple[Tensor, Tensor]:
    """Unweighted focal loss of negatives and its derivative, both of the shape of the logits.

    With p the score, the loss is p^gamma (-log(1 - p) - half logit).
    """
    softplus = F.softplus(logits)  # -log(1 - p)
    log_p = logits - softplus
    entropy = softplus.sub_(logits, alpha=half)
    power = torch.exp(gamma * log_p)
    p = log_p.exp_()
    loss = power * entropy
    # power * (gamma * (1 - p) * entropy + p - half)
    slope = entropy.mul_(gamma).mul_(1 - p).add_(p).sub_(half).mul_(power)
    return loss, slope
