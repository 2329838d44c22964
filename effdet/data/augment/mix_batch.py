"""Mixup and CutMix for classifiers: the images of a batch mixed with each other, and the soft targets of the mixture.

They run on the device of the batch. Mixup of images with boxes is in `mosaic.py`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def mix_batch(
    images: Tensor,
    labels: Tensor,
    num_classes: int,
    mixup_alpha: float,
    cutmix_alpha: float,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Images mixed with each other, and the weight of every class in each.

    With both alphas above 0, mixup is applied to the first half of the batch and CutMix to the second. The partners are
    the images of the same half in reversed order. The images stay uint8; blends are rounded.

    Args:
        images: [B, 3, H, W] uint8.
        labels: [B] int64 in 0..K-1.
        num_classes: K.
        mixup_alpha: of the beta distribution of mixup, 0 for none.
        cutmix_alpha: of that of CutMix, 0 for none.
        rng: source of the randomness.

    Returns:
        Images [B, 3, H, W] uint8 and targets [B, K] float32, whose rows sum to 1; one-hot if nothing is mixed.

    Source: EfficientNetV2, section 4, and its reference code.
    """
    targets = torch.nn.functional.one_hot(labels, num_classes).float()
    if mixup_alpha > 0 and cutmix_alpha > 0:
        half = len(images) // 2
        first = _mixup(images[:half], targets[:half], mixup_alpha, rng)
        second = _cutmix(images[half:], targets[half:], cutmix_alpha, rng)
        return torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    if mixup_alpha > 0:
        return _mixup(images, targets, mixup_alpha, rng)
    if cutmix_alpha > 0:
        return _cutmix(images, targets, cutmix_alpha, rng)
    return images, targets


def _mixup(images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images blended with their partners; the weight of the image itself is the larger one."""
    drawn = rng.beta(alpha, alpha, len(images))
    own = _column(np.maximum(drawn, 1 - drawn), images.device)
    blend = images.flip(0).float().lerp_(images.float(), own[:, :, None, None])
    return blend.round_().to(images.dtype), targets.flip(0).lerp(targets, own)


def _cutmix(images: Tensor, targets: Tensor, alpha: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Images with a rectangle of their partners pasted in, in the same place; it may extend beyond the edge."""
    height, width = images.shape[2:]
    side = np.sqrt(1 - rng.beta(alpha, alpha, len(images)))
    top, bottom = _span(height, side, rng)
    left, right = _span(width, side, rng)
    own = _column(1 - (bottom - top) * (right - left) / (height * width), images.device)
    pasted = _mask(top, bottom, height, images.device)[:, None, :, None]
    pasted = pasted & _mask(left, right, width, images.device)[:, None, None, :]
    return torch.where(pasted, images.flip(0), images), targets.flip(0).lerp(targets, own)


def _span(
    length: int, fraction: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Start and end [B] of random intervals of an axis, each `fraction` [B] of it long, clipped to the axis."""
    start = rng.integers(length, size=len(fraction)) - (fraction * length / 2).astype(np.int64)
    return start.clip(0), (start + (fraction * length).astype(np.int64)).clip(max=length)


def _mask(start: NDArray[np.int64], end: NDArray[np.int64], length: int, device: torch.device) -> Tensor:
    """Which of `length` pixels are in start..end, [B, length] bool."""
    pixels = np.arange(length)
    return torch.from_numpy((pixels >= start[:, None]) & (pixels < end[:, None])).to(device)


def _column(values: NDArray[np.float64], device: torch.device) -> Tensor:
    """Values [B] as a float32 column [B, 1]."""
    return torch.from_numpy(values[:, None].astype(np.float32)).to(device)
