import functools
import math
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from effdet.errors import ConfigError
from effdet.models import EFFICIENTNETS, ModelOptions, make_spec
from effdet.models.analysis import count_parameters
from effdet.models.anchors import level_sizes
from effdet.models.efficientnet import BLOCKS, ConvBlock, FusedBlock, InvertedResidual, SeparableBlock
from effdet.models.efficientnet_specs import V2_S_STAGES
from effdet.models.layers import Conv2d, DropPath, SqueezeExcite

# name: parameters with 1000 classes, of the backbone, channels of the stages, blocks of the stages, stem, head, dropout
ROWS = {
    "_b0": (5_288_548, 3_595_388, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 32, 1280, 0.2),
    "_b1": (7_794_184, 6_101_024, (16, 24, 40, 80, 112, 192, 320), (2, 3, 3, 4, 4, 5, 2), 32, 1280, 0.2),
    "_b2": (9_109_994, 7_202_562, (16, 24, 48, 88, 120, 208, 352), (2, 3, 3, 4, 4, 5, 2), 32, 1408, 0.3),
    "_b3": (12_233_232, 10_103_336, (24, 32, 48, 96, 136, 232, 384), (2, 3, 3, 5, 5, 6, 2), 40, 1536, 0.3),
    "_b4": (19_341_616, 16_742_216, (24, 32, 56, 112, 160, 272, 448), (2, 4, 4, 6, 6, 8, 2), 48, 1792, 0.4),
    "_b5": (30_389_784, 27_288_112, (24, 40, 64, 128, 176, 304, 512), (3, 5, 5, 7, 7, 9, 3), 48, 2048, 0.4),
    "_b6": (43_040_704, 39_403_992, (32, 40, 72, 144, 200, 344, 576), (3, 6, 6, 8, 8, 11, 3), 56, 2304, 0.5),
    "_b7": (66_347_960, 62_143_440, (32, 48, 80, 160, 224, 384, 640), (4, 7, 7, 10, 10, 13, 4), 64, 2560, 0.5),
    "_b8": (87_413_142, None, (32, 56, 88, 176, 248, 424, 704), (4, 8, 8, 11, 11, 15, 4), 72, 2816, 0.5),
    "_l2": (480_309_308, None, (72, 104, 176, 344, 480, 824, 1376), (6, 11, 11, 16, 16, 22, 6), 136, 5504, 0.5),
    "_lite0": (4_652_008, 2_958_848, (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), 32, 1280, 0.2),
    "_lite1": (5_416_680, 3_723_520, (16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1), 32, 1280, 0.2),
    "_lite2": (6_092_072, 4_357_952, (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1), 32, 1280, 0.3),
    "_lite3": (8_197_096, 6_422_016, (24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1), 32, 1280, 0.3),
    "_lite4": (13_006_568, 11_149_568, (24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1), 32, 1280, 0.3),
    "v2_s": (21_458_488, None, (24, 48, 64, 128, 160, 256), (2, 4, 4, 6, 9, 15), 24, 1280, 0.2),
    "v2_m": (54_139_356, None, (24, 48, 80, 160, 176, 304, 512), (3, 5, 5, 7, 14, 18, 5), 24, 1280, 0.3),
    "v2_l": (118_515_272, None, (32, 64, 96, 192, 224, 384, 640), (4, 7, 7, 10, 19, 25, 7), 32, 1280, 0.4),
    "v2_xl": (208_119_808, None, (32, 64, 96, 192, 256, 512, 640), (4, 8, 8, 16, 24, 32, 8), 32, 1280, 0.4),
    "v2_b0": (7_139_704, None, (16, 32, 48, 96, 112, 192), (1, 2, 2, 3, 5, 8), 32, 1280, 0.2),
    "v2_b1": (8_141_052, None, (16, 32, 48, 96, 112, 192), (2, 3, 3, 4, 6, 9), 32, 1280, 0.2),
    "v2_b2": (10_096_086, None, (16, 32, 56, 104, 120, 208), (2, 3, 3, 4, 6, 10), 32, 1408, 0.3),
    "v2_b3": (14_358_406, None, (16, 40, 56, 112, 136, 232), (2, 3, 3, 5, 7, 12), 40, 1536, 0.3),
    "v2_rw_t": (13_649_388, None, (24, 40, 48, 104, 128, 208), (2, 4, 4, 6, 9, 14), 24, 1024, 0.2),
    "v2_rw_s": (23_941_296, None, (24, 48, 64, 128, 160, 272), (2, 4, 4, 6, 9, 15), 24, 1792, 0.2),
}  # fmt: skip
TABLE = {f"efficientnet{name}": row for name, row in ROWS.items()}
IMAGE_SIZES = (
    *(224, 240, 260, 300, 380, 456, 528, 600, 672, 800),
    *(224, 240, 260, 280, 300),
    *(384, 480, 480, 512, 224, 240, 260, 300, 288, 384),
)
# Google's count_params, which counts the moving mean and variance of every norm
WITH_STATISTICS = {
    "efficientnetv2_s": 21_612_360,
    "efficientnetv2_m": 54_431_388,
    "efficientnetv2_l": 119_027_848,
    "efficientnetv2_xl": 208_896_832,
    "efficientnetv2_b0": 7_200_312,
    "efficientnetv2_b1": 8_212_124,
    "efficientnetv2_b2": 10_178_374,
    "efficientnetv2_b3": 14_467_622,
}
KINDS = ["efficientnet_b0", "efficientnet_lite0", "efficientnetv2_b0"]  # one small network of each kind


@functools.cache
def on_meta(name, num_classes, **options):
    with torch.device("meta"):
        return make_spec(ModelOptions(name, **options)).build(num_classes)


def random_network(name, num_classes=0, **options):
    torch.manual_seed(0)
    return make_spec(ModelOptions(name, **options)).build(num_classes).eval()


def pictures(batch=2, channels=3, size=(64, 96)):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=generator)


def test_every_network_of_the_family_is_there_and_in_the_table():
    assert list(TABLE) == list(EFFICIENTNETS)
    assert [spec.image_size for spec in EFFICIENTNETS.values()] == [(side, side) for side in IMAGE_SIZES]


@pytest.mark.parametrize("name", TABLE)
def test_parameters_channels_and_blocks_are_those_of_the_reference(name):
    whole, backbone, channels, blocks, stem, head, dropout = TABLE[name]
    model = on_meta(name, 1000)
    assert count_parameters(model) == whole
    head_parameters = sum(map(count_parameters, (model.conv_head, model.bn2, model.classifier)))
    assert backbone in (None, whole - head_parameters)
    assert tuple(len(stage) for stage in model.blocks) == blocks
    norms = [[layer for layer in stage[-1].modules() if isinstance(layer, nn.BatchNorm2d)] for stage in model.blocks]
    assert tuple(layers[-1].num_features for layers in norms) == channels
    assert (model.conv_stem.out_channels, model.conv_head.out_channels, model.dropout.p) == (stem, head, dropout)
    assert model.feature_channels == (channels[2], channels[4], channels[-1])
    assert model.feature_strides == (8, 16, 32)


@pytest.mark.parametrize("name", WITH_STATISTICS)
def test_parameters_and_statistics_of_v2_are_those_that_the_reference_counts(name):
    model = on_meta(name, 1000)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert count_parameters(model) + sum(2 * norm.num_features for norm in norms) == WITH_STATISTICS[name]


@pytest.mark.parametrize("name", TABLE)
def test_images_are_normalised_and_cropped_as_the_released_weights_need(name):
    spec = EFFICIENTNETS[name]
    if "lite" in name:
        assert (spec.mean, spec.std) == ((127.0,) * 3, (128.0,) * 3)
    elif name in ("efficientnetv2_s", "efficientnetv2_m", "efficientnetv2_l", "efficientnetv2_xl"):
        assert (spec.mean, spec.std, spec.interpolation, spec.crop) == ((128.0,) * 3, (128.0,) * 3, "bilinear", 1.0)
    else:
        assert (spec.mean, spec.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    if "rw" not in name and name not in (
        "efficientnetv2_s",
        "efficientnetv2_m",
        "efficientnetv2_l",
        "efficientnetv2_xl",
    ):
        assert (spec.crop, spec.interpolation) == (spec.image_size[0] / (spec.image_size[0] + 32), "bicubic")


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_lite1"])
def test_without_classes_a_network_is_a_backbone(name):
    assert count_parameters(on_meta(name, 0)) == TABLE[name][1]


def test_b0_with_a_hundred_classes_has_as_many_parameters_as_the_reference():
    assert count_parameters(on_meta("efficientnet_b0", 100)) == 4_135_648


# Scaling


@pytest.mark.parametrize(
    ("channels", "width", "rounded"), [(3, 1.0, 8), (32, 1.1, 32), (16, 1.2, 24), (36, 1.0, 40), (1280, 1.1, 1408)]
)
def test_channels_round_to_eights_and_never_lose_more_than_a_tenth(channels, width, rounded):
    assert make_spec(ModelOptions("efficientnet_b0", width=width)).scaled(channels) == rounded


def test_v2_rounds_to_the_nearest_eight_even_if_that_loses_more_than_a_tenth():
    assert EFFICIENTNETS["efficientnetv2_b3"].scaled(16) == 16
    assert EFFICIENTNETS["efficientnet_b3"].scaled(16) == 24


@pytest.mark.parametrize("name", [name for name, spec in EFFICIENTNETS.items() if (spec.width, spec.depth) == (1, 1)])
def test_a_phi_of_zero_is_the_network_itself(name):
    assert make_spec(ModelOptions(name, phi=0)) == EFFICIENTNETS[name] == make_spec(ModelOptions(name))


def test_phi_scales_depth_width_and_resolution_by_the_compound_law():
    spec = make_spec(ModelOptions("efficientnet_b0", phi=2))
    assert (spec.width, spec.depth) == pytest.approx((1.21, 1.44))
    assert spec.image_size == (296, 296)
    assert [stage.repeats for stage in spec.scaled_stages()] == [2, 3, 3, 5, 5, 6, 2]


@pytest.mark.parametrize("name", KINDS)
def test_a_larger_phi_gives_a_larger_network(name):
    specs = [make_spec(ModelOptions(name, phi=phi)) for phi in (0, 0.7, 2, 6)]
    sizes = [count_parameters(on_meta(name, 0, phi=phi)) for phi in (0, 0.7, 2)]
    assert sizes == sorted(set(sizes))
    assert [spec.image_size for spec in specs] == sorted({spec.image_size for spec in specs})


def test_phi_does_not_scale_a_network_that_is_scaled_already():
    with pytest.raises(ConfigError, match="phi scales a network that is not scaled yet, but efficientnet_b3 is"):
        make_spec(ModelOptions("efficientnet_b3", phi=1))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(("width", "depth"), [(0.5, 0.5), (1.05, 1.15), (2.4, 3.1)])
def test_width_and_depth_may_lie_between_and_beyond_the_named_ones(name, width, depth):
    model = on_meta(name, 7, width=width, depth=depth).eval()
    assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 7)
    assert [len(stage) for stage in model.blocks] == [
        stage.repeats if "lite" in name and number in (0, len(model.blocks) - 1) else math.ceil(stage.repeats * depth)
        for number, stage in enumerate(EFFICIENTNETS[name].stages)
    ]


def test_a_network_between_two_named_ones_runs():
    logits = random_network("efficientnet_lite0", 5, width=0.6, depth=1.05)(pictures())
    assert logits.shape == (2, 5)
    assert logits.isfinite().all()


@pytest.mark.parametrize("key", ["width", "depth"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_a_factor_that_is_not_positive_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"{key} is {value}"):
        make_spec(ModelOptions("efficientnet_b0", **{key: value}))


# Features, vectors and logits


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("size", [(64, 96), (65, 33), (97, 50)])
def test_features_have_the_channels_and_strides_of_the_attributes(name, padding, size):
    model = random_network(name, padding=padding)
    assert model.feature_strides == (8, 16, 32)
    with torch.inference_mode():
        features = model.features(pictures(2, size=size))
    assert [tuple(feature.shape) for feature in features] == [
        (2, channels, *side) for channels, side in zip(model.feature_channels, level_sizes(size, 3, 5), strict=True)
    ]


@pytest.mark.parametrize("name", KINDS)
def test_logits_are_the_last_layer_of_the_vectors_of_the_coarsest_feature(name):
    model = random_network(name, 5)
    with torch.inference_mode():
        vectors = model.embed(pictures())
        coarsest = model.features(pictures())[-1]
        assert vectors.shape == (2, 1280)
        assert vectors.equal(model.act(model.bn2(model.conv_head(coarsest))).mean((2, 3)))
        assert model(pictures()).equal(model.classifier(vectors))


def test_dropout_acts_on_the_vectors_while_training_alone():
    model = random_network("efficientnet_lite0", 5, dropout=1.0, drop_path=0.0)
    with torch.no_grad():
        assert not model(pictures()).equal(model.classifier.bias.expand(2, 5))
        assert model.train()(pictures()).equal(model.classifier.bias.expand(2, 5))


def test_bytes_and_floats_of_the_same_picture_give_the_same():
    model = random_network("efficientnet_lite0", 5)
    with torch.inference_mode():
        assert model(pictures()).equal(model(pictures().float()))


def test_a_picture_of_the_mean_colour_is_zero_to_the_network():
    model = random_network("efficientnet_lite0")
    seen = []
    model.conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model.features(torch.full((1, 3, 32, 32), 127, dtype=torch.uint8))
    assert (seen[0] == 0).all()


def test_the_state_dict_holds_weights_and_no_constants():
    model = on_meta("efficientnet_b0", 10)
    assert not model.state_dict().keys() & {"mean", "std"}
    assert dict(model.named_buffers()).keys() >= {"mean", "std"}


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_than_three_channels_are_normalised_by_the_average(channels):
    model = random_network("efficientnet_b0", 5, in_channels=channels)
    assert model(pictures(channels=channels)).shape == (2, 5)
    torch.testing.assert_close(model.mean, torch.full((channels,), (123.675 + 116.28 + 103.53) / 3))
    torch.testing.assert_close(model.std, torch.full((channels,), (58.395 + 57.12 + 57.375) / 3))


def test_images_without_channels_are_refused():
    with pytest.raises(ConfigError, match="in_channels is 0; expected at least 1"):
        make_spec(ModelOptions("efficientnet_b0", in_channels=0))


# Blocks


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("efficientnet_b0", [SeparableBlock] + [InvertedResidual] * 6),
        ("efficientnet_lite0", [SeparableBlock] + [InvertedResidual] * 6),
        ("efficientnetv2_b0", [ConvBlock] + [FusedBlock] * 2 + [InvertedResidual] * 3),
        ("efficientnetv2_m", [ConvBlock] + [FusedBlock] * 2 + [InvertedResidual] * 4),
        ("efficientnetv2_rw_t", [ConvBlock] + [FusedBlock] * 2 + [InvertedResidual] * 3),
        ("efficientnetv2_rw_s", [FusedBlock] * 3 + [InvertedResidual] * 3),
    ],
)
def test_blocks_are_of_the_kinds_of_the_table(name, kinds):
    assert [{type(block) for block in stage} for stage in on_meta(name, 0).blocks] == [{kind} for kind in kinds]


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientnet_b1", "efficientnet_lite0", "efficientnetv2_s"])
def test_drop_path_rises_linearly_from_zero_over_the_blocks(name):
    model = on_meta(name, 0, drop_path=0.3)
    rates = [layer.rate for layer in model.modules() if isinstance(layer, DropPath)]
    assert rates == pytest.approx([0.3 * index / len(rates) for index in range(len(rates))])
    assert len(rates) == sum(TABLE[name][3])


@pytest.mark.parametrize("name", ["efficientnet_b1", "efficientnetv2_b1"])
def test_residuals_are_where_a_block_keeps_its_shape(name):
    for stage in on_meta(name, 0).blocks:
        assert [block.residual for block in stage][1:] == [True] * (len(stage) - 1)
        assert not stage[0].residual


def test_the_first_block_has_a_residual_where_the_stem_has_as_many_channels():
    assert on_meta("efficientnetv2_s", 0).blocks[0][0].residual


def test_squeezed_width_is_a_quarter_of_the_blocks_input():
    blocks = on_meta("efficientnet_b0", 0).blocks
    widths = [[block.se.conv_reduce.out_channels for block in stage] for stage in blocks]
    assert widths == [[8], [4, 6], [6, 10], [10, 20, 20], [20, 28, 28], [28, 48, 48, 48], [48]]


def test_v2_squeezes_in_its_inverted_residuals_alone():
    model = on_meta("efficientnetv2_b0", 0)
    widths = [[layer.conv_reduce.out_channels for layer in stage.modules() if isinstance(layer, SqueezeExcite)]
              for stage in model.blocks]  # fmt: skip
    assert widths == [[], [], [], [12, 24, 24], [24] + [28] * 4, [28] + [48] * 7]


def test_lite_has_no_squeeze_and_excitation_and_relu6():
    layers = list(on_meta("efficientnet_lite0", 1000).modules())
    assert not any(isinstance(layer, (SqueezeExcite, nn.SiLU)) for layer in layers)
    assert any(isinstance(layer, nn.ReLU6) for layer in layers)


def test_kernels_strides_and_batch_norm_are_those_of_the_reference():
    model = on_meta("efficientnet_b0", 0)
    assert [stage[0].conv_dw.kernel_size[0] for stage in model.blocks] == [3, 3, 5, 3, 5, 5, 3]
    assert [stage[0].conv_dw.stride[0] for stage in model.blocks] == [1, 2, 2, 2, 1, 2, 1]
    assert all(block.conv_dw.stride == (1, 1) for stage in model.blocks for block in stage[1:])
    assert {(layer.eps, layer.momentum) for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {
        (1e-3, 0.01)
    }


def test_kernels_and_strides_of_v2_are_those_of_the_reference():
    model = on_meta("efficientnetv2_b0", 0)
    convs = [[layer for layer in stage.modules() if isinstance(layer, Conv2d)] for stage in model.blocks]
    assert {conv.kernel_size for stage in convs for conv in stage} == {(3, 3), (1, 1)}
    assert [max(conv.stride[0] for conv in stage) for stage in convs] == [1, 2, 2, 2, 1, 2]
    assert all(sum(conv.stride == (2, 2) for conv in stage) <= 1 for stage in convs)


def test_the_momentum_reaches_every_batch_norm():
    model = on_meta("efficientnet_b0", 5, norm_momentum=0.1)
    assert {layer.momentum for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)} == {0.1}


def test_a_separable_block_is_the_written_out_formula():
    block = random_network("efficientnet_b1", drop_path=0).blocks[0][1]
    x = torch.randn(2, 16, 6, 6)
    silu = nn.functional.silu
    branch = silu(block.bn1(nn.functional.conv2d(x, block.conv_dw.weight, padding=1, groups=16)))
    torch.testing.assert_close(block(x), block.bn2(block.conv_pw(block.se(branch))) + x)


def test_an_inverted_residual_is_the_written_out_formula():
    block = random_network("efficientnet_b0", drop_path=0).blocks[1][1]
    x = torch.randn(2, 24, 6, 6)
    silu = nn.functional.silu
    branch = silu(block.bn1(block.conv_pw(x)))
    branch = silu(block.bn2(nn.functional.conv2d(branch, block.conv_dw.weight, padding=1, groups=144)))
    torch.testing.assert_close(block(x), block.bn3(block.conv_pwl(block.se(branch))) + x)


def test_a_fused_block_is_the_written_out_formula():
    block = random_network("efficientnetv2_b0", drop_path=0).blocks[1][1]
    x = torch.randn(2, 32, 6, 6)
    branch = nn.functional.silu(block.bn1(nn.functional.conv2d(x, block.conv_exp.weight, padding=1)))
    torch.testing.assert_close(block(x), block.bn2(block.conv_pwl(branch)) + x)


def test_a_fused_block_without_expansion_is_activated_before_the_residual():
    block = random_network("efficientnetv2_b1", drop_path=0).blocks[0][1]
    x = torch.randn(2, 16, 6, 6)
    branch = nn.functional.silu(block.bn1(nn.functional.conv2d(x, block.conv.weight, padding=1)))
    torch.testing.assert_close(block(x), branch + x)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_strided_block_halves_and_rounds_up_without_a_residual(kind):
    stage = V2_S_STAGES[1]._replace(block=kind, channels=16)
    block = BLOCKS[kind](16, stage, 2, EFFICIENTNETS["efficientnetv2_s"], 0.0).eval()
    assert not block.residual
    assert block(torch.randn(1, 16, 7, 10)).shape == (1, 16, 4, 5)


def test_kernels_start_with_the_standard_deviation_of_the_reference():
    model = random_network("efficientnet_b0", 1000)
    for conv in (model.conv_stem, model.blocks[5][1].conv_dw, model.blocks[5][1].conv_pwl, model.conv_head):
        fan_out = conv.kernel_size[0] ** 2 * (1 if conv.groups > 1 else conv.out_channels)
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.06)
    assert model.classifier.weight.abs().max() <= 1000**-0.5
    assert model.classifier.weight.std().item() == pytest.approx(1000**-0.5 / math.sqrt(3), rel=0.02)
    assert all((value == 0).all() for name, value in model.named_parameters() if name.endswith("bias"))


def test_an_unknown_network_is_refused_with_near_names():
    with pytest.raises(ConfigError, match="unknown model 'efficientnet_b00'; did you mean efficientnet_b0"):
        make_spec(ModelOptions("efficientnet_b00"))


def shaken(model):
    """A network of another library in evaluation mode, with norms that do something."""
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.1, 0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    return model.eval()


def assert_near(given, expected):
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("name", "theirs", "norm_eps", "ends"),
    [
        ("efficientnet_b0", "efficientnet_b0", 1e-5, (4, 6, 8)),
        ("efficientnet_b1", "efficientnet_b1", 1e-5, (4, 6, 8)),
        ("efficientnetv2_s", "efficientnet_v2_s", 1e-3, (4, 6, 7)),
        pytest.param("efficientnetv2_l", "efficientnet_v2_l", 1e-3, (4, 6, 8), marks=pytest.mark.slow),
    ],
)
def test_symmetric_padding_computes_what_torchvision_computes(name, theirs, norm_eps, ends):
    torch.manual_seed(0)
    reference = shaken(getattr(torchvision.models, theirs)())
    spec = make_spec(ModelOptions(name, padding="symmetric"))
    model = replace(spec, norm_eps=norm_eps, mean=(0.0,) * 3, std=(1.0,) * 3).build(1000).eval()
    state = dict(zip(model.state_dict(), reference.state_dict().values(), strict=True))  # layers in the same order
    model.load_state_dict(state)
    images = torch.randn(2, 3, 97, 64)
    with torch.inference_mode():
        assert_near(model(images), reference(images))
        for feature, end in zip(model.features(images), ends, strict=True):
            assert_near(feature, reference.features[:end](images))


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("efficientnet_b0", "tf_efficientnet_b0"),
        ("efficientnetv2_b3", "tf_efficientnetv2_b3"),
        ("efficientnetv2_rw_t", "efficientnetv2_rw_t"),
        ("efficientnetv2_rw_s", "efficientnetv2_rw_s"),
        pytest.param("efficientnetv2_l", "tf_efficientnetv2_l", marks=pytest.mark.slow),
        pytest.param("efficientnetv2_xl", "tf_efficientnetv2_xl", marks=pytest.mark.slow),
    ],
)
def test_a_network_computes_what_timm_computes(name, theirs):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    reference = shaken(timm.create_model(theirs))
    model = replace(EFFICIENTNETS[name], mean=(0.0,) * 3, std=(1.0,) * 3).build(1000).eval()
    model.load_state_dict(reference.state_dict())
    images = torch.randn(2, 3, 97, 64)
    with torch.inference_mode():
        assert_near(model(images), reference(images))
        assert_near(model.embed(images), reference.global_pool(reference.forward_features(images)))


def test_padding_is_a_property_of_strided_convolutions_alone():
    for name in KINDS:
        convs = [layer for layer in on_meta(name, 0, padding="same").modules() if isinstance(layer, Conv2d)]
        assert [conv.pads_same for conv in convs] == [conv.stride != (1, 1) for conv in convs]
        symmetric = on_meta(name, 0, padding="symmetric")
        assert not any(layer.pads_same for layer in symmetric.modules() if isinstance(layer, Conv2d))
