"""The small layers that backbones, necks and heads are made of, and their initialisers.

Whole networks live in the files beside this one. Padding "same" is TensorFlow's, which the released weights need:
strided layers pad the odd pixel at the bottom and right; "symmetric" pads alike on both sides, as in torchvision.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from effdet.types import Padding

NormFactory = Callable[[int], nn.BatchNorm2d]
Activation = Literal["silu", "relu6"]
Result = TypeVar("Result")


class Float32Buffers(nn.Module):
    """A module whose own buffers stay float32 whatever it is cast to by `bfloat16()`, `half()` or `to(dtype)`.

    Buffers of modules inside it are cast as usual. bfloat16 has 8 bits: an anchor at 88.88 pixels would move to 89.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Buffers:
        before = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in self.named_buffers(recurse=False):
            if buffer.dtype != torch.float32:
                setattr(self, name, before[name].to(buffer.device))
        return self


def activation(name: Activation) -> nn.Module:
    """A new activation layer; ReLU6 works in place, SiLU in place would have to copy its input for the gradient."""
    return nn.SiLU() if name == "silu" else nn.ReLU6(inplace=True)


class Conv2d(nn.Conv2d):
    """Convolution that gives ceil(size / stride) pixels: [B, C, H, W] -> [B, C', ceil(H/s), ceil(W/s)].

    It is built without bias. With stride 1 both paddings are the same.
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
            out: Tensor = _DepthwiseConv.apply(features.to(dtype), self.weight, self.stride, padding)
            return out if self.bias is None else out + self.bias.to(dtype)[:, None, None]
        return F.conv2d(features, self.weight, self.bias, self.stride, padding, 1, self.groups)


class _DepthwiseConv(torch.autograd.Function):
    """Depthwise convolution in bfloat16 on the CPU whose gradients do not use oneDNN's bfloat16 kernels.

    oneDNN's bfloat16 gradients of depthwise kernels are 5 to 100 times slower than its float32 ones, worst for stride 2
    and for kernels wider than 3, whose float32 weight gradient is slow too.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(features, weight)
        ctx.geometry = stride, padding
        return F.conv2d(features, weight.to(features.dtype), None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        known = gradient, *ctx.saved_tensors, *ctx.geometry
        to_features = _depthwise_to_features(*known) if ctx.needs_input_grad[0] else None
        to_weight = _depthwise_to_weight(*known) if ctx.needs_input_grad[1] else None
        return to_features, to_weight, None, None


def _depthwise_to_features(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """With stride 1 this is a convolution with the kernel rotated by 180 degrees, which is fast in bfloat16."""
    if stride == (1, 1):
        height, width = weight.shape[-2:]
        rotated = weight.to(gradient.dtype).flip(2, 3)
        outer = (height - 1 - padding[0], width - 1 - padding[1])
        return F.conv2d(gradient, rotated, None, stride, outer, 1, len(weight))
    shape = torch.empty_like(features, dtype=torch.float32)  # only its shape is read
    return _convolution_gradients(gradient.float(), shape, weight.float(), stride, padding, (True, False))[0].to(
        features.dtype
    )


def _depthwise_to_weight(
    gradient: Tensor, features: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """In float32, three columns of the kernel at a time."""
    gradient, width = gradient.float(), weight.shape[-1]
    columns = []
    for start in range(0, width, 3):
        kernel = weight[..., start : start + 3].float()
        # The columns from `start` on are a kernel of their own, over features padded to give the same outputs.
        before = padding[1] - start
        after = padding[1] - (width - start - kernel.shape[-1])
        sides = (padding[0], before) if before == after else (padding[0], 0)
        shifted = features if before == after else F.pad(features, (before, after))
        columns.append(_convolution_gradients(gradient, shifted.float(), kernel, stride, sides, (False, True))[1])
    return columns[0] if width <= 3 else torch.cat(columns, -1)


def _convolution_gradients(
    gradient: Tensor,
    features: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    to_compute: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """Gradients of a depthwise convolution with respect to its features and its weight."""
    to_features, to_weight, _ = torch.ops.aten.convolution_backward(
        gradient, features, weight, None, stride, padding, [1, 1], False, [0, 0], len(weight), [*to_compute, False]
    )
    return to_features, to_weight


def recomputed(enabled: bool, module: nn.Module, function: Callable[..., Result], *inputs: Any) -> Result:
    """Result of a function of a module, with activation checkpointing in training.

    The activations are recomputed when the backward pass needs them, with the same random numbers and without a second
    update of the BatchNorm statistics.

    Args:
        enabled: whether to checkpoint activations.
        module: holds the BatchNorm layers that the function uses.
        function: the module itself, or a method of it.
        inputs: arguments of the function, which must not change them.
    """
    if not (enabled and module.training and torch.is_grad_enabled()):
        return function(*inputs)
    if torch.compiler.is_compiling():  # a compiled program updates the statistics once by itself
        compiled: Result = checkpoint(function, *inputs, use_reentrant=False)
        return compiled
    result: Result = checkpoint(
        function, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(module))
    )
    return result


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Within it, BatchNorm layers update copies of their running statistics."""
    originals = [
        (layer, name, buffer)
        for layer in module.modules()
        if layer.training
        for name, buffer in layer.named_buffers(recurse=False)
    ]
    for layer, name, buffer in originals:
        setattr(layer, name, buffer.clone())
    try:
        yield
    finally:
        for layer, name, buffer in originals:
            setattr(layer, name, buffer)


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

    Attributes:
        inplace: whether the features are overwritten, in evaluation mode only.
    """

    def __init__(self, channels: int, squeezed: int, act: Activation) -> None:
        super().__init__()
        self.inplace = False
        self.conv_reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = activation(act)
        self.conv_expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Multiplies the features by their gates in 0..1."""
        if self.training:
            features, means = _WithMeans.apply(features)
        else:
            means = features.mean((2, 3), keepdim=True)
        gates: Tensor = self.conv_expand(self.act(self.conv_reduce(means))).sigmoid()
        return features.mul_(gates) if self.inplace and not self.training else features * gates


class _WithMeans(torch.autograd.Function):
    """Features [B, C, H, W] and their channel means [B, C, 1, 1]; both gradients are added in one pass.

    Autograd alone would first expand the gradient of the means to the size of the features.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> tuple[Tensor, Tensor]:
        ctx.area = features.shape[2] * features.shape[3]
        return features.view_as(features), features.mean((2, 3), keepdim=True)

    @staticmethod
    def backward(ctx: Any, to_features: Tensor, to_means: Tensor) -> Tensor:
        gradient: Tensor = to_features + to_means / ctx.area
        return gradient


class DropPath(nn.Module):
    """Stochastic depth: drops a residual branch for whole images in training and scales the others up.

    Source: Deep Networks with Stochastic Depth (arXiv:1603.09382); EfficientNet reference, drop connect.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape, each image zeroed with probability `rate`."""
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
    """Images [B, C, H, W] of 0..255, minus the mean [C] and divided by the standard deviation [C]; float32."""
    return (images.to(torch.float32) - mean[:, None, None]) / std[:, None, None]


def for_channels(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Mean or standard deviation of images for another number of channels: the average of the given channels."""
    return values if len(values) == channels else (sum(values) / len(values),) * channels
