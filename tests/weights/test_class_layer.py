import pytest
import torch

from effdet.weights.class_layer import carry_rows, choose_rows, class_layer

DETECTOR, CLASSIFIER = "class_head.predict.pointwise", "classifier"
LAYERS = pytest.mark.parametrize(("layer", "anchors"), [(DETECTOR, 9), (CLASSIFIER, 1)])


def state(layer, anchors, classes, start=0):
    """Rows told apart by their numbers: `start`, `start` + 1, ..., class by class for each anchor."""
    rows = start + torch.arange(float(anchors * classes))
    weight = rows.reshape(-1, 1, 1, 1).repeat(1, 2, 1, 1) if layer == DETECTOR else rows.reshape(-1, 1).repeat(1, 2)
    return {f"{layer}.weight": weight, f"{layer}.bias": rows, "other": torch.ones(1)}


def numbers(given, layer):
    """Number of every row, which weight and bias agree on."""
    bias, weight = given[f"{layer}.bias"], given[f"{layer}.weight"]
    assert weight.flatten(1).equal(bias.reshape(-1, 1).repeat(1, 2))
    return bias.tolist()


@pytest.mark.parametrize(
    ("names", "layer"),
    [
        (["class_head.predict.pointwise.weight", "classifier.weight"], DETECTOR),
        (["conv_stem.weight", "classifier.weight"], CLASSIFIER),
        (["conv_stem.weight"], None),
        ([], None),
    ],
)
def test_the_layer_with_a_row_per_class_is_recognised(names, layer):
    assert class_layer(dict.fromkeys(names, torch.zeros(1))) == layer


@LAYERS
def test_chosen_rows_are_those_of_the_classes_at_every_anchor_in_the_given_order(layer, anchors):
    given = choose_rows(state(layer, anchors, 5), 5, [3, 0])
    assert numbers(given, layer) == [5 * anchor + label for anchor in range(anchors) for label in (3, 0)]
    assert given["other"].equal(torch.ones(1))


@LAYERS
def test_choosing_all_rows_changes_nothing(layer, anchors):
    before = state(layer, anchors, 4)
    given = choose_rows(before, 4, range(4))
    assert all(given[name].equal(value) for name, value in before.items())


def test_choosing_leaves_the_given_state_alone():
    before = state(CLASSIFIER, 1, 4)
    choose_rows(before, 4, [1])
    assert numbers(before, CLASSIFIER) == [0, 1, 2, 3]


@LAYERS
def test_carried_rows_go_by_name_and_the_others_are_the_models(layer, anchors):
    theirs, own = state(layer, anchors, 3), state(layer, anchors, 4, start=1000)
    given, kept = carry_rows(theirs, ("person", "cat", "car"), own, ("car", "forklift", "person", "dog"))
    assert kept == ["car", "person"]
    expected = [
        value
        for anchor in range(anchors)
        for value in (3 * anchor + 2, 1000 + 4 * anchor + 1, 3 * anchor, 1000 + 4 * anchor + 3)
    ]
    assert numbers(given, layer) == expected
    assert given["other"].equal(theirs["other"])
    assert numbers(own, layer) == [1000 + row for row in range(4 * anchors)]  # which is left alone


def test_names_are_compared_without_case_underscores_hyphens_and_spaces_around():
    theirs, own = state(CLASSIFIER, 1, 2), state(CLASSIFIER, 1, 3, start=10)
    given, kept = carry_rows(theirs, ("traffic light", "Hot Dog"), own, (" Traffic_Light ", "hot-dog", "hotdog"))
    assert kept == [" Traffic_Light ", "hot-dog"]
    assert numbers(given, CLASSIFIER) == [0, 1, 12]


def test_where_no_name_is_known_the_rows_are_the_models():
    own = state(DETECTOR, 9, 2, start=50)
    given, kept = carry_rows(state(DETECTOR, 9, 3), ("a", "b", "c"), own, ("x", "y"))
    assert kept == []
    assert numbers(given, DETECTOR) == numbers(own, DETECTOR)


def test_rows_take_the_type_of_the_model():
    theirs = {name: value.half() for name, value in state(CLASSIFIER, 1, 2).items()}
    given, _ = carry_rows(theirs, ("a", "b"), state(CLASSIFIER, 1, 2), ("b", "a"))
    assert given["classifier.weight"].dtype == torch.float32
    assert numbers(given, CLASSIFIER) == [1, 0]


def test_carried_rows_have_no_gradient():
    own = {name: value.requires_grad_() for name, value in state(CLASSIFIER, 1, 2, start=7).items()}
    given, _ = carry_rows(state(CLASSIFIER, 1, 2), ("a", "b"), own, ("b", "c"))
    assert not given["classifier.weight"].requires_grad
    assert own["classifier.bias"].tolist() == [7, 8]
