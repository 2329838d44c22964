import pytest
import torch
from torch import nn

from effdet.models import ModelOptions, make_spec
from effdet.models.folding import fold

NETWORKS = ["efficientdet_d0", "efficientdet_lite0", "efficientdet_q0", "efficientnetv2_b0", "efficientnet_lite0"]


def trained(name):
    """A network whose statistics and fusion weights are not those of a new one."""
    torch.manual_seed(0)
    model = make_spec(ModelOptions(name, image_size=(64, 96))).build(5).eval()
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_(0, 0.1)
                norm.running_var.uniform_(0.5, 1.5)
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.normal_(0, 0.1)
        for name, parameter in model.named_parameters():
            if name.startswith("neck.") and name.endswith(".weights"):
                parameter.uniform_(-0.2, 1)
    return model


def outputs_of(model, images):
    with torch.no_grad():
        outputs = model(images)
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_gives_the_same_outputs(name):
    model = trained(name)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    for expected, folded in zip(outputs_of(model, images), outputs_of(fold(model), images), strict=True):
        assert (folded - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_has_no_batch_norm_and_no_gradients(name):
    folded = fold(trained(name).train())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert not any(parameter.requires_grad for parameter in folded.parameters())
    assert not folded.training


def test_folding_leaves_the_network_as_it_was():
    model = trained("efficientdet_d0").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fold(model)
    assert model.training
    assert before.keys() == model.state_dict().keys()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_a_backbone_of_timm_whose_activations_are_used_twice_gives_the_same_outputs():
    pytest.importorskip("timm")
    torch.manual_seed(0)
    options = ModelOptions("efficientdet_lite0", backbone="timm/eca_nfnet_l0", image_size=(64, 96))
    backbone = make_spec(options).build(5).eval().backbone
    images = torch.randint(0, 256, (1, 3, 64, 96), dtype=torch.uint8)
    with torch.no_grad():
        for expected, folded in zip(backbone.features(images), fold(backbone).features(images), strict=True):
            assert folded.equal(expected)
