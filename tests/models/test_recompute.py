import copy

import pytest
import torch
from torch import nn

from effdet.losses import DetectionLoss
from effdet.models import ModelOptions, make_spec
from effdet.structures import Target

TARGETS = [
    Target(torch.tensor([[4.0, 8.0, 60.0, 50.0]]), torch.tensor([1]), 0, (64, 64), (1.0, 1.0)),
    Target(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), 1, (64, 64), (1.0, 1.0)),
]


def detector(name):
    torch.manual_seed(0)
    return make_spec(ModelOptions(name, image_size=(64, 64), drop_path=0.5)).build(3).train()


def classifier(name):
    torch.manual_seed(0)
    return make_spec(ModelOptions(name, image_size=(64, 64), drop_path=0.5)).build(3).train()


def step(model, dtype=None, size=64):
    """Loss of one training step; gradients and statistics are in the model then."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        outputs = model(images)
    if isinstance(outputs, torch.Tensor):
        loss = nn.functional.cross_entropy(outputs.float(), torch.tensor([0, 2]))
    else:
        loss = DetectionLoss()(outputs, TARGETS)["loss"]
    loss.backward()
    return loss.detach()


def kept_bytes(model):
    """Bytes of the activations that a forward pass keeps for the backward pass."""
    constant = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers()]}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in constant:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        outputs = model(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    del outputs
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (detector, "efficientdet_d0"),
        (detector, "efficientdet_lite0"),
        (classifier, "efficientnet_b0"),
        (classifier, "efficientnetv2_b0"),
    ],
)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_step_is_the_same_whether_activations_are_kept_or_recomputed(make, name, dtype):
    kept = make(name).to(memory_format=torch.channels_last)
    recomputing = copy.deepcopy(kept)
    recomputing.checkpoint_activations()
    assert torch.equal(step(kept, dtype), step(recomputing, dtype))
    for (key, parameter), other in zip(kept.named_parameters(), recomputing.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), key
    for (key, buffer), other in zip(kept.named_buffers(), recomputing.buffers(), strict=True):
        assert torch.equal(buffer, other), key


def test_recomputing_can_be_switched_off_again_and_leaves_batch_norm_as_it_was():
    model, plain = detector("efficientdet_d0"), detector("efficientdet_d0")
    model.checkpoint_activations()
    step(model)
    model.zero_grad()
    model.checkpoint_activations(False)
    step(plain)
    plain.zero_grad()
    assert torch.equal(step(plain), step(model))
    assert all(torch.equal(value, other) for value, other in zip(plain.buffers(), model.buffers(), strict=True))


def test_frozen_batch_norm_stays_frozen_when_recomputed():
    kept = detector("efficientdet_d0")
    for module in kept.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    recomputing = copy.deepcopy(kept)
    before = {key: value.clone() for key, value in kept.named_buffers()}
    recomputing.checkpoint_activations()
    assert torch.equal(step(kept), step(recomputing))
    for (key, parameter), other in zip(kept.named_parameters(), recomputing.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad), key
    assert all(torch.equal(value, before[key]) for key, value in recomputing.named_buffers())


@pytest.mark.parametrize(("make", "name"), [(detector, "efficientdet_d0"), (classifier, "efficientnet_b0")])
def test_recomputing_keeps_a_quarter_of_the_memory_at_most(make, name):
    model = make(name)
    before = kept_bytes(model)
    model.checkpoint_activations()
    assert kept_bytes(model) < before / 4


def test_evaluation_and_export_never_recompute():
    model = classifier("efficientnet_b0").eval()
    images = torch.zeros(1, 3, 64, 64)
    with torch.inference_mode():
        expected = model(images)
        model.checkpoint_activations()
        assert torch.equal(model(images), expected)
    names = {str(node.target) for node in torch.export.export(model, (images,)).graph.nodes}
    assert not any("checkpoint" in name for name in names)


def test_a_backbone_of_timm_is_recomputed_too():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    kept = make_spec(ModelOptions("efficientdet_d0", backbone="timm/resnet10t", image_size=(64, 64))).build(3).train()
    recomputing = copy.deepcopy(kept)
    recomputing.checkpoint_activations()
    assert torch.equal(step(kept), step(recomputing))
    assert all(
        torch.equal(parameter.grad, other.grad)
        for parameter, other in zip(kept.parameters(), recomputing.parameters(), strict=True)
    )
    assert all(torch.equal(value, other) for value, other in zip(kept.buffers(), recomputing.buffers(), strict=True))
