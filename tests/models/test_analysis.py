import pytest
import torch
from torch import nn

from effdet.models import EFFICIENTDETS, EFFICIENTNETS, ModelOptions, make_spec
from effdet.models.analysis import activation_bytes, count_parameters, multiply_adds, summarize

# Multiply-adds in 10^9 at the network's own size, as far as the digits go
CLASSIFIERS = {
    "efficientnet_b0": "0.3858",
    "efficientnet_b1": "0.6868",
    "efficientnet_b2": "0.9936",
    "efficientnet_b3": "1.8271",
    "efficientnet_b4": "4.3938",
    "efficientnet_b5": "10.2664",
    "efficientnet_b6": "19.0676",
    "efficientnet_b7": "37.7459",
    "efficientnet_b8": "62.5975",
    "efficientnet_l2": "475.70",
    "efficientnet_lite0": "0.385",
    "efficientnet_lite1": "0.600",
    "efficientnet_lite2": "0.860",
    "efficientnet_lite3": "1.383",
    "efficientnet_lite4": "2.553",
    "efficientnetv2_s": "8.366",
    "efficientnetv2_m": "24.582",
    "efficientnetv2_l": "56.080",
    "efficientnetv2_xl": "93.353",
    "efficientnetv2_b0": "0.718",
    "efficientnetv2_b1": "1.197",
    "efficientnetv2_b2": "1.698",
    "efficientnetv2_b3": "3.011",
}
# All of a detector; backbone, neck, class head and box head where they are known
DETECTORS = {
    "d0": ("2.492", "1.902", "0.136", "0.363", "0.092"),
    "d1": ("6.003", "4.468", "0.451", "0.833", "0.252"),
    "d2": ("10.833", "7.430", "1.216", "1.625", "0.561"),
    "d3": ("24.569", "14.888", "3.756", "3.997", "1.928"),
    "d4": ("54.584", "30.503", "10.745", "8.560", "4.776"),
    "d5": ("134.134", "75.039", "27.275", "19.710", "12.109"),
    "d6": ("224.122", "107.284", "54.063", "36.455", "26.320"),
    "d7": ("322.732", "154.486", "77.850", "52.495", "37.900"),
    "d7x": ("407.628", "238.646", "78.520", "52.533", "37.928"),
    "lite0": ("0.974",),
    "lite1": ("1.967",),
    "lite2": ("3.371",),
    "lite3": ("7.480",),
    "lite3x": ("13.978",),
    "lite4": ("20.168",),
}


QUICK = ("efficientnet_b0", "efficientnet_lite0", "efficientnetv2_b0", "efficientnetv2_s", "d0", "lite0")


def slow_but(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


def assert_to_the_digits(count, figure):
    """At most 0.6 of the last digit: the published numbers were rounded more than once."""
    assert abs(count / 1e9 - float(figure)) <= 0.6 * 10 ** -len(figure.split(".")[1])


def on_meta(spec, num_classes):
    with torch.device("meta"):
        return spec.build(num_classes)


@pytest.mark.parametrize("name", slow_but(CLASSIFIERS))
def test_multiply_adds_of_classifiers_are_those_of_the_reference(name):
    spec = EFFICIENTNETS[name]
    assert_to_the_digits(multiply_adds(on_meta(spec, 1000), spec.image_size), CLASSIFIERS[name])


@pytest.mark.parametrize("name", slow_but(DETECTORS))
def test_multiply_adds_of_detectors_are_those_of_the_reference(name):
    summary = summarize(EFFICIENTDETS[f"efficientdet_{name}"], 90)
    whole, *parts = DETECTORS[name]
    assert_to_the_digits(sum(summary.multiply_adds.values()), whole)
    for count, figure in zip(summary.multiply_adds.values(), parts, strict=False):
        assert_to_the_digits(count, figure)


def test_multiply_adds_of_a_network_are_the_sum_over_its_layers():
    model, counts = make_spec(ModelOptions("efficientnet_lite0")).build(10).eval(), []
    counted = multiply_adds(model, (65, 33))
    for layer in model.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.register_forward_hook(
                lambda layer, _, outputs: counts.append(outputs.numel() * layer.weight[0].numel())
            )
    with torch.inference_mode():
        model(torch.zeros(1, 3, 65, 33))
    assert counted == sum(counts)


def test_the_summary_of_a_detector_are_those_of_a_real_run():
    spec = make_spec(ModelOptions("efficientdet_d0", image_size=(65, 100)))
    summary, model = summarize(spec, 7), spec.build(7).eval()
    with torch.inference_mode():
        outputs, features = model(torch.zeros(1, 3, 65, 100)), model.backbone.features(torch.zeros(1, 3, 65, 100))
    parts = [model.backbone, model.neck, model.class_head, model.box_head]
    assert list(summary.parameters) == ["backbone", "neck", "class head", "box head"] == list(summary.multiply_adds)
    assert list(summary.parameters.values()) == [count_parameters(part) for part in parts]
    assert summary.anchors == outputs.class_logits.shape[1]
    assert summary.feature_strides == (8, 16, 32)
    shapes = [(channels, *size) for channels, size in zip(summary.feature_channels, summary.feature_sizes, strict=True)]
    assert shapes == [tuple(feature.shape[1:]) for feature in features]
    assert (summary.name, summary.num_classes, summary.image_size) == ("efficientdet_d0", 7, (65, 100))
    assert sum(summary.multiply_adds.values()) == multiply_adds(model, (65, 100))


def test_the_summary_of_a_classifier_are_split_into_backbone_and_head():
    summary = summarize(EFFICIENTNETS["efficientnet_b0"], 1000)
    assert summary.parameters == {"backbone": 3_595_388, "head": 5_288_548 - 3_595_388}
    head = 320 * 1280 * 7 * 7 + 1280 * 1000
    assert summary.multiply_adds["head"] == head
    assert summary.anchors == 0
    assert summary.feature_sizes == ((28, 28), (14, 14), (7, 7))


@pytest.mark.parametrize(
    "spec",
    [
        make_spec(ModelOptions("efficientdet_d0", image_size=(64, 96))),
        make_spec(ModelOptions("efficientdet_lite0", image_size=(65, 33))),
        make_spec(ModelOptions("efficientnetv2_b0", image_size=(64, 64))),
    ],
    ids=lambda spec: spec.name,
)
def test_activation_bytes_are_what_a_real_step_keeps(spec):
    model = spec.build(7).train()
    constant = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        kept[tensor.data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(torch.zeros(2, 3, *spec.image_size))
    real = sum(storage.nbytes() for address, storage in kept.items() if address not in constant) / 2
    assert outputs[0].requires_grad
    assert activation_bytes(model, spec.image_size) == pytest.approx(real, rel=0.02)


def test_frozen_layers_keep_less():
    model = make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 64))).build(3)
    whole = activation_bytes(model, (64, 64))
    model.backbone.requires_grad_(False)
    assert activation_bytes(model, (64, 64)) < whole / 2


def test_counting_leaves_the_model_as_it_is():
    model = make_spec(ModelOptions("efficientnet_lite0")).build(3).train()
    model.blocks[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    multiply_adds(model, (64, 64))
    activation_bytes(model, (64, 64))
    assert (model.training, model.blocks[0].training, model.blocks[1].training) == (True, False, True)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert model.conv_stem.weight.device.type == "cpu"


def test_the_summary_of_a_detector_on_a_backbone_of_timm():
    pytest.importorskip("timm")
    summary = summarize(make_spec(ModelOptions("efficientdet_d0", backbone="timm/resnet18")), 90)
    assert summary.feature_channels == (128, 256, 512)
    assert summary.parameters["backbone"] == 11_689_512 - 512 * 1000 - 1000
    assert 1.8 < summary.multiply_adds["backbone"] / 1e9 / (512 / 224) ** 2 < 1.82  # ResNet-18 has 1.81 at 224
