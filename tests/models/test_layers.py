import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdet.models.layers import (
    Conv2d,
    DropPath,
    SeparableConv,
    SqueezeExcite,
    activation,
    init_backbone_conv,
    init_head_conv,
    init_neck_conv,
    max_pool,
    normalise,
    same_padding,
)

SIZES = [(1, 1), (2, 3), (5, 8), (7, 7), (8, 8), (9, 4)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def slow_windows(image, kernel, stride, before, outside):
    """[C, H', W', k, k] windows of an image [C, H, W], cut one by one; `before` are the (top, left) pixels outside."""
    channels, height, width = image.shape
    rows, columns = -(-height // stride), -(-width // stride)
    windows = np.full((channels, rows, columns, kernel, kernel), outside, np.float64)
    for row in range(rows):
        for column in range(columns):
            for down in range(kernel):
                for across in range(kernel):
                    y, x = row * stride + down - before[0], column * stride + across - before[1]
                    if 0 <= y < height and 0 <= x < width:
                        windows[:, row, column, down, across] = image[:, y, x]
    return windows


def tensorflow_before(size, kernel, stride):
    """Pixels before the axis in TensorFlow's SAME, by its definition."""
    return max((math.ceil(size / stride) - 1) * stride + kernel - size, 0) // 2


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (8, 3, 1, (1, 1)),
        (8, 5, 1, (2, 2)),
        (8, 3, 2, (0, 1)),
        (8, 5, 2, (1, 2)),
        (7, 3, 2, (1, 1)),
        (7, 5, 2, (2, 2)),
        (1, 3, 2, (1, 1)),
        (1, 1, 2, (0, 0)),
    ],
)
def test_same_padding_has_its_odd_pixel_at_the_end(size, kernel, stride, expected):
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", SIZES)
def test_convolution_pads_as_a_slow_loop_does(size, kernel, stride, padding):
    conv = Conv2d(2, 3, kernel, stride, padding=padding)
    image = random(2, *size)
    before = [tensorflow_before(side, kernel, stride) if padding == "same" else kernel // 2 for side in size]
    windows = slow_windows(image.numpy(), kernel, stride, before, 0.0)
    expected = np.einsum("cyxij,ocij->oyx", windows, conv.weight.detach().numpy())
    np.testing.assert_allclose(conv(image[None])[0].detach().numpy(), expected, atol=1e-5)


def test_depthwise_convolution_keeps_channels_apart():
    conv = Conv2d(4, 4, 5, 2, groups=4)
    image = random(1, 4, 8, 11)
    for channel in range(4):
        alone = Conv2d(1, 1, 5, 2)
        alone.weight.data = conv.weight.data[channel : channel + 1]
        torch.testing.assert_close(conv(image)[:, channel], alone(image[:, channel : channel + 1])[:, 0])


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", SIZES)
def test_max_pool_counts_the_outside_as_minus_infinity(size, padding):
    image = random(2, *size) - 10  # padding with zeros would show
    before = [tensorflow_before(side, 3, 2) if padding == "same" else 1 for side in size]
    expected = slow_windows(image.numpy(), 3, 2, before, -np.inf).max((3, 4))
    np.testing.assert_array_equal(max_pool(image[None], padding)[0].numpy(), expected.astype(np.float32))


# The depthwise convolution of CPU autocast


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize(
    ("kernel", "stride", "size"), [(3, 1, (9, 8)), (3, 2, (8, 8)), (5, 2, (9, 12)), (5, 1, (4, 4))]
)
def test_depthwise_gradients_under_autocast_agree_with_float32(kernel, stride, size, padding):
    conv = Conv2d(8, 8, kernel, stride, groups=8, padding=padding)
    image = random(4, 8, *size)
    results = []
    for autocast in (False, True):
        conv.zero_grad()
        features = image.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = conv(features)
        assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
        (out.float() * random(*out.shape, seed=1)).sum().backward()
        assert features.grad.dtype == conv.weight.grad.dtype == torch.float32
        results.append((out.detach().float(), features.grad, conv.weight.grad.clone()))
    for exact, low in zip(*results, strict=True):
        assert (exact - low).abs().max() <= 0.02 * exact.abs().max()


@pytest.mark.parametrize("frozen", ["features", "weight"])
def test_depthwise_autocast_gives_gradients_only_where_required(frozen):
    conv = Conv2d(4, 4, 3, 2, groups=4)
    features = random(1, 4, 8, 8).requires_grad_(frozen != "features")
    conv.weight.requires_grad_(frozen != "weight")
    with torch.autocast("cpu", torch.bfloat16):
        conv(features).float().sum().backward()
    assert (features.grad is None) == (frozen == "features")
    assert (conv.weight.grad is None) == (frozen == "weight")


def test_depthwise_autocast_keeps_channels_last():
    conv = Conv2d(8, 8, 3, groups=8)
    features = random(2, 8, 6, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(conv(features.contiguous(memory_format=torch.channels_last)), conv(features))


# Small layers


def test_squeeze_and_excitation_gates_channels_by_their_means():
    layer = SqueezeExcite(6, 2, "silu")
    features = random(3, 6, 4, 5)
    reduce, expand = layer.conv_reduce, layer.conv_expand
    hidden = features.mean((2, 3)) @ reduce.weight[:, :, 0, 0].T + reduce.bias
    gates = ((hidden * hidden.sigmoid()) @ expand.weight[:, :, 0, 0].T + expand.bias).sigmoid()
    torch.testing.assert_close(layer(features), features * gates[:, :, None, None])


def test_drop_path_drops_whole_images_and_keeps_the_mean():
    torch.manual_seed(0)
    layer = DropPath(0.2).train()
    values = layer(torch.ones(20000, 2, 3, 1)).flatten(1)
    assert (values == values[:, :1]).all()
    assert values.unique().tolist() == [0, pytest.approx(1 / 0.8)]
    assert values.mean().item() == pytest.approx(1, abs=0.02)
    assert (values == 0).float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_drop_path_changes_nothing_in_evaluation_or_at_rate_zero():
    features = random(4, 2, 3, 3)
    assert DropPath(0.9).eval()(features) is features
    assert DropPath(0.0).train()(features) is features


def test_separable_convolution_is_depthwise_then_pointwise_with_nothing_between():
    layer = SeparableConv(4, 6)
    assert [name for name, _ in layer.named_parameters()] == ["depthwise.weight", "pointwise.weight", "pointwise.bias"]
    features = random(2, 4, 5, 5)
    between = F.conv2d(features, layer.depthwise.weight, padding=1, groups=4)
    expected = torch.einsum("bchw,oc->bohw", between, layer.pointwise.weight[:, :, 0, 0])
    torch.testing.assert_close(layer(features), expected + layer.pointwise.bias[:, None, None])


def test_activations_follow_their_formulas():
    values = torch.linspace(-9, 9, 37)
    torch.testing.assert_close(activation("silu")(values.clone()), values / (1 + (-values).exp()))
    torch.testing.assert_close(activation("relu6")(values.clone()), values.clamp(0, 6))


def test_normalised_pixels_are_float32_of_zero_mean_and_unit_standard_deviation():
    mean, std = torch.tensor([127.0, 100, 50]), torch.tensor([128.0, 50, 25])
    pixels = torch.tensor([[255, 127], [150, 100], [75, 0]], dtype=torch.uint8).reshape(1, 3, 1, 2)
    out = normalise(pixels, mean, std)
    assert out.dtype == torch.float32
    assert out.flatten().tolist() == [1, 0, 1, 0, 1, -2]


# Initialisers; a depthwise kernel's fans are those of TensorFlow


CONVS = {
    "pointwise": (nn.Conv2d(256, 512, 1), 256, 512),
    "dense": (nn.Conv2d(64, 128, 3), 64 * 9, 128 * 9),
    "depthwise": (nn.Conv2d(4096, 4096, 3, groups=4096), 4096 * 9, 9),
    "depthwise of 5": (nn.Conv2d(2048, 2048, 5, groups=2048), 2048 * 25, 25),
}


@pytest.mark.parametrize("name", CONVS)
def test_backbone_kernels_start_normal_by_fan_out(name):
    conv, _, fan_out = CONVS[name]
    init_backbone_conv(conv)
    assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    assert conv.weight.abs().max() > 3 * math.sqrt(2 / fan_out)  # no truncation
    assert (conv.bias == 0).all()


@pytest.mark.parametrize("name", CONVS)
def test_neck_kernels_start_glorot_uniform(name):
    conv, fan_in, fan_out = CONVS[name]
    init_neck_conv(conv)
    limit = math.sqrt(6 / (fan_in + fan_out))
    assert limit * 0.99 < conv.weight.abs().max() <= limit
    assert conv.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert (conv.bias == 0).all()


@pytest.mark.parametrize("name", CONVS)
def test_head_kernels_start_truncated_normal_by_fan_in(name):
    conv, fan_in, _ = CONVS[name]
    init_head_conv(conv)
    std = math.sqrt(1 / fan_in)
    assert conv.weight.std().item() == pytest.approx(std, rel=0.02)
    assert conv.weight.abs().max() <= 2 * std / 0.8796 * 1.001
    assert (conv.bias == 0).all()


def test_squeeze_and_excitation_learns_as_it_evaluates():
    torch.manual_seed(0)
    layer = SqueezeExcite(6, 2, "silu").double()
    features = torch.randn(2, 6, 5, 3, dtype=torch.float64, requires_grad=True)
    results = [
        (value, *torch.autograd.grad(value.square().sum(), [features, *layer.parameters()]))
        for value in (layer.train()(features), layer.eval()(features))
    ]
    torch.testing.assert_close(results[0], results[1])
    assert torch.autograd.gradcheck(layer.train(), features)


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_depthwise_gradients_in_bfloat16_are_those_of_float32(kernel, stride, padding):
    torch.manual_seed(0)
    conv = Conv2d(8, 8, kernel, stride, groups=8, padding=padding)
    conv.weight.data = conv.weight.data.bfloat16().float()
    features = torch.randn(2, 8, 12, 9).bfloat16().float().to(memory_format=torch.channels_last).requires_grad_()
    expected = conv(features)
    with torch.autocast("cpu", torch.bfloat16):
        value = conv(features)
    assert value.dtype == torch.bfloat16
    gradient = torch.randn_like(value).float()
    to_features, to_weight = torch.autograd.grad(value, [features, conv.weight], gradient.bfloat16())
    wanted_features, wanted_weight = torch.autograd.grad(expected, [features, conv.weight], gradient)
    torch.testing.assert_close(to_features, wanted_features, rtol=0.01, atol=0.03)
    torch.testing.assert_close(to_weight, wanted_weight, rtol=1e-4, atol=1e-4)
