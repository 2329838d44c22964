import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from effdet.models.analysis import count_parameters
from effdet.models.bifpn import BiFPN, FusionNode, Node, Projection, cell_nodes, resample

SILU, RELU6 = "silu", "relu6"


def neck(widths=(40, 112, 320), channels=64, levels=5, cells=3, fusion="fast", **options):
    return BiFPN(widths, channels, levels, cells, nn.BatchNorm2d, fusion, **options).eval()


def fusion_node(inputs, widths, channels=4, fusion="fast", act=SILU, resampling="pool"):
    return FusionNode(Node(0, inputs), widths, channels, fusion, nn.BatchNorm2d, act, "same", resampling).eval()


def test_nodes_of_five_levels_are_those_of_the_paper():
    nodes = [(node.level + 3, node.inputs) for node in cell_nodes(5)]
    assert nodes == [
        (6, (3, 4)),
        (5, (2, 5)),
        (4, (1, 6)),
        (3, (0, 7)),
        (4, (1, 7, 8)),
        (5, (2, 6, 9)),
        (6, (3, 5, 10)),
        (7, (4, 11)),
    ]


def test_nodes_of_six_levels_are_those_of_d7x():
    nodes = [(node.level + 3, node.inputs) for node in cell_nodes(6)]
    assert nodes == [
        (7, (4, 5)),
        (6, (3, 6)),
        (5, (2, 7)),
        (4, (1, 8)),
        (3, (0, 9)),
        (4, (1, 9, 10)),
        (5, (2, 8, 11)),
        (6, (3, 7, 12)),
        (7, (4, 6, 13)),
        (8, (5, 14)),
    ]


def test_nodes_of_qufpn_go_both_ways_and_meet():
    nodes = [(node.level + 3, node.inputs) for node in cell_nodes(5, "qufpn")]
    assert nodes == [
        *((node.level + 3, node.inputs) for node in cell_nodes(5)),
        (4, (1, 0)),
        (5, (2, 13)),
        (6, (3, 14)),
        (7, (4, 15)),
        (6, (3, 15, 16)),
        (5, (2, 14, 17)),
        (4, (1, 13, 18)),
        (3, (0, 19)),
        (3, (8, 20)),
        (4, (9, 19)),
        (5, (10, 18)),
        (6, (11, 17)),
        (7, (12, 16)),
    ]


@pytest.mark.parametrize("topology", ["bifpn", "qufpn"])
@pytest.mark.parametrize("levels", [2, 3, 5, 6])
def test_a_cell_ends_with_one_node_of_each_level_from_fine_to_coarse(levels, topology):
    nodes = cell_nodes(levels, topology)
    assert [node.level for node in nodes][-levels:] == list(range(levels))
    places = [*range(levels), *(node.level for node in nodes)]  # level of every feature of the cell
    for number, node in enumerate(nodes):
        assert max(node.inputs) < levels + number
        assert places[node.inputs[0]] == node.level
        assert all(abs(places[position] - node.level) <= 1 for position in node.inputs)


def test_equal_fresh_weights_give_the_mean_but_for_the_small_constant():
    node = fusion_node((0, 1), (1, 1), channels=1)
    inputs = [torch.tensor([1.0, 3.0]), torch.tensor([1.0, 3.0])]
    torch.testing.assert_close(node._fuse(inputs), torch.tensor([0.99995, 2.99985]), atol=1e-6, rtol=0)


def test_fast_fusion_is_a_weighted_mean_in_which_negative_weights_count_as_zero():
    node = fusion_node((0, 1, 2), (4, 4, 4))
    node.weights.data = torch.tensor([0.5, -3.0, 1.5])
    inputs = list(torch.randn(3, 1, 4, 2, 2))
    torch.testing.assert_close(node._fuse(inputs), (inputs[0] * 0.5 + inputs[2] * 1.5) / (2 + 1e-4))


def test_weights_that_are_all_negative_give_zero_and_not_nan():
    node = fusion_node((0, 1), (4, 4))
    node.weights.data = torch.tensor([-1.0, -2.0])
    assert (node._fuse(list(torch.randn(2, 1, 4, 2, 2))) == 0).all()


@pytest.mark.parametrize("inputs", [(0, 1), (0, 1, 2)])
def test_sum_fusion_adds_and_has_no_weights(inputs):
    node = fusion_node(inputs, [4] * len(inputs), fusion="sum")
    features = list(torch.randn(len(inputs), 1, 4, 2, 2))
    assert node.weights is None
    torch.testing.assert_close(node._fuse(features), sum(features))


def test_fusion_under_autocast_stays_in_low_precision():
    node = fusion_node((0, 1), (4, 4))
    fused = node._fuse(list(torch.randn(2, 1, 4, 2, 2).bfloat16()))
    assert fused.dtype == torch.bfloat16


@pytest.mark.parametrize("act", [SILU, RELU6])
def test_a_node_fuses_activates_convolves_and_normalises_in_that_order(act):
    node = fusion_node((0, 1), (4, 4), act=act)
    node.weights.data = torch.tensor([0.7, 1.1])
    nn.init.uniform_(node.bn.running_mean)
    fine, coarse = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)
    doubled = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    fused = (fine * 0.7 + doubled * 1.1) / (1.8 + 1e-4)
    active = F.silu(fused) if act == SILU else fused.clamp(0, 6)
    expected = node.bn(node.conv(active))
    torch.testing.assert_close(node([fine, coarse]), expected)


def test_features_are_projected_before_they_are_resampled():
    node = fusion_node((0, 1), (4, 7), fusion="sum")
    same, fine = torch.randn(1, 4, 3, 3), torch.randn(1, 7, 5, 6)
    padded = F.pad(node.projections[1](fine), (0, 1, 1, 1), value=-math.inf)  # an odd and an even axis
    pooled = F.max_pool2d(padded, 3, 2)
    torch.testing.assert_close(node([same, fine]), node.bn(node.conv(F.silu(same + pooled))))


def test_upsampling_takes_the_nearest_pixel_by_rounding_down():
    resampled = resample(torch.arange(3.0).reshape(1, 1, 1, 3), (1, 5), "pool", "same")
    assert resampled.flatten().tolist() == [math.floor(x * 3 / 5) for x in range(5)]


@pytest.mark.parametrize(("size", "expected"), [(4, [0, 0.25, 0.75, 1]), (5, [0, 0.1, 0.5, 0.9, 1])])
def test_bilinear_upsampling_measures_from_the_centres_of_the_pixels(size, expected):
    features = torch.arange(2.0).reshape(1, 1, 1, 2)
    resampled = resample(features, (1, size), "bilinear", "same").flatten()
    torch.testing.assert_close(resampled, torch.tensor(expected, dtype=torch.float32))


def test_bilinear_downsampling_to_half_is_the_mean_of_four_pixels():
    features = torch.randn(1, 3, 6, 8)
    torch.testing.assert_close(resample(features, (3, 4), "bilinear", "same"), F.avg_pool2d(features, 2))


@pytest.mark.parametrize("resampling", ["pool", "bilinear"])
def test_features_of_the_right_size_are_not_resampled(resampling):
    features = torch.randn(1, 2, 3, 5)
    assert resample(features, (3, 5), resampling, "same") is features


def test_a_bilinear_node_projects_and_then_interpolates():
    node = fusion_node((0, 1), (4, 7), fusion="sum", resampling="bilinear")
    same, coarse = torch.randn(1, 4, 5, 6), torch.randn(1, 7, 3, 3)
    doubled = F.interpolate(node.projections[1](coarse), size=(5, 6), mode="bilinear")
    torch.testing.assert_close(node([same, coarse]), node.bn(node.conv(F.silu(same + doubled))))


def test_features_of_the_right_width_are_not_projected():
    node = fusion_node((0, 1), (4, 7))
    assert isinstance(node.projections[0], nn.Identity)
    assert isinstance(node.projections[1], Projection)


@pytest.mark.parametrize(("levels", "places"), [(5, [1, 2, 3, 4, 5]), (6, [2, 3, 4, 5, 6])])
def test_only_the_first_cell_projects_once_for_every_use_of_a_backbone_feature(levels, places):
    model = neck(levels=levels)
    projected = [
        [number for number, node in enumerate(cell.nodes) if isinstance(node.projections[0], Projection)]
        for cell in model.cells
    ]
    assert projected == [places, [], []]
    later = [layer for cell in model.cells for node in cell.nodes for layer in node.projections[1:]]
    assert all(isinstance(layer, nn.Identity) for layer in later)


def test_parameters_of_the_neck_are_those_of_the_reference():
    assert count_parameters(neck()) == 196_281
    assert count_parameters(neck(cells=1)) == 196_281 - 2 * 38_931
    assert count_parameters(neck(fusion="sum")) == 196_281 - 3 * 19
    assert count_parameters(neck((80, 224, 640), 384, 6, 8, "sum")) == 13_112_064


def test_coarser_levels_are_pooled_from_the_projected_c5():
    model = neck((4, 5, 6), 8, levels=6, cells=0)
    features = [torch.randn(1, width, side, side) for width, side in ((4, 20), (5, 10), (6, 5))]
    p3, p4, p5, p6, p7, p8 = model(features)
    assert (p3 is features[0], p4 is features[1], p5 is features[2]) == (True, True, True)
    torch.testing.assert_close(p6, F.max_pool2d(model.coarser(p5), 3, 2, 1))  # 5 is odd: a pixel on both sides
    torch.testing.assert_close(p7, F.max_pool2d(p6, 3, 2, 1))
    torch.testing.assert_close(p8, F.max_pool2d(F.pad(p7, (0, 1, 0, 1), value=-math.inf), 3, 2))


@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("resampling", ["pool", "bilinear"])
@pytest.mark.parametrize("topology", ["bifpn", "qufpn"])
@pytest.mark.parametrize(
    "sizes", [[(65, 64), (33, 32), (17, 16)], [(13, 20), (7, 10), (4, 5)], [(8, 1), (4, 1), (2, 1)], [(1, 1)] * 3]
)
def test_the_pyramid_has_one_width_and_keeps_the_sizes(sizes, padding, resampling, topology):
    model = neck((4, 5, 6), 8, cells=2, padding=padding, resampling=resampling, topology=topology)
    features = [torch.randn(2, width, *size) for width, size in zip((4, 5, 6), sizes, strict=True)]
    with torch.inference_mode():
        shapes = [tuple(feature.shape) for feature in model(features)]
    for _ in range(2):
        sizes = [*sizes, ((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2)]
    assert shapes == [(2, 8, *size) for size in sizes]


def test_coarser_levels_may_be_interpolated_from_the_projected_c5():
    model = neck((4, 5, 6), 8, cells=0, resampling="bilinear")
    features = [torch.randn(1, width, side, side) for width, side in ((4, 20), (5, 10), (6, 5))]
    *_, p6, p7 = model(features)
    torch.testing.assert_close(p6, F.interpolate(model.coarser(features[2]), size=(3, 3), mode="bilinear"))
    torch.testing.assert_close(p7, F.interpolate(p6, size=(2, 2), mode="bilinear"))


def test_a_qufpn_projects_both_ways_in_its_first_cell():
    projected = [
        [number for number, node in enumerate(cell.nodes) if isinstance(node.projections[0], Projection)]
        for cell in neck(topology="qufpn").cells
    ]
    assert projected == [[1, 2, 3, 4, 5, 8, 9, 13, 14, 15], [], []]


def test_the_backbones_features_are_not_changed():
    model = neck((8, 8, 8), 8, cells=1)
    features = [torch.randn(1, 8, side, side) for side in (8, 4, 2)]
    copies = [feature.clone() for feature in features]
    with torch.inference_mode():
        model(features)
    assert all(feature.equal(copy) for feature, copy in zip(features, copies, strict=True))


def test_kernels_of_the_neck_start_glorot_uniform():
    node = neck().cells[1].nodes[0]
    assert 0.9 < node.conv.depthwise.weight.abs().max() / math.sqrt(6 / (64 * 9 + 9)) <= 1
    assert 0.9 < node.conv.pointwise.weight.abs().max() / math.sqrt(6 / 128) <= 1
    assert (node.weights == 1).all()
