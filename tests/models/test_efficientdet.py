import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from effdet.errors import ConfigError
from effdet.losses import DetectionLoss
from effdet.models import EFFICIENTDETS, EFFICIENTNETS, ModelOptions, list_models, make_spec
from effdet.models.analysis import count_parameters
from effdet.models.anchors import anchor_boxes
from effdet.models.layers import Conv2d, DropPath
from effdet.structures import Target

# name: parameters with 90 classes, of backbone, neck, class head, box head; anchors at its own size; image size
TABLE = {
    "d0": (3_880_067, 3_595_388, 196_281, 69_354, 19_044, 49_104, 512),
    "d1": (6_625_898, 6_101_024, 390_972, 101_394, 32_508, 76_725, 640),
    "d2": (8_097_039, 7_202_562, 708_159, 136_890, 49_428, 110_484, 768),
    "d3": (12_032_296, 10_103_336, 1_559_474, 247_050, 122_436, 150_381, 896),
    "d4": (20_723_675, 16_742_216, 3_349_829, 402_890, 228_740, 196_416, 1024),
    "d5": (33_653_315, 27_288_112, 5_405_893, 591_498, 367_812, 306_900, 1280),
    "d6": (51_871_782, 39_403_992, 10_583_808, 1_090_986, 792_996, 306_900, 1280),
    "d7": (51_871_782, 39_403_992, 10_583_808, 1_090_986, 792_996, 441_936, 1536),
    "d7x": (77_147_166, 62_143_440, 13_112_064, 1_094_826, 796_836, 442_260, 1536),
    "lite0": (3_243_470, 2_958_848, 196_224, 69_354, 19_044, 19_206, 320),
    "lite1": (4_248_318, 3_723_520, 390_896, 101_394, 32_508, 27_621, 384),
    "lite2": (5_252_334, 4_357_952, 708_064, 136_890, 49_428, 37_629, 448),
    "lite3": (8_350_862, 6_422_016, 1_559_360, 247_050, 122_436, 49_104, 512),
    "lite3x": (9_280_862, 6_422_016, 2_333_200, 340_610, 185_036, 76_725, 640),
    "lite4": (15_130_894, 11_149_568, 3_349_696, 402_890, 228_740, 76_725, 640),
}
SCALES = dict.fromkeys(TABLE, 4.0) | {"d7": 5.0, "lite0": 3.0, "lite1": 3.0, "lite2": 3.0, "lite3x": 3.0}
KIN = ["efficientdet_q0", "efficientdet_q1", "efficientdet_q2", "efficientdetv2_dt", "efficientdetv2_ds"]
BASES = ["efficientdet_d0", "efficientdet_lite0"]


@functools.cache
def on_meta(name, num_classes=90, **options):
    with torch.device("meta"):
        return make_spec(ModelOptions(f"efficientdet_{name}", **options)).build(num_classes)


def small(num_classes=3, name="lite0", **options):
    torch.manual_seed(0)
    options = {"image_size": (64, 96), **options}
    return make_spec(ModelOptions(f"efficientdet_{name}", **options)).build(num_classes)


def lively(**options):
    """A small model in evaluation mode with BatchNorm statistics of its features: outputs differ by position."""
    model = small(drop_path=0.0, norm_momentum=1.0, **options).train()
    with torch.no_grad():
        deviation = model(pictures(4)).class_logits.std()
    assert deviation > 0.01
    return model.eval()


def pictures(batch=2, size=(64, 96), channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=generator)


def test_every_detector_of_the_family_is_listed_before_the_classifiers():
    assert [*(f"efficientdet_{name}" for name in TABLE), *KIN] == list(EFFICIENTDETS)
    assert list_models() == [*EFFICIENTDETS, *EFFICIENTNETS]
    assert all(spec.name == name for name, spec in EFFICIENTDETS.items())


@pytest.mark.parametrize("name", TABLE)
def test_parameters_anchors_and_size_are_those_of_the_reference(name):
    model = on_meta(name)
    parts = (model, model.backbone, model.neck, model.class_head, model.box_head)
    assert tuple(count_parameters(part) for part in parts) == TABLE[name][:5]
    assert model.anchors.shape == (TABLE[name][5], 4)
    assert model.image_size == (TABLE[name][6],) * 2
    assert model.spec.anchor_scale == SCALES[name]


@pytest.mark.parametrize("name", KIN)
def test_detectors_trained_in_pytorch_have_its_padding_and_epsilon(name):
    with torch.device("meta"):
        model = EFFICIENTDETS[name].build(90)
    assert {norm.eps for norm in norms_of(model.backbone)} == {1e-5}
    assert {norm.eps for norm in norms_of(model) if norm not in norms_of(model.backbone)} == {1e-3}
    assert not any(conv.pads_same for conv in model.modules() if isinstance(conv, Conv2d))
    assert model.neck.padding == "symmetric"
    assert (len(model.neck.cells[0].nodes) == 21) == ("_q" in name)


def norms_of(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_classes_change_the_class_head_alone():
    assert count_parameters(on_meta("d0", 80)) == 3_874_217
    twenty = on_meta("d0", 20)
    assert count_parameters(twenty) == 3_839_117
    assert twenty.num_classes == 20


@pytest.mark.parametrize(("name", "rate"), [("d0", 0.0), ("d1", 0.2), ("lite0", 0.2)])
def test_stochastic_depth_is_off_in_d0_alone(name, rate):
    rates = [layer.rate for layer in on_meta(name).modules() if isinstance(layer, DropPath)]
    assert max(rates) == pytest.approx(rate * (len(rates) - 1) / len(rates))
    assert rates[0] == 0


def test_stochastic_depth_can_be_chosen():
    rates = [layer.rate for layer in on_meta("d0", drop_path=0.1).modules() if isinstance(layer, DropPath)]
    assert max(rates) == pytest.approx(0.1 * 15 / 16)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("name", ["d0", "q0"])
def test_padding_reaches_backbone_and_neck(name, padding):
    model = on_meta(name, padding=padding)
    strided = [conv for conv in model.modules() if isinstance(conv, Conv2d) and conv.stride != (1, 1)]
    assert {conv.pads_same for conv in strided} == {padding == "same"}
    assert {model.neck.padding, *(node.padding for cell in model.neck.cells for node in cell.nodes)} == {padding}


def test_the_momentum_reaches_every_batch_norm():
    norms = norms_of(on_meta("lite0", norm_momentum=0.1))
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.1)}


def test_every_batch_norm_has_the_reference_epsilon_and_momentum():
    assert {(norm.eps, norm.momentum) for norm in norms_of(small())} == {(1e-3, 0.01)}


def test_images_are_normalised_and_padded_as_the_released_weights_need():
    d0 = EFFICIENTDETS["efficientdet_d0"]
    assert (d0.backbone.mean, d0.backbone.std) == ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
    assert d0.fill_color == (124, 116, 104)
    lite = small()
    assert (lite.backbone.mean.tolist(), lite.backbone.std.tolist()) == ([127.0] * 3, [128.0] * 3)
    assert lite.spec.fill_color == (127, 127, 127)
    assert replace(d0, black_padding=True).fill_color == (0, 0, 0)


def test_an_unknown_detector_is_refused_with_near_names():
    with pytest.raises(ConfigError, match="unknown model 'efficientdet_d9'; did you mean efficientdet_d"):
        make_spec(ModelOptions("efficientdet_d9"))


# Scaling


@pytest.mark.parametrize("name", BASES)
def test_a_phi_of_zero_is_the_detector_itself(name):
    spec = EFFICIENTDETS[name]
    assert make_spec(ModelOptions(name)) == spec
    assert make_spec(ModelOptions(name, phi=0)) == spec


@pytest.mark.parametrize(
    ("phi", "channels", "cells", "repeats", "side"), [(1, 88, 4, 3, 640), (2, 120, 5, 3, 768), (3, 160, 6, 4, 896)]
)
def test_phi_scales_neck_heads_and_image_by_the_compound_law(phi, channels, cells, repeats, side):
    spec = make_spec(ModelOptions("efficientdet_d0", phi=phi))
    assert (spec.channels, spec.num_cells, spec.num_repeats, spec.image_size) == (channels, cells, repeats, (side,) * 2)
    assert (spec.backbone.width, spec.backbone.depth) == pytest.approx((1.1**phi, 1.2**phi))


@pytest.mark.parametrize("name", BASES)
def test_a_larger_phi_gives_a_larger_detector(name):
    specs = [make_spec(ModelOptions(name, phi=phi)) for phi in (0, 0.5, 1.7, 4, 7)]
    assert [spec.image_size for spec in specs] == sorted({spec.image_size for spec in specs})
    sizes = [count_parameters(on_meta(name.removeprefix("efficientdet_"), phi=phi)) for phi in (0, 0.5, 1.7)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("name", ["efficientdet_d1", "efficientdet_lite3x", "efficientdet_q0", "efficientdetv2_dt"])
def test_phi_does_not_scale_a_detector_that_is_scaled_already(name):
    with pytest.raises(ConfigError, match=f"phi scales a detector that is not scaled yet, but {name} is"):
        make_spec(ModelOptions(name, phi=1))


def test_width_and_depth_are_those_of_the_backbone():
    plain, changed = on_meta("d0"), on_meta("d0", width=0.7, depth=1.5)
    assert [len(stage) for stage in changed.backbone.blocks] == [2, 3, 3, 5, 5, 6, 2]
    assert changed.backbone.feature_channels == (32, 80, 224)
    assert count_parameters(changed.class_head) == count_parameters(plain.class_head)
    outputs = small(width=0.7, depth=1.5).eval()(pictures())
    assert outputs.class_logits.shape == (2, len(outputs.anchors), 3)


# Backbones


@pytest.mark.parametrize("backbone", ["efficientnetv2_b0", "efficientnetv2_s", "efficientnet_lite2", "efficientnet_b3"])
def test_a_detector_may_have_another_backbone_of_the_family(backbone):
    model = on_meta("d0", backbone=backbone, drop_path=0.1).eval()
    expected = EFFICIENTNETS[backbone]
    assert model.spec.backbone == replace(expected, drop_path=0.1)
    assert model.spec.fill_color == tuple(round(value) for value in expected.mean)
    outputs = model(torch.empty(1, 3, 65, 33, device="meta"))
    assert outputs.class_logits.shape == (1, len(model.anchors_at((65, 33))), 90)


def test_another_backbone_trains():
    model = small(backbone="efficientnetv2_b0").train()
    outputs = model(pictures())
    (outputs.class_logits.sum() + outputs.box_deltas.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_an_unknown_backbone_is_refused_with_near_names():
    with pytest.raises(ConfigError, match="unknown model 'efficientnet_v2_s'; did you mean efficientnetv2_s"):
        make_spec(ModelOptions("efficientdet_d0", backbone="efficientnet_v2_s"))


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_other_than_three_channels(channels):
    model = small(in_channels=channels).eval()
    outputs = model(pictures(channels=channels))
    assert outputs.class_logits.shape == (2, len(model.anchors), 3)
    assert model.spec.fill_color == (127,) * channels


# Forward


@pytest.mark.parametrize("name", ["lite0", "d0", "q1"])
@pytest.mark.parametrize("size", [(64, 96), (511, 513), (384, 640), (33, 20), (8, 8)])
def test_any_image_size_gives_one_output_for_each_anchor(name, size):
    model = small(name=name).eval()
    with torch.inference_mode():
        outputs = model(pictures(1, size))
    count = len(anchor_boxes(size))
    assert outputs.class_logits.shape == (1, count, 3)
    assert outputs.box_deltas.shape == (1, count, 4)
    assert outputs.anchors.equal(anchor_boxes(size, scale=model.spec.anchor_scale))
    assert outputs.class_logits.isfinite().all()


def test_six_levels_give_one_output_for_each_anchor():
    model = on_meta("d7x", image_size=(64, 96)).eval()
    outputs = model(torch.zeros(1, 3, 64, 96, device="meta"))
    assert outputs.class_logits.shape == (1, len(outputs.anchors), 90)
    assert len(outputs.anchors) == 9 * (8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 + 1)


def test_bytes_and_floats_of_the_same_picture_give_the_same():
    model = lively()
    with torch.inference_mode():
        assert model(pictures()).class_logits.equal(model(pictures().float()).class_logits)


def test_outputs_are_the_same_in_training_with_frozen_batch_norm_and_in_evaluation():
    model = lively()
    with torch.no_grad():
        evaluated = model(pictures())
        model.train()
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()
        trained = model(pictures())
    assert all(a.equal(b) for a, b in zip(evaluated, trained, strict=True))


def test_an_image_gives_the_same_alone_and_in_a_batch():
    model = lively()
    images = pictures(3)
    with torch.inference_mode():
        together, alone = model(images), model(images[1:2])
    torch.testing.assert_close(together.class_logits[1:2], alone.class_logits, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(together.box_deltas[1:2], alone.box_deltas, atol=2e-4, rtol=1e-3)


def test_memory_layout_does_not_change_the_outputs():
    model = lively()
    with torch.inference_mode():
        plain = model(pictures())
        model.to(memory_format=torch.channels_last)
        last = model(pictures().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(plain.class_logits, last.class_logits, atol=1e-4, rtol=1e-3)


def test_a_picture_of_the_mean_colour_is_zero_to_the_network():
    model = small().eval()
    seen = []
    model.backbone.conv_stem.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(torch.full((1, 3, 32, 32), 127, dtype=torch.uint8))
    assert (seen[0] == 0).all()


def test_the_state_dict_holds_weights_and_no_constants():
    names = small().state_dict().keys()
    assert not [name for name in names if name.split(".")[-1] in ("anchors", "mean", "std")]


def test_anchor_settings_reach_the_anchors_and_the_heads():
    model = small(anchor_scale=2.0, anchor_aspects=((1.0, 1.0),))
    assert model.anchors[0].tolist() == [-4, -4, 12, 12]
    assert model.eval()(pictures(1)).class_logits.shape[1] == len(model.anchors)


# At the start of training


@pytest.mark.parametrize("name", ["lite0", "d0"])
def test_before_training_every_score_is_near_the_prior(name):
    with torch.no_grad():
        scores = small(7, name).train()(pictures(4)).class_logits.sigmoid()
    assert scores.mean().item() == pytest.approx(0.01, rel=0.5)
    assert scores.median().item() == pytest.approx(0.01, rel=0.25)


def test_before_training_the_class_loss_is_where_the_prior_puts_it():
    model = small(7).train()
    targets = [Target(torch.zeros(0, 4), torch.zeros(0).long(), row, (64, 96), (1.0, 1.0)) for row in range(2)]
    with torch.no_grad():
        outputs = model(pictures())
        losses = DetectionLoss()(outputs, targets)
    expected = outputs.class_logits.numel() * 0.75 * 0.01**1.5 * -math.log(0.99)
    assert expected / 2 < losses["class_loss"].item() < expected * 3
    assert losses["box_loss"].item() == 0


@pytest.mark.parametrize("autocast", [False, True])
def test_every_parameter_gets_a_finite_gradient(autocast):
    model = small(name="d0").train()
    targets = [
        Target(torch.tensor([[10.0, 12, 50, 60]]), torch.tensor([row]), row, (64, 96), (1.0, 1.0)) for row in (0, 1)
    ]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = model(pictures())
    losses = DetectionLoss()(outputs, targets)
    assert losses["loss"].dtype == torch.float32
    losses["loss"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not name.endswith("bias") and "box_head.norms" not in name:  # before a norm, or on a level without objects
            assert (parameter.grad != 0).any(), name
