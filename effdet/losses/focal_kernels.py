"""Triton kernels of the focal loss of negatives: one pass over the logits for the loss, one for the gradient.

The formula is that of `focal.py`, which imports this file only where Triton is installed and there is a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # logits of one program


@triton.jit
def _terms(x, gamma, half):
    """power, entropy and probability of a logit, see `focal._focal_negative`."""
    small = tl.exp(-tl.abs(x))
    # log(1 + small), exact for small numbers too
    rounded = 1.0 + small
    lost = rounded - 1.0
    log1p = tl.where(lost == 0.0, small, tl.log(rounded) * (small / tl.where(lost == 0.0, 1.0, lost)))
    softplus = tl.where(x > 0.0, x, 0.0) + log1p
    softplus = tl.where(x == x, softplus, x)  # NaN stays NaN
    log_p = x - softplus
    return tl.exp(gamma * log_p), softplus - half * x, tl.exp(log_p)


@triton.jit
def _loss_kernel(
    logits,
    weights,
    sums,
    count,
    classes,
    gamma,
    half,
    weighted: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    offsets = program * block + tl.arange(0, block)
    inside = offsets < count
    x = tl.load(logits + offsets, mask=inside, other=0.0).to(tl.float32)
    power, entropy, _ = _terms(x, gamma, half)
    loss = power * entropy
    if weighted:
        loss = loss * tl.load(weights + offsets % classes, mask=inside, other=0.0)
    tl.store(sums + program, tl.sum(tl.where(inside, loss, 0.0), axis=0))


@triton.jit
def _gradient_kernel(
    logits,
    weights,
    factor,
    gradient,
    count,
    classes,
    gamma,
    half,
    weighted: tl.constexpr,
    block: tl.constexpr,
):
    offsets = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = offsets < count
    x = tl.load(logits + offsets, mask=inside, other=0.0).to(tl.float32)
    power, entropy, p = _terms(x, gamma, half)
    slope = power * (gamma * (1.0 - p) * entropy + p - half)
    if weighted:
        slope = slope * tl.load(weights + offsets % classes, mask=inside, other=0.0)
    slope = slope * tl.load(factor)
    tl.store(gradient + offsets, slope.to(gradient.dtype.element_ty), mask=inside)


def loss_of_negatives(logits: Tensor, weights: Tensor | None, gamma: float, half: float) -> Tensor:
    """Sum of the losses of contiguous logits [..., K] as negatives, times their weights [K]: a float32 scalar."""
    programs = triton.cdiv(logits.numel(), BLOCK)
    sums = torch.empty(programs, dtype=torch.float32, device=logits.device)
    with torch.cuda.device(logits.device):
        _loss_kernel[(programs,)](
            logits,
            logits if weights is None else weights,
            sums,
            logits.numel(),
            logits.shape[-1],
            float(gamma),
            float(half),
            weighted=weights is not None,
            block=BLOCK,
        )
    return sums.sum()


def write_gradient_of_negatives(
    gradient: Tensor, logits: Tensor, weights: Tensor | None, factor: Tensor, gamma: float, half: float
) -> None:
    """Writes the gradient of `loss_of_negatives` times `factor`, a float32 scalar, to `gradient` [..., K]."""
    with torch.cuda.device(logits.device):
        _gradient_kernel[(triton.cdiv(logits.numel(), BLOCK),)](
            logits,
            logits if weights is None else weights,
            factor,
            gradient,
            logits.numel(),
            logits.shape[-1],
            float(gamma),
            float(half),
            weighted=weights is not None,
            block=BLOCK,
        )
