"""A family of backbones that the package does not know: what the protocol asks for is enough for a detector."""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import pytest
import torch
from torch import nn

from effdet.errors import ConfigError
from effdet.models import EFFICIENTDETS, ModelOptions, families, make_spec
from effdet.models.analysis import summarize
from effdet.models.layers import Conv2d, Float32Buffers, normalise


@dataclass(frozen=True)
class PlainSpec:
    """A backbone of one strided convolution for each level."""

    library: ClassVar[str | None] = None

    name: str = "plain/five"
    in_channels: int = 3
    mean: tuple[float, ...] = (1.0, 2.0, 3.0)
    std: tuple[float, ...] = (4.0, 5.0, 6.0)
    channels: int = 8

    def with_options(self, options):
        options.refuse("its depth is fixed", "phi", "depth")
        width = options.width or 1.0
        return replace(self, channels=round(self.channels * width))

    def adapted_to(self, trained, padding):
        return replace(self, mean=trained.mean, std=trained.std)

    def build(self, num_classes):
        return Plain(self)


class Plain(Float32Buffers):
    def __init__(self, spec):
        super().__init__()
        channels = [spec.in_channels, *[spec.channels * level for level in range(1, 6)]]
        self.levels = nn.ModuleList(Conv2d(*pair, 3, 2) for pair in pairwise(channels))
        self.feature_channels, self.feature_strides = tuple(channels[3:]), (8, 16, 32)
        self.register_buffer("mean", torch.tensor(spec.mean), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std), persistent=False)

    def features(self, images):
        features = [normalise(images, self.mean, self.std)]
        for level in self.levels:
            features.append(level(features[-1]))
        return features[3:]

    def layer_groups(self):
        return [[f"levels.{number}"] for number in (4, 3, 2, 1, 0)]

    def checkpoint_activations(self, enabled=True):
        self.recomputes = enabled


@pytest.fixture
def family(monkeypatch):
    """The line in the table of families."""
    monkeypatch.setattr(families, "FAMILIES", {"plain/": lambda name: PlainSpec(), **families.FAMILIES})


@pytest.mark.usefixtures("family")
def test_another_family_is_one_spec_one_network_and_a_line_in_the_table():
    spec = make_spec(ModelOptions("efficientdet_lite0", backbone="plain/five", width=2.0, image_size=(64, 96)))
    assert spec == replace(EFFICIENTDETS["efficientdet_lite0"], backbone=PlainSpec(channels=16), image_size=(64, 96))
    assert spec.fill_color == (1, 2, 3)
    model = spec.build(3).train()
    model.checkpoint_activations()
    outputs = model(torch.zeros(2, 3, 65, 100, dtype=torch.uint8))
    assert outputs.class_logits.shape == (2, len(model.anchors_at((65, 100))), 3)
    (outputs.class_logits.sum() + outputs.box_deltas.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert model.backbone.recomputes
    assert model.layer_groups()[2:4] == [["backbone.levels.4"], ["backbone.levels.3"]]
    assert model.bfloat16().backbone.mean.tolist() == [1, 2, 3]
    assert summarize(spec, 3).feature_channels == (48, 64, 80)


@pytest.mark.usefixtures("family")
def test_a_family_refuses_the_options_that_it_does_not_have():
    with pytest.raises(ConfigError, match=r"^depth is set to 2\.0, but its depth is fixed; leave depth out$"):
        make_spec(ModelOptions("efficientdet_d0", backbone="plain/five", depth=2.0))
