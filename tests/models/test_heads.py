import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdet.models.analysis import count_parameters
from effdet.models.heads import PRIOR, Head, set_prior


def head(channels=8, outputs=4, repeats=2, levels=3, anchors=9):
    return Head(channels, outputs, anchors, repeats, levels, nn.BatchNorm2d).eval()


def pyramid(channels=8, sizes=((6, 5), (3, 3), (2, 2)), batch=2):
    return [torch.randn(batch, channels, *size) for size in sizes]


def test_parameters_are_those_of_the_reference():
    assert count_parameters(head(64, 90, 3, 5)) == 69_354
    assert count_parameters(head(64, 4, 3, 5)) == 19_044
    assert count_parameters(head(384, 90, 5, 6)) == 1_094_826


def test_the_output_has_a_row_for_each_anchor_of_each_level():
    assert head(outputs=7)(pyramid()).shape == (2, 9 * (6 * 5 + 3 * 3 + 2 * 2), 7)


def test_convolutions_are_shared_by_the_levels_and_batch_norm_is_not():
    model = head(repeats=2, levels=3)
    assert len(model.convs) == 2
    assert [len(norms) for norms in model.norms] == [3, 3]
    assert len({id(norm) for norms in model.norms for norm in norms}) == 6
    with torch.inference_mode():
        features = pyramid()
        before = model(features).split([270, 81, 36], 1)
        for norms in model.norms:
            norms[1].running_mean.add_(1)
        after = model(features).split([270, 81, 36], 1)
    assert [a.equal(b) for a, b in zip(after, before, strict=True)] == [True, False, True]


def test_a_level_is_the_written_out_formula():
    model = head(repeats=2)
    features = pyramid()
    for level, feature in enumerate(features):
        tower = feature
        for conv, norms in zip(model.convs, model.norms, strict=True):
            tower = F.silu(norms[level](conv(tower)))
        rows = model.predict(tower).permute(0, 2, 3, 1).reshape(2, -1, 4)
        start = sum(9 * f.shape[2] * f.shape[3] for f in features[:level])
        torch.testing.assert_close(model(features)[:, start : start + rows.shape[1]], rows)


def test_outputs_are_ordered_by_row_column_anchor_and_class():
    model = head(channels=1, outputs=5, repeats=0, levels=1)
    model.predict.depthwise.weight.data = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])[None, None]
    model.predict.pointwise.weight.data.fill_(1)
    model.predict.pointwise.bias.data = torch.arange(45.0)
    places = 100 * torch.arange(12.0).reshape(1, 1, 3, 4)
    rows = model([places])[0]
    for y in range(3):
        for x in range(4):
            for anchor in range(9):
                expected = [100 * (y * 4 + x) + anchor * 5 + label for label in range(5)]
                assert rows[(y * 4 + x) * 9 + anchor].tolist() == expected


def test_features_are_not_changed():
    features = pyramid()
    copies = [feature.clone() for feature in features]
    with torch.inference_mode():
        head()(features)
    assert all(feature.equal(copy) for feature, copy in zip(features, copies, strict=True))


def test_the_prior_makes_every_score_a_hundredth():
    model = head(outputs=7)
    set_prior(model)
    assert model.predict.pointwise.bias.unique().item() == pytest.approx(-4.59512, abs=1e-5)
    with torch.inference_mode():
        scores = model([torch.zeros_like(feature) for feature in pyramid()]).sigmoid()
    torch.testing.assert_close(scores, torch.full_like(scores, PRIOR))


def test_kernels_start_with_variance_one_over_fan_in_and_biases_at_zero():
    model = head(256, 4, 2)
    assert model.convs[0].depthwise.weight.std().item() == pytest.approx(1 / math.sqrt(9 * 256), rel=0.06)
    assert model.convs[0].pointwise.weight.std().item() == pytest.approx(1 / math.sqrt(256), rel=0.02)
    assert model.predict.pointwise.weight.std().item() == pytest.approx(1 / math.sqrt(256), rel=0.03)
    assert all((value == 0).all() for name, value in model.named_parameters() if name.endswith("bias"))
