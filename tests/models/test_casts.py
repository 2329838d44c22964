"""Models cast to other types: weights change, constants stay float32."""

import copy

import pytest
import torch

from effdet.models import ModelOptions, make_spec
from effdet.models.anchors import anchor_boxes
from effdet.postprocess import postprocess
from effdet.types import PostprocessOptions

CASTS = {
    "bfloat16()": lambda model: model.bfloat16(),
    "half()": lambda model: model.half(),
    "double()": lambda model: model.double(),
    "to(dtype)": lambda model: model.to(torch.bfloat16),
    "to(device, dtype)": lambda model: model.to("cpu", torch.float16),
    "there and back": lambda model: model.bfloat16().float(),
}


def model_of(name, **options):
    if "backbone" in options:
        pytest.importorskip("timm")
    torch.manual_seed(0)
    options = {"image_size": (64, 96), "drop_path": 0.0, "norm_momentum": 1.0, **options}
    model = make_spec(ModelOptions(name, **options)).build(3)
    with torch.no_grad():
        model(pictures())  # statistics of its features, without which the outputs are almost 0
    return model.eval()


def pictures(size=(64, 96)):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=generator)


def assert_float32(given, expected):
    assert given.dtype == torch.float32
    assert given.equal(expected)


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize(
    ("name", "options"),
    [("efficientdet_d0", {}), ("efficientdet_lite0", {"backbone": "timm/test_resnet"}), ("efficientnet_b0", {})],
    ids=["detector", "timm", "classifier"],
)
def test_mean_std_and_anchors_stay_float32_under_any_cast(name, options, cast):
    model = cast(model_of(name, **options))
    assert_float32(model.backbone.mean, torch.tensor(model.spec.backbone.mean))
    assert_float32(model.backbone.std, torch.tensor(model.spec.backbone.std))
    if name.startswith("efficientdet"):
        scale = model.spec.anchor_scale
        assert_float32(model.anchors, anchor_boxes((64, 96), scale=scale))
        assert_float32(model(pictures((96, 64))).anchors, anchor_boxes((96, 64), scale=scale))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "options"),
    [("efficientdet_d0", {}), ("efficientdet_lite0", {"backbone": "timm/test_resnet"}), ("efficientnet_b0", {})],
    ids=["detector", "timm", "classifier"],
)
def test_a_cast_model_computes_in_its_type(name, options, dtype):
    model = model_of(name, **options)
    with torch.inference_mode():
        exact = model(pictures())
        low = copy.deepcopy(model).to(dtype)(pictures())
    if isinstance(exact, torch.Tensor):
        exact, low = (exact,), (low,)
    assert [values.dtype for values in low] == [dtype, dtype, torch.float32][: len(low)]
    for given, expected in zip(low[:2], exact[:2], strict=False):
        error = (given.float() - expected).abs().mean() / expected.abs().mean()
        assert error < {torch.float16: 0.1, torch.bfloat16: 0.8}[dtype]  # random layers multiply rounding


def test_boxes_of_a_bfloat16_model_are_not_rounded_to_bfloat16():
    model = model_of("efficientdet_d0").bfloat16()
    with torch.inference_mode():
        (detections, _) = postprocess(model(pictures()), PostprocessOptions(score_threshold=0.0))
    assert detections.boxes.dtype == torch.float32
    assert not detections.boxes.equal(detections.boxes.bfloat16().float())


def test_a_cast_model_trains():
    model = model_of("efficientdet_lite0").bfloat16().train()
    outputs = model(pictures())
    (outputs.class_logits.float().sum() + outputs.box_deltas.float().sum()).backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_state_dict_of_a_cast_model_has_the_same_names():
    model = model_of("efficientdet_lite0")
    assert model.state_dict().keys() == copy.deepcopy(model).half().state_dict().keys()
