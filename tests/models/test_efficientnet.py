import math

import pytest
import torch
import torchvision
from torch import nn

from effdet.errors import ConfigError
from effdet.models.efficientnet import (
    EFFICIENTNETS,
    DepthwiseBlock,
    InvertedResidual,
    build_efficientnet,
    count_parameters,
    round_channels,
)
from effdet.models.layers import Conv2d, DropPath, SqueezeExcite

# name: parameters with 1000 classes, of the trunk, channels of the stages, blocks of the stages, stem, head, dropout
TABLE = {
    "b0": (5_288_548, 3_595_388, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 32, 1280, 0.2),
    "b1": (7_794_184, 6_101_024, (16, 24, 40, 80, 112, 192, 320), (2, 3, 3, 4, 4, 5, 2), 32, 1280, 0.2),
    "b2": (9_109_994, 7_202_562, (16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2), 32, 1408, 0.3),
    "b3": (12_233_232, 10_103_336, (24, 32, 48, 96, 136, 232, 384), (2, 3, 3, 5, 5, 6, 2), 40, 1536, 0.3),
    "b4": (19_341_616, 16_742_216, (24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2), 48, 1792, 0.4),
    "b5": (30_389_784, 27_288_112, (24, 40, 64, 128, 176, 304, 512), (3, 5, 5, 7, 7, 9, 3), 48, 2048, 0.4),
    "b6": (43_040_704, 39_403_992, (32, 40, 72, 144, 200, 344, 576), (3, 6, 6, 8, 8, 11, 3), 56, 2304, 0.5),
    "b7": (66_347_960, 62_143_440, (32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4), 64, 2560, 0.5),
    "b8": (87_413_142, None, (32, 56, 88, 176, 248, 424, 704), (4, 8, 8, 11, 11, 15, 4), 72, 2816, 0.5),
    "l2": (480_309_308, None, (72, 104, 176, 344, 480, 824, 1376), (6, 11, 11, 16, 16, 22, 6), 136, 5504, 0.5),
    "lite0": (4_652_008, 2_958_848, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 32, 1280, 0.2),
    "lite1": (5_416_680, 3_723_520, (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1), 32, 1280, 0.2),
    "lite2": (6_092_072, 4_357_952, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1), 32, 1280, 0.3),
    "lite3": (8_197_096, 6_422_016, (24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1), 32, 1280, 0.3),
    "lite4": (13_006_568, 11_149_568, (24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1), 32, 1280, 0.3),
}  # fmt: skip
IMAGE_SIZES = (224, 240, 260, 300, 380, 456, 528, 600, 672, 800, 224, 240, 260, 280, 300)


def on_meta(name, num_classes, **options):
    with torch.device("meta"):
        return build_efficientnet(f"efficientnet_{name}", num_classes, **options)


def test_every_network_of_the_family_is_there_and_in_the_table():
    assert {f"efficientnet_{name}" for name in TABLE} == EFFICIENTNETS.keys()
    assert tuple(EFFICIENTNETS[f"efficientnet_{name}"].image_size for name in TABLE) == IMAGE_SIZES


@pytest.mark.parametrize("name", TABLE)
def test_parameters_channels_and_blocks_are_those_of_the_reference(name):
    whole, trunk, channels, blocks, stem, head, dropout = TABLE[name]
    model = on_meta(name, 1000)
    assert count_parameters(model) == whole
    head_parameters = sum(map(count_parameters, (model.conv_head, model.bn2, model.classifier)))
    assert trunk in (None, whole - head_parameters)
    assert tuple(len(stage) for stage in model.blocks) == blocks
    last = [
        block.bn2 if isinstance(block, DepthwiseBlock) else block.bn3 for block in (stage[-1] for stage in model.blocks)
    ]
    assert tuple(norm.num_features for norm in last) == channels
    assert (model.conv_stem.out_channels, model.conv_head.out_channels, model.dropout.p) == (stem, head, dropout)
    assert model.feature_channels == (channels[2], channels[4], channels[6])
    assert model.feature_strides == (8, 16, 32)


@pytest.mark.parametrize("name", ["b0", "lite1"])
def test_without_classes_a_network_is_its_trunk_alone(name):
    assert count_parameters(on_meta(name, 0)) == TABLE[name][1]


def test_b0_with_a_hundred_classes_has_as_many_parameters_as_the_reference():
    assert count_parameters(on_meta("b0", 100)) == 4_135_648


@pytest.mark.parametrize(
    ("channels", "rounded"), [(3, 8), (32 * 1.1, 32), (16 * 1.2, 24), (36, 40), (1280 * 1.1, 1408)]
)
def test_channels_round_to_eights_and_never_lose_more_than_a_tenth(channels, rounded):
    assert round_channels(channels) == rounded


@pytest.mark.parametrize(
    ("size", "expected"), [((64, 96), [(8, 12), (4, 6), (2, 3)]), ((65, 33), [(9, 5), (5, 3), (3, 2)])]
)
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_features_halve_and_round_up(size, expected, padding):
    model = build_efficientnet("efficientnet_lite0", 0, padding=padding).eval()
    with torch.inference_mode():
        features = model.features(torch.randn(2, 3, *size))
    assert [tuple(feature.shape) for feature in features] == [
        (2, channels, *side) for channels, side in zip((40, 112, 320), expected, strict=True)
    ]


@pytest.mark.parametrize("name", ["b0", "b1", "lite0"])
def test_drop_path_rises_linearly_from_zero_over_the_blocks(name):
    model = on_meta(name, 0, drop_path=0.2)
    rates = [layer.rate for layer in model.modules() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0.2 * index / len(rates) for index in range(len(rates))])
    assert len(rates) == sum(TABLE[name][3])


def test_residuals_are_where_a_block_keeps_its_shape():
    for stage in on_meta("b1", 0).blocks:
        assert [block.residual for block in stage][1:] == [True] * (len(stage) - 1)
        assert not stage[0].residual


def test_squeezed_width_is_a_quarter_of_the_blocks_input():
    blocks = on_meta("b0", 0).blocks
    widths = [[block.se.conv_reduce.out_channels for block in stage] for stage in blocks]
    assert widths == [[8], [4, 6], [6, 10], [10, 20, 20], [20, 28, 28], [28, 48, 48, 48], [48]]


def test_lite_has_no_squeeze_and_excitation_and_relu6():
    layers = list(on_meta("lite0", 1000).modules())
    assert not any(isinstance(layer, (SqueezeExcite, nn.SiLU)) for layer in layers)
    assert any(isinstance(layer, nn.ReLU6) for layer in layers)


def test_kernels_strides_and_norms_are_those_of_the_reference():
    model = on_meta("b0", 0)
    assert [stage[0].conv_dw.kernel_size[0] for stage in model.blocks] == [3, 3, 5, 3, 5, 5, 3]
    assert [stage[0].conv_dw.stride[0] for stage in model.blocks] == [1, 2, 2, 2, 1, 2, 1]
    assert all(block.conv_dw.stride == (1, 1) for stage in model.blocks for block in stage[1:])
    assert {(layer.eps, layer.momentum) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {
        (1e-3, 0.01)
    }


def test_an_unexpanded_block_is_the_written_out_formula():
    block = build_efficientnet("efficientnet_b1", 0, drop_path=0).blocks[0][1].eval()
    x = torch.randn(2, 16, 6, 6)
    silu = nn.functional.silu
    branch = silu(block.bn1(nn.functional.conv2d(x, block.conv_dw.weight, padding=1, groups=16)))
    torch.testing.assert_close(block(x), block.bn2(block.conv_pw(block.se(branch))) + x)


def test_an_expanded_block_is_the_written_out_formula():
    block = build_efficientnet("efficientnet_b0", 0, drop_path=0).blocks[1][1].eval()
    assert isinstance(block, InvertedResidual)
    x = torch.randn(2, 24, 6, 6)
    silu = nn.functional.silu
    branch = silu(block.bn1(block.conv_pw(x)))
    branch = silu(block.bn2(nn.functional.conv2d(branch, block.conv_dw.weight, padding=1, groups=144)))
    torch.testing.assert_close(block(x), block.bn3(block.conv_pwl(block.se(branch))) + x)


def test_kernels_start_with_the_spread_of_the_reference():
    model = build_efficientnet("efficientnet_b0", 1000)
    for conv in (model.conv_stem, model.blocks[5][1].conv_dw, model.blocks[5][1].conv_pwl, model.conv_head):
        fan_out = conv.kernel_size[0] ** 2 * (1 if conv.groups > 1 else conv.out_channels)
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06)
    assert model.classifier.weight.abs().max() <= 1000**-0.5
    assert model.classifier.weight.std().item() == pytest.approx(1000**-0.5 / math.sqrt(3), rel=0.02)
    assert all((value == 0).all() for name, value in model.named_parameters() if name.endswith("bias"))


def test_a_network_may_take_other_than_three_channels():
    model = build_efficientnet("efficientnet_lite0", 5, in_channels=1).eval()
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 5)


def test_an_unknown_network_is_refused_with_near_names():
    with pytest.raises(ConfigError, match="unknown model 'efficientnet_b00'; did you mean efficientnet_b0"):
        build_efficientnet("efficientnet_b00", 10)


@pytest.mark.parametrize("name", ["b0", "b1"])
def test_symmetric_padding_computes_what_torchvision_computes(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, f"efficientnet_{name}")().eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    ours = build_efficientnet(f"efficientnet_{name}", 1000, padding="symmetric", norm_eps=1e-5).eval()
    state = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))  # the same layers in the same order
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 97, 64)
    with torch.inference_mode():
        expected, logits = theirs(images), ours(images)
        features = theirs.features[:4](images), theirs.features[:6](images), theirs.features[:8](images)
        for feature, expected_feature in zip(ours.features(images), features, strict=True):
            torch.testing.assert_close(
                feature, expected_feature, rtol=1e-4, atol=1e-5 * expected_feature.abs().max().item()
            )
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


def test_padding_is_a_property_of_strided_convolutions_alone():
    model = on_meta("b0", 0, padding="same")
    assert [conv.pads_same for conv in model.modules() if isinstance(conv, Conv2d)] == [
        conv.stride != (1, 1) for conv in model.modules() if isinstance(conv, Conv2d)
    ]
