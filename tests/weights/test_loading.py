import re

import pytest
import torch
from torch import nn

from effdet.errors import WeightsError
from effdet.weights.loading import LoadReport, load_state, some_of


def network():
    torch.manual_seed(0)
    return nn.ModuleDict({"body": nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), "head": nn.Linear(3, 4)})


def state(**changes):
    torch.manual_seed(1)
    other = {name: torch.rand_like(value, dtype=torch.float32) for name, value in network().state_dict().items()}
    other |= changes
    return {name: value for name, value in other.items() if value is not None}


def test_a_fitting_state_fills_every_tensor():
    model, source = network(), state()
    report = load_state(model, source, "a.pt")
    assert set(report.loaded) == model.state_dict().keys()
    assert report.initialised == report.unused == ()
    for name, value in model.state_dict().items():
        assert value.equal(source[name].to(value.dtype))


def test_the_report_says_what_was_loaded_initialised_and_unused():
    source = state(
        **{"head.weight": torch.zeros(9, 3), "head.bias": None, "extra.a": torch.zeros(1), "extra.b": torch.zeros(1)}
    )
    report = load_state(network(), source, "a.pt", fresh=["head."], unused=["extra."])
    assert report.lines() == [
        "weights: loaded 6 tensors from a.pt",
        "  initialised: 2 (head.weight, head.bias)",
        "  unused: 2 (extra.a, extra.b)",
    ]


def test_a_report_names_modules_and_not_every_tensor():
    names = tuple(f"head.{module}.{kind}" for module in "abcdef" for kind in ("weight", "bias"))
    lines = LoadReport("a.pt", ("x",), names, ()).lines()
    assert lines[1] == "  initialised: 12 (head.a, head.b, head.c, head.d, ...)"
    assert lines[2] == "  unused: nothing"


def test_a_report_says_what_became_of_the_head():
    lines = LoadReport("a.pt", ("x",), ("head.weight", "head.bias"), (), "the head had 3 classes").lines()
    assert lines[1] == "  initialised: 2 (head.weight, head.bias); the head had 3 classes"


def test_a_list_in_a_message_ends_after_four():
    assert some_of(["a", "b", "c", "d"]) == "a, b, c, d"
    assert some_of(["a", "b", "c", "d", "e"]) == "a, b, c, d, ..."
    assert some_of([]) == ""


def test_what_may_stay_fresh_keeps_its_values():
    model = network()
    before = model["head"].weight.clone()
    load_state(model, state(**{"head.weight": torch.zeros(9, 3)}), "a.pt", fresh=["head.weight"])
    assert model["head"].weight.equal(before)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"head.weight": None}, "1 tensors of the model are missing ('head.weight')"),
        (
            {"head.weight": torch.zeros(9, 3)},
            "1 tensors differ in shape ('head.weight' is [9, 3], the model needs [4, 3])",
        ),
        ({"tail.weight": torch.zeros(1)}, "1 tensors are not in the model ('tail.weight')"),
    ],
)
def test_a_load_that_fits_only_in_part_is_refused_and_changes_nothing(changes, reason):
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError, match=re.escape(reason)) as error:
        load_state(model, state(**changes), "a.pt")
    assert str(error.value).startswith("a.pt: these weights belong to another model")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_what_may_be_fresh_excuses_nothing_else():
    with pytest.raises(WeightsError, match=r"missing \('body.0.weight'\)"):
        load_state(network(), state(**{"head.weight": None, "body.0.weight": None}), "a.pt", fresh=["head."])


@pytest.mark.parametrize("source", [{}, {"x": torch.zeros(1)}])
def test_a_state_of_which_nothing_fits_is_refused_even_where_all_may_be_fresh(source):
    with pytest.raises(WeightsError, match="another model"):
        load_state(network(), source, "a.pt", fresh=["body.", "head."], unused=["x"])


def test_counters_of_norms_may_be_missing_or_left_over():
    report = load_state(network(), state(**{"body.1.num_batches_tracked": None}), "a.pt")
    assert report.initialised == ()
    load_state(network(), state(**{"body.7.num_batches_tracked": torch.tensor(3)}), "a.pt")


def test_weights_that_are_nan_or_inf_are_refused_and_leave_the_model():
    model, before = network(), network().state_dict()
    with pytest.raises(WeightsError, match=r"a\.pt: 'head\.bias' holds NaN or Inf"):
        load_state(model, state(**{"head.bias": torch.tensor([0.0, 1.0, float("nan"), 2.0])}), "a.pt")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
