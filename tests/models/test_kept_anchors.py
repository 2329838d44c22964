"""Anchors of image sizes other than the detector's own: computed once for each model, device and size."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from effdet.models import ModelOptions, make_spec
from effdet.models import efficientdet as module
from effdet.models.anchors import anchor_boxes

OTHER = (96, 64)


def detector():
    """A small detector, which tracers need little time for."""
    torch.manual_seed(0)
    spec = make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 96), depth=0.3, anchor_scale=4.0))
    return replace(spec, num_cells=1, num_repeats=1).build(2).eval()


def pictures(size=OTHER):
    return torch.zeros(1, 3, *size, dtype=torch.uint8)


@pytest.fixture
def computed(monkeypatch):
    """The image sizes whose anchors are computed from here on."""
    sizes = []

    def compute(size, *args):
        sizes.append(size)
        return anchor_boxes(size, *args)

    monkeypatch.setattr(module, "anchor_boxes", compute)
    return sizes


def test_anchors_of_an_image_size_are_computed_once(computed):
    model = detector()
    with torch.inference_mode():
        for _ in range(3):
            assert model(pictures()).anchors.equal(anchor_boxes(OTHER))
            assert model(pictures((64, 96))).anchors is model.anchors
    assert computed == [(64, 96), OTHER]


def test_a_model_keeps_the_newest_sizes(computed):
    model = detector()
    sizes = [(32, 32 * number) for number in range(1, module.KEPT_SIZES + 3)]
    for size in sizes:
        model.anchors_at(size)
    assert len(model._anchors_by_size) == module.KEPT_SIZES
    computed.clear()
    for size in sizes[2:]:
        assert model.anchors_at(size).equal(anchor_boxes(size))
    assert computed == []
    model.anchors_at(sizes[0])
    assert computed == [sizes[0]]


def test_models_share_no_anchors():
    small = make_spec(ModelOptions("efficientdet_lite0", anchor_scale=2.0)).build(2)
    assert detector().anchors_at(OTHER).equal(anchor_boxes(OTHER))
    assert small.anchors_at(OTHER).equal(anchor_boxes(OTHER, scale=2.0))


def test_kept_anchors_are_no_weights():
    model = detector()
    names = list(model.state_dict())
    model.anchors_at(OTHER)
    assert list(model.state_dict()) == names
    assert [name for name, _ in model.named_buffers() if "anchors" in name] == ["anchors"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_start_without_kept_anchors(copied):
    model = detector()
    kept = model.anchors_at(OTHER)
    other = copied(model)
    assert other._anchors_by_size == {}
    assert other.anchors_at(OTHER).equal(kept)
    assert model.anchors_at(OTHER) is kept


def test_anchors_are_where_the_model_is():
    model = detector()
    host = model.anchors_at(OTHER)
    assert model.to("meta").anchors_at(OTHER).device.type == "meta"
    assert host.device.type == "cpu"
    assert host.equal(anchor_boxes(OTHER))


def test_anchors_kept_in_inference_mode_can_be_used_in_training():
    model = detector()
    with torch.inference_mode():
        model(pictures())
    outputs = model.train()(pictures().expand(2, -1, -1, -1))
    assert not outputs.anchors.is_inference()
    scale = torch.ones((), requires_grad=True)
    (outputs.anchors * scale).sum().backward()  # autograd refuses to save a tensor made in inference mode
    assert scale.grad == anchor_boxes(OTHER).sum()


def test_a_compiled_model_gives_the_same_at_every_size_and_keeps_nothing():
    model = detector()
    compiled = torch.compile(model, backend="eager", dynamic=False)
    with torch.inference_mode():
        for size in ((64, 96), OTHER):
            assert compiled(pictures(size)).anchors.equal(anchor_boxes(size))
        assert model._anchors_by_size == {}
        for size in ((64, 96), OTHER):
            for given, expected in zip(compiled(pictures(size)), model(pictures(size)), strict=True):
                torch.testing.assert_close(given, expected)


def test_an_export_at_another_size_leaves_the_model_as_it_was():
    model = detector()
    program = torch.export.export(model, (pictures(),), strict=False)
    assert model._anchors_by_size == {}
    for given, expected in zip(program.module()(pictures()), model(pictures()), strict=True):
        torch.testing.assert_close(given, expected)


def test_fake_tensors_are_not_kept():
    model = detector()
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        assert model.anchors_at(OTHER).shape == anchor_boxes(OTHER).shape
    assert model.anchors_at(OTHER).equal(anchor_boxes(OTHER))
