import sys

import pytest
import torch
from torch import nn

from effdet.config import DetectorConfig
from effdet.errors import ConfigError
from effdet.models import ModelOptions, make_spec
from effdet.models.anchors import level_sizes
from effdet.models.timm_backbone import timm_spec
from effdet.weights.create import options_of


def built(name, num_classes=3, **options):
    torch.manual_seed(0)
    return make_spec(ModelOptions("efficientdet_lite0", backbone=f"timm/{name}", image_size=(64, 96), **options)).build(
        num_classes
    )


def pictures(batch=2, size=(64, 96), channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8, generator=generator)


@pytest.fixture(autouse=True)
def timm(request):
    """The optional package; the tests of its absence do without."""
    return None if "without_timm" in request.node.name else pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", (128, 256, 512)), ("resnet50", (512, 1024, 2048)), ("convnext_atto", (80, 160, 320))],
)
@pytest.mark.parametrize("size", [(64, 96), (65, 33), (97, 130)])
def test_features_have_strides_8_16_and_32_whichever_way_the_network_rounds(name, channels, size):
    with torch.device("meta"):
        backbone = timm_spec(f"timm/{name}").build(0)
        features = backbone.features(torch.empty(2, 3, *size))
    assert (backbone.feature_strides, backbone.feature_channels) == ((8, 16, 32), channels)
    assert [tuple(feature.shape) for feature in features] == [
        (2, width, *sides) for width, sides in zip(channels, level_sizes(size, 3, 5), strict=True)
    ]


def test_features_are_those_of_timm_for_normalised_images(timm):
    backbone = timm_spec("timm/resnet18").build(0).eval()
    theirs = timm.create_model("resnet18", features_only=True).eval()
    theirs.load_state_dict(backbone.net.state_dict())
    images = (pictures() - torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)) / torch.tensor(
        [58.395, 57.12, 57.375]
    ).view(3, 1, 1)
    with torch.inference_mode():
        for given, expected in zip(backbone.features(pictures()), theirs(images)[-3:], strict=True):
            torch.testing.assert_close(given, expected)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto"])
def test_a_detector_with_a_backbone_of_timm_trains(name):
    model = built(name).train()
    outputs = model(pictures(size=(65, 100)))
    assert outputs.class_logits.shape == (2, len(model.anchors_at((65, 100))), 3)
    (outputs.class_logits.sum() + outputs.box_deltas.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_normalisation_is_that_of_timms_weights():
    spec = timm_spec("timm/convnext_atto")
    assert spec.mean == pytest.approx((123.675, 116.28, 103.53))
    assert timm_spec("timm/tf_efficientnet_lite0").mean == pytest.approx((127.5,) * 3)
    assert built("resnet18").spec.fill_color == (124, 116, 104)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_other_than_three_channels(channels):
    model = built("resnet18", in_channels=channels).eval()
    assert model.spec.backbone.mean == pytest.approx((sum((123.675, 116.28, 103.53)) / 3,) * channels)
    assert model(pictures(channels=channels)).class_logits.shape == (2, len(model.anchors), 3)


def test_stochastic_depth_can_be_chosen():
    rates = [getattr(layer, "drop_prob", 0.0) or 0.0 for layer in built("convnext_atto", drop_path=0.3).modules()]
    assert max(rates) == pytest.approx(0.3)


def momenta(model):
    """BatchNorm momenta by whether the layer is in the backbone."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    return [{layer.momentum for name, layer in layers if name.startswith("backbone.") == inside} for inside in (1, 0)]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])  # plain layers, and timm's with an activation
def test_the_momentum_reaches_every_batch_norm(name):
    assert momenta(built(name)) == [{0.1}, {0.01}]
    assert momenta(built(name, norm_momentum=0.03)) == [{0.03}, {0.03}]


def test_the_momentum_and_drop_path_of_a_recipe_reach_the_backbone():
    config = DetectorConfig(
        name="efficientdet_lite0", backbone="timm/test_convnext", norm_momentum=0.2, drop_path=0.25, image_size=(64, 64)
    )
    spec = make_spec(options_of(config))
    assert (spec.backbone.norm_momentum, spec.backbone.drop_path) == (0.2, 0.25)
    rates = [getattr(layer, "drop_prob", 0.0) or 0.0 for layer in spec.build(2).modules()]
    assert max(rates) == pytest.approx(0.25)


def test_a_network_without_stochastic_depth_is_refused_with_the_option():
    with pytest.raises(ConfigError, match=r"^drop_path is set to 0\.1, but timm/dla34 has no stochastic depth; leave"):
        built("dla34", drop_path=0.1)


@pytest.mark.parametrize("options", [{"phi": 1.0}, {"width": 2.0}, {"depth": 2.0}])
def test_a_network_of_timm_is_not_scaled(options):
    with pytest.raises(ConfigError, match="does not scale timm/resnet18"):
        built("resnet18", **options)


def test_an_unknown_network_is_refused_with_near_names():
    with pytest.raises(ConfigError, match=r"timm has no network 'resnet5O'; did you mean .*timm/resnet50"):
        built("resnet5O")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_tiny_patch16_224", "its strides are 16"),
        ("swin_tiny_patch4_window7_224", "Input height"),
        ("inception_v3", ""),
    ],
)
def test_a_network_without_a_pyramid_for_images_of_any_size_is_refused(name, reason):
    with pytest.raises(ConfigError, match=rf"timm/{name} cannot give features at strides 8, 16 and 32 .*\({reason}"):
        built(name)


def test_without_timm_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm/resnet18 needs the package timm; install it with: pip install .*timm"):
        built("resnet18")
