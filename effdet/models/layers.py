"""The small layers that backbones, necks and heads are made of, and their initialisers.

Whole networks live in the files beside this one. Padding "same" is TensorFlow's, which the released weights need:
strided layers pad the odd pixel at the bottom and right; "symmetric" pads alike on both sides, as in torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Padding = Literal["same", "symmetric"]
NormFactory = Callable[[int], nn.BatchNorm2d]
Activation = Literal["silu", "relu6"]


def activation(name: Activation) -> nn.Module:
    """A fresh activation layer that works in place."""
    return nn.SiLU(inplace=True) if name == "silu" else nn.ReLU6(inplace=True)


class Conv2d(nn.Conv2d):
    """Convolution without bias that gives ceil(size / stride) pixels: [B, C, H, W] -> [B, C', ceil(H/s), ceil(W/s)].

    With stride 1 both paddings are the same thing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        padding: Padding = "same",
    ) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.pads_same = stride > 1 and padding == "same"

    def forward(self, features: Tensor) -> Tensor:
        """Pads as the stride needs, then convolves."""
        padding = self.padding
        if self.pads_same:
            (top, bottom), (left, right) = (
                same_padding(size, kernel, stride)
                for size, kernel, stride in zip(features.shape[-2:], self.kernel_size, self.stride, strict=True)
            )
            if top == bottom and left == right:
                padding = (top, left)
            else:
                features, padding = F.pad(features, (left, right, top, bottom)), (0, 0)
        if self.groups > 1 and features.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            out: Tensor = _DepthwiseConv.apply(features.to(dtype), self.weight.to(dtype), self.stride, padding)
            return out
        return F.conv2d(features, self.weight, None, self.stride, padding, 1, self.groups)


class _DepthwiseConv(torch.autograd.Function):
    """Depthwise convolution in bfloat16 on the CPU whose gradients are computed in float32.

    oneDNN's bfloat16 gradients of depthwise kernels are 5 to 100 times slower than its float32 ones, worst for stride 2
    and 5x5 kernels, which makes training in bfloat16 slower than in float32 without this.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.geometry = stride, padding
        return F.conv2d(features, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        features, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], False]
        to_features, to_weight, _ = torch.ops.aten.convolution_backward(
            gradient.float(),
            features.float(),
            weight.float(),
            None,
            stride,
            padding,
            [1, 1],
            False,
            [0, 0],
            len(weight),
            wanted,
        )
        return (
            to_features.to(features.dtype) if wanted[0] else None,
            to_weight.to(weight.dtype) if wanted[1] else None,
            None,
            None,
        )


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Pixels before and after an axis of `size` pixels so that ceil(size / stride) windows cover it."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def max_pool(features: Tensor, padding: Padding) -> Tensor:
    """Max-pool 3x3 with stride 2: [B, C, H, W] -> [B, C, ceil(H/2), ceil(W/2)]; the padding is minus infinity."""
    if padding == "symmetric":
        return F.max_pool2d(features, 3, 2, padding=1)
    # SAME pads an even axis at its end alone, which is what ceil_mode does, and an odd one on both sides.
    height, width = features.shape[-2:]
    return F.max_pool2d(features, 3, 2, padding=(height % 2, width % 2), ceil_mode=True)


class SqueezeExcite(nn.Module):
    """Gates each channel by a small network over the channel means: [B, C, H, W] -> the same shape.

    Source: EfficientNet reference; the squeeze width follows the block's input, not its expanded width.
    """

    def __init__(self, channels: int, squeezed: int, act: Activation) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = activation(act)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Multiplies the features by their gates in 0..1."""
        gates: Tensor = self.conv_expand(self.act(self.conv_reduce(features.mean((2, 3), keepdim=True))))
        return features * gates.sigmoid()


class DropPath(nn.Module):
    """Drops a residual branch for whole images while training and scales the kept ones up. Source: Deep Networks with
    Stochastic Depth; EfficientNet reference, drop connect.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape, a share `rate` of the B images zeroed."""
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        mask = branch.new_empty(len(branch), 1, 1, 1).bernoulli_(keep).div_(keep)
        return branch * mask

    def extra_repr(self) -> str:
        """The rate, for printing."""
        return f"rate={self.rate:.4f}"


class SeparableConv(nn.Module):
    """Depthwise 3x3 without bias, then pointwise 1x1 with bias, nothing in between: [B, C, H, W] -> [B, C', H, W]."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = Conv2d(in_channels, in_channels, 3, groups=in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """The convolved features."""
        out: Tensor = self.pointwise(self.depthwise(features))
        return out


def init_backbone_conv(conv: nn.Conv2d) -> None:
    """Normal with variance 2 / fan-out; a depthwise kernel's fan-out is its area. Source: EfficientNet reference."""
    fan_out = conv.out_channels // conv.groups * math.prod(conv.kernel_size)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / fan_out))
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_neck_conv(conv: nn.Conv2d) -> None:
    """Glorot uniform with TensorFlow's fans, zero bias. Source: EfficientDet reference (Keras defaults)."""
    fan_in, fan_out = _tensorflow_fans(conv)
    limit = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(conv.weight, -limit, limit)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def init_head_conv(conv: nn.Conv2d) -> None:
    """Truncated normal with variance 1 / fan-in, zero bias. Source: EfficientDet reference (variance scaling)."""
    truncation = 0.87962566103423978  # standard deviation of a normal cut at two of its own
    std = math.sqrt(1 / _tensorflow_fans(conv)[0]) / truncation
    nn.init.trunc_normal_(conv.weight, std=std, a=-2 * std, b=2 * std)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def _tensorflow_fans(conv: nn.Conv2d) -> tuple[int, int]:
    """Fan-in and fan-out; a depthwise kernel counts all its channels as inputs and one as output."""
    area = math.prod(conv.kernel_size)
    return conv.in_channels * area, conv.out_channels // conv.groups * area


def convolutions(module: nn.Module) -> list[nn.Conv2d]:
    """All convolutions inside a module."""
    return [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images [B, C, H, W] of 0..255 to zero mean and unit spread, with mean and std [C] in the same units, float32."""
    return (images.to(torch.float32) - mean[:, None, None]) / std[:, None, None]
