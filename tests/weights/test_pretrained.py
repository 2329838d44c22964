from dataclasses import replace

import pytest
import torch

from effdet.errors import WeightsError
from effdet.models import EFFICIENTDETS, EFFICIENTNETS, ModelOptions, make_spec
from effdet.weights import zoo
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint
from effdet.weights.pretrained import (
    is_file_name,
    make_adapted_spec,
    read_entry,
    read_file,
    read_pretrained,
    spec_of_entry,
    used_labels,
)
from effdet.weights.zoo import ZOO

LITE0, CLASSIFIER = EFFICIENTDETS["efficientdet_lite0"], EFFICIENTNETS["efficientnet_lite0"]
IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF = ((127.5,) * 3, (127.5,) * 3)
ROUNDED = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of COCO's 90


def zeros(shapes):
    return {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}


def bare(spec, classes=3):
    """Weights of a network without values."""
    with torch.device("meta"):
        own = spec.build(classes).state_dict()
    return zeros({name: value.shape for name, value in own.items()})


def saved(content, path):
    torch.save(content, path)
    return path


def refusal(path):
    with pytest.raises(WeightsError) as error:
        read_file(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(path))
    return str(error.value)


# What a name means


def test_a_file_that_exists_is_meant_whatever_it_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not is_file_name("efficientdet_d0")
    (tmp_path / "efficientdet_d0").touch()
    assert is_file_name("efficientdet_d0")


@pytest.mark.parametrize("name", ["x.pt", "runs/x.pth", "x.bin", "x.ckpt", "x.tar", "./x", "/tmp/x", "~/x"])
def test_what_looks_like_a_path_is_one(name):
    assert is_file_name(name)
    with pytest.raises(WeightsError, match="no such weights file"):
        read_pretrained(name, LITE0)


@pytest.mark.parametrize("name", list(ZOO))
def test_no_name_of_the_zoo_looks_like_a_path(name):
    assert not is_file_name(name)


def test_an_unknown_name_is_refused_with_near_ones():
    with pytest.raises(WeightsError, match="'efficientdet_d00'; did you mean efficientdet_d0 or"):
        read_pretrained("efficientdet_d00", LITE0)


def test_coco_is_no_start_for_a_classifier():
    with pytest.raises(WeightsError, match="'coco' are a detector's, but efficientnet_lite0 is a classifier"):
        read_pretrained("coco", CLASSIFIER)


def test_networks_without_public_weights_are_refused(monkeypatch):
    monkeypatch.setattr(zoo, "ZOO", {})
    with pytest.raises(WeightsError, match="no public 'imagenet' weights of efficientnet_lite0 are known"):
        read_pretrained("imagenet", CLASSIFIER)
    with pytest.raises(WeightsError, match="no public 'imagenet' weights of efficientnet_lite0 are known"):
        read_pretrained("imagenet", LITE0)
    with pytest.raises(WeightsError, match="no public 'coco' weights of efficientdet_lite0 are known"):
        read_pretrained("coco", LITE0)


# Files


def test_a_checkpoint_of_ours_has_its_model_and_classes(tmp_path):
    spec = replace(LITE0, anchor_aspects=((1.0, 1.0),))
    save_checkpoint(tmp_path / "a.pt", spec.build(2).state_dict(), ModelCard(spec, ("cat", "dog"), (4, 9)))
    weights = read_file(tmp_path / "a.pt")
    assert (weights.spec, weights.class_names, weights.category_ids) == (spec, ("cat", "dog"), (4, 9))
    assert (weights.num_classes, weights.task) == (2, "detection")


@pytest.mark.parametrize("classes", [1, 7, 80, 91])
def test_foreign_files_know_the_count_of_their_classes_alone(tmp_path, classes):
    detector = read_file(saved(bare(LITE0, classes), tmp_path / "a.pth"))
    assert (detector.spec, detector.class_names, detector.num_classes) == (None, (), classes)
    classifier = read_file(saved(bare(CLASSIFIER, classes), tmp_path / "b.pth"))
    assert (classifier.task, classifier.num_classes) == ("classification", classes)
    assert read_file(saved(bare(CLASSIFIER, 0), tmp_path / "c.pth")).num_classes == 0


def test_ninety_rows_are_those_of_coco(tmp_path):
    weights = read_file(saved(bare(LITE0, 90), tmp_path / "a.pth"))
    used = used_labels(weights.class_names)
    assert [weights.category_ids[label] for label in used] == [id for id in range(1, 91) if id not in UNUSED_IDS]
    names = [weights.class_names[label] for label in used]
    assert (names[0], names[2], names[-1], len(set(names))) == ("person", "car", "toothbrush", 80)


def test_a_thousand_rows_are_those_of_imagenet(tmp_path):
    weights = read_file(saved(bare(CLASSIFIER, 1000), tmp_path / "a.pth"))
    assert (weights.class_names[0], weights.class_names[999]) == ("tench", "toilet tissue")
    assert weights.category_ids == tuple(range(1000))
    assert used_labels(weights.class_names) == list(range(1000))


@pytest.mark.parametrize("key", ["state_dict", "state_dict_ema", "model"])
def test_a_state_dict_inside_a_training_checkpoint_is_found(tmp_path, key):
    content = {"epoch": 3, "optimizer": {"state": {}}, "args": None, key: bare(LITE0)}
    assert read_file(saved(content, tmp_path / "a.pth")).state.keys() == bare(LITE0).keys()


def test_averaged_weights_come_first(tmp_path):
    averaged = {name: torch.ones(()).expand(value.shape) for name, value in bare(LITE0).items()}
    content = {"state_dict": bare(LITE0), "model": bare(LITE0), "state_dict_ema": averaged}
    assert all(value.all() for value in read_file(saved(content, tmp_path / "a.pth")).state.values())
    content["state_dict_ema"] = None
    assert not any(value.any() for value in read_file(saved(content, tmp_path / "a.pth")).state.values())


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_the_prefix_of_a_wrapper_is_taken_off(tmp_path, prefix):
    wrapped = {prefix + name: value for name, value in bare(LITE0).items()}
    weights = read_file(saved({"state_dict": wrapped}, tmp_path / "a.pth"))
    assert weights.state.keys() == bare(LITE0).keys()


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "module.model."])
def test_the_anchors_of_a_wrapper_are_left_out(tmp_path, prefix):
    wrapped = {prefix + name: value for name, value in bare(LITE0).items()}
    outer = prefix.removesuffix("model.")
    wrapped[f"{outer}anchors.boxes"] = torch.zeros(9, 4)
    assert read_file(saved(wrapped, tmp_path / "a.pth")).state.keys() == bare(LITE0).keys()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ({"state_dict": {}}, "no state dict"),
        ({"anchors.boxes": torch.zeros(9, 4)}, "no state dict"),
        ({"model.anchors.boxes": torch.zeros(9, 4)}, "no state dict"),
        ({0: torch.zeros(1)}, "no state dict"),
        ({"model": {1: torch.zeros(1)}}, "no state dict"),
        ({"layer1.weight": torch.zeros(1)}, "unknown system (first name 'layer1.weight')"),
        ({"model.layer1.weight": torch.zeros(1)}, "unknown system (first name 'layer1.weight')"),
    ],
)
def test_a_file_of_no_weights_we_know_is_refused(tmp_path, content, words):
    assert words in refusal(saved(content, tmp_path / "x.pt"))


# The zoo


@pytest.mark.parametrize(
    ("name", "size", "padding", "eps", "normalisation", "aspects", "black", "antialias"),
    [
        ("effdet/tf_efficientdet_d0", 512, "same", 1e-3, IMAGENET, ROUNDED, False, False),
        ("effdet/tf_efficientdet_d0_ap", 512, "same", 1e-3, HALF, ROUNDED, True, False),
        ("effdet/tf_efficientdet_lite0", 320, "same", 1e-3, HALF, ROUNDED, False, False),
        ("effdet/efficientdet_d1", 640, "symmetric", 1e-5, IMAGENET, ROUNDED, False, True),
        ("zylo117/efficientdet-d0", 512, "same", 1e-3, IMAGENET, ROUNDED, False, False),
    ],
)
def test_the_network_of_a_detector_has_its_conventions(
    name, size, padding, eps, normalisation, aspects, black, antialias
):
    spec = spec_of_entry(ZOO[name])
    assert (spec.image_size, spec.padding, spec.anchor_aspects) == ((size, size), padding, aspects)
    backbone = spec.backbone
    assert (backbone.padding, backbone.norm_eps, (backbone.mean, backbone.std)) == (padding, eps, normalisation)
    assert (spec.black_padding, spec.antialias) == (black, antialias)
    assert spec.fill_color == ((0, 0, 0) if black else tuple(round(value) for value in normalisation[0]))


def test_aspects_that_are_not_rounded_multiply_to_one():
    aspects = spec_of_entry(ZOO["effdet/efficientdetv2_dt"]).anchor_aspects
    assert [width * height for width, height in aspects] == pytest.approx([1, 1, 1])
    assert [width / height for width, height in aspects] == pytest.approx([1, 2, 0.5])


@pytest.mark.parametrize(
    ("name", "size", "padding", "eps", "normalisation", "crop", "interpolation"),
    [
        ("torchvision/efficientnet_b0.v1", 224, "symmetric", 1e-5, IMAGENET, 0.875, "bicubic"),
        ("torchvision/efficientnet_b1.v2", 240, "symmetric", 1e-5, IMAGENET, 240 / 255, "bilinear"),
        ("torchvision/efficientnet_v2_l.v1", 480, "symmetric", 1e-3, HALF, 1.0, "bicubic"),
        ("timm/tf_efficientnet_b0.ap_in1k", 224, "same", 1e-3, HALF, 0.875, "bicubic"),
        ("timm/efficientnet_b1.ft_in1k", 256, "symmetric", 1e-5, IMAGENET, 0.875, "bicubic"),
        ("package/efficientnet_lite0", 224, "same", 1e-3, ((127.0,) * 3, (128.0,) * 3), 0.875, "bicubic"),
    ],
)
def test_the_network_of_a_classifier_has_its_conventions(name, size, padding, eps, normalisation, crop, interpolation):
    spec = spec_of_entry(ZOO[name])
    assert (spec.image_size, spec.padding, spec.norm_eps) == ((size, size), padding, eps)
    assert ((spec.mean, spec.std), spec.crop, spec.interpolation) == (normalisation, crop, interpolation)


@pytest.mark.parametrize("name", list(ZOO))
def test_every_entry_has_a_network(name):
    assert spec_of_entry(ZOO[name]).name == ZOO[name].architecture


def test_a_file_of_the_other_kind_of_network_is_refused_for_an_entry(tmp_path):
    detector, classifier = saved(bare(LITE0), tmp_path / "d.pth"), saved(bare(CLASSIFIER), tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"c\.pth: holds a classifier, but effdet/tf_efficientdet_lite0 is a detec"):
        read_entry(ZOO["effdet/tf_efficientdet_lite0"], classifier)
    with pytest.raises(WeightsError, match=r"d\.pth: holds a detector, but timm/tf_efficientnet_lite0\.in1k is a cla"):
        read_entry(ZOO["timm/tf_efficientnet_lite0.in1k"], detector)


def test_a_backbone_without_a_head_is_refused_for_an_entry(tmp_path):
    with pytest.raises(WeightsError, match="holds a backbone without a head"):
        read_entry(ZOO["timm/tf_efficientnet_lite0.in1k"], saved(bare(CLASSIFIER, 0), tmp_path / "t.pth"))


def test_a_file_with_other_classes_than_the_entry_keeps_its_own_count(tmp_path):
    weights = read_entry(ZOO["effdet/tf_efficientdet_lite0"], saved(bare(LITE0, 20), tmp_path / "d.pth"))
    assert (weights.num_classes, weights.class_names, weights.spec.name) == (20, (), "efficientdet_lite0")


# A network follows its weights


def test_a_detector_follows_the_weights_of_a_detector():
    trained = replace(
        spec_of_entry(ZOO["effdet/efficientdet_d0"]), black_padding=True, anchor_aspects=((1.0, 1.0), (2.0, 0.5))
    )
    given = make_adapted_spec(ModelOptions("efficientdet_d0", image_size=(64, 96)), trained)
    assert given == replace(trained, image_size=(64, 96), backbone=replace(trained.backbone, drop_path=0.0))


def test_a_detector_whose_backbone_alone_is_loaded_keeps_its_padding_and_anchors():
    trained = replace(spec_of_entry(ZOO["effdet/efficientdet_d0"]), black_padding=True, anchor_scale=7.0)
    own = make_spec(ModelOptions("efficientdet_d0"))
    given = make_adapted_spec(ModelOptions("efficientdet_d0"), trained, backbone_only=True)
    assert given == replace(own, backbone=replace(own.backbone, padding="symmetric", norm_eps=1e-5))


def test_options_win_over_the_weights():
    trained = spec_of_entry(ZOO["effdet/efficientdetv2_dt"])
    options = ModelOptions(
        "efficientdetv2_dt", padding="same", anchor_scale=6.0, anchor_aspects=ROUNDED, antialias=False
    )
    given = make_adapted_spec(options, trained)
    assert (given.padding, given.backbone.padding) == ("same", "same")
    assert (given.anchor_scale, given.anchor_aspects, given.antialias) == (6.0, ROUNDED, False)
    assert given.backbone.norm_eps == 1e-5


def test_a_new_detector_antialiases_and_one_with_weights_follows_them():
    options, google = ModelOptions("efficientdet_d0"), spec_of_entry(ZOO["effdet/tf_efficientdet_d0"])
    assert make_spec(options).antialias
    assert not make_adapted_spec(options, google).antialias
    assert make_adapted_spec(ModelOptions("efficientdet_d0", antialias=True), google).antialias
    assert make_adapted_spec(options, google, backbone_only=True).antialias


def test_a_new_detector_pads_and_one_with_weights_follows_them():
    options = ModelOptions("efficientdet_lite0")
    stretching = replace(make_spec(options), letterbox="stretch")
    assert make_spec(options).letterbox == "pad"
    assert make_adapted_spec(options, stretching).letterbox == "stretch"
    assert make_adapted_spec(replace(options, letterbox="pad"), stretching).letterbox == "pad"
    assert make_adapted_spec(options, stretching, backbone_only=True).letterbox == "pad"


def test_anchors_follow_the_weights():
    trained = spec_of_entry(ZOO["effdet/tf_efficientdet_d7"])
    assert make_adapted_spec(ModelOptions("efficientdet_d6"), trained).anchor_scale == 5.0


def test_a_backbone_follows_the_weights_of_a_classifier_and_the_rest_stays():
    trained = spec_of_entry(ZOO["torchvision/efficientnet_b0.v1"])
    options = ModelOptions("efficientdet_d0", norm_momentum=0.25)
    spec = make_spec(options)
    expected = replace(spec, backbone=replace(spec.backbone, padding="symmetric", norm_eps=1e-5))
    assert make_adapted_spec(options, trained) == expected


def test_a_classifier_follows_the_weights_of_a_classifier():
    trained = spec_of_entry(ZOO["torchvision/efficientnet_b1.v2"])
    given = make_adapted_spec(ModelOptions("efficientnet_b1", dropout=0.5, image_size=(64, 64)), trained)
    assert given == replace(trained, dropout=0.5, image_size=(64, 64))


def test_a_classifier_follows_the_backbone_of_a_detector():
    trained = spec_of_entry(ZOO["effdet/tf_efficientdet_d0_ap"])
    options = ModelOptions("efficientnet_b0")
    assert make_adapted_spec(options, trained) == replace(make_spec(options), mean=HALF[0], std=HALF[1])


@pytest.mark.parametrize("channels", [1, 4])
def test_mean_and_std_of_other_channels_are_the_averages_of_the_weights(channels):
    trained = spec_of_entry(ZOO["timm/tf_efficientnet_b0.ap_in1k"])
    given = make_adapted_spec(ModelOptions("efficientnet_b0", in_channels=channels), trained)
    assert (given.in_channels, given.mean, given.std) == (channels, (127.5,) * channels, (127.5,) * channels)
    trained = spec_of_entry(ZOO["effdet/tf_efficientdet_d0"])
    given = make_adapted_spec(ModelOptions("efficientdet_d0", in_channels=channels), trained)
    assert given.backbone.mean == pytest.approx((114.495,) * channels)


def test_a_model_stays_as_it_is_if_nothing_is_known_of_the_weights():
    assert make_adapted_spec(ModelOptions("efficientdet_lite0"), None) == LITE0
