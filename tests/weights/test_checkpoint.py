import os
import pickle
import random
import stat
from dataclasses import replace

import pytest
import torch

from effdet.errors import WeightsError
from effdet.models import EFFICIENTDETS, EFFICIENTNETS, ModelOptions, make_spec
from effdet.weights import checkpoint
from effdet.weights.card import ModelCard, read_card
from effdet.weights.checkpoint import FORMAT, load_checkpoint, save_checkpoint


def odd_detector():
    """A detector of which nothing is as the table says."""
    spec = make_spec(
        ModelOptions(
            "efficientdet_lite0",
            image_size=(64, 96),
            padding="symmetric",
            drop_path=0.125,
            norm_momentum=0.25,
            anchor_scale=2.5,
            anchor_aspects=((1.0, 1.0), (2.0, 0.5)),
        )
    )
    backbone = replace(spec.backbone, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), norm_eps=1e-5)
    return replace(spec, backbone=backbone, black_padding=True)


def trained(spec, classes):
    """A network whose norms are not as they start."""
    torch.manual_seed(0)
    model = spec.build(classes)
    model.train()(images(spec))
    return model.eval()


def images(spec):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(
        0, 256, (2, spec.backbone.in_channels, *spec.image_size), dtype=torch.uint8, generator=generator
    )


def outputs(model):
    with torch.inference_mode():
        given = model(images(model.spec))
    return given if isinstance(given, tuple) else (given,)


@pytest.fixture(scope="module")
def model():
    return trained(odd_detector(), 2)


@pytest.fixture(scope="module")
def card(model):
    return ModelCard(model.spec, ("cat", "dog"), (3, 7))


@pytest.fixture
def path(tmp_path, model, card):
    save_checkpoint(tmp_path / "best.pt", model.state_dict(), card)
    return tmp_path / "best.pt"


def assert_round_trip(folder, spec):
    model, card = trained(spec, 2), ModelCard(spec, ("cat", "dog"), (3, 7))
    save_checkpoint(folder / "best.pt", model.state_dict(), card)
    loaded = load_checkpoint(folder / "best.pt")
    assert loaded.card == card
    assert loaded.model.spec == spec
    assert loaded.training == {}
    assert not loaded.model.training
    for given, expected in zip(outputs(loaded.model), outputs(model), strict=True):
        assert given.equal(expected)


# Round trips

DETECTORS = {
    "all its own": odd_detector(),
    "phi": make_spec(ModelOptions("efficientdet_lite0", phi=1.0, image_size=(64, 64))),
    "width and depth": make_spec(ModelOptions("efficientdet_lite0", width=0.5, depth=2.0, image_size=(64, 64))),
    "a backbone of V2": make_spec(ModelOptions("efficientdet_d0", backbone="efficientnetv2_b0", image_size=(64, 64))),
    "four channels": make_spec(ModelOptions("efficientdet_lite0", in_channels=4, image_size=(64, 64))),
    "a QuFPN": make_spec(ModelOptions("efficientdet_q0", image_size=(64, 64))),
}
CLASSIFIERS = {
    "plain": make_spec(ModelOptions("efficientnet_lite0", image_size=(64, 64))),
    "phi": make_spec(ModelOptions("efficientnet_b0", phi=0.5, image_size=(64, 96))),
    "width": make_spec(ModelOptions("efficientnet_lite0", width=0.5, dropout=0.5, image_size=(64, 64))),
    "V2": make_spec(ModelOptions("efficientnetv2_b0", in_channels=1, padding="symmetric", image_size=(64, 64))),
    "test images": replace(
        EFFICIENTNETS["efficientnet_lite0"], crop=0.7, interpolation="bilinear", image_size=(64, 64)
    ),
}


@pytest.mark.parametrize("spec", DETECTORS.values(), ids=DETECTORS)
def test_a_detector_gives_the_same_outputs_after_a_round_trip(tmp_path, spec):
    assert_round_trip(tmp_path, spec)


@pytest.mark.parametrize("spec", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_a_classifier_gives_the_same_outputs_after_a_round_trip(tmp_path, spec):
    assert_round_trip(tmp_path, spec)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_efficientnet"])
def test_a_detector_with_a_backbone_of_timm_gives_the_same_outputs_after_a_round_trip(tmp_path, name):
    pytest.importorskip("timm")
    spec = make_spec(ModelOptions("efficientdet_lite0", backbone=name, drop_path=0.125, image_size=(64, 64)))
    assert_round_trip(tmp_path, spec)


@pytest.mark.parametrize("spec", [*EFFICIENTDETS.values(), *EFFICIENTNETS.values()], ids=lambda spec: spec.name)
def test_the_card_of_every_network_comes_back(spec):
    card = ModelCard(spec, ("a",), (1,))
    assert read_card(card.to_dict()) == card


def test_a_card_has_the_task_of_its_model(card):
    assert card.task == "detection"
    assert ModelCard(EFFICIENTNETS["efficientnet_b0"], ("a",), (0,)).task == "classification"


def test_everything_on_the_card_comes_back(tmp_path, model, card):
    full = replace(
        card,
        postprocess={"iou_threshold": 0.4},
        metrics={"AP": 0.5},
        score_threshold=0.37,
        class_thresholds=(0.3, 0.4),
        temperature=0.8,
        config={"version": 2, "a": {"b": [1, None]}},
        versions={"x": "1"},
    )
    save_checkpoint(tmp_path / "full.pt", model.state_dict(), full)
    assert load_checkpoint(tmp_path / "full.pt").card == full


def test_a_card_from_before_thresholds_were_stored_has_none(card):
    plain = card.to_dict()
    for key in ("score_threshold", "class_thresholds", "temperature"):
        del plain[key]
    assert read_card(plain) == card


def test_the_state_of_the_training_comes_back(tmp_path, model, card):
    training = {"step": 3, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}}
    save_checkpoint(tmp_path / "last.pt", model.state_dict(), card, training)
    loaded = load_checkpoint(tmp_path / "last.pt").training
    assert loaded["step"] == 3
    assert loaded["optimizer"]["state"][0]["momentum"].tolist() == [1, 1]


def test_a_file_holds_tensors_and_plain_containers_alone(path):
    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(key, (str, int)) and plain(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return all(plain(item) for item in value)
        return value is None or type(value) in (str, int, float, bool, torch.Tensor)

    content = torch.load(path, weights_only=True)
    assert plain(content)
    assert content["format"] == FORMAT


def test_a_path_may_start_with_the_home_folder(path, monkeypatch, card):
    monkeypatch.setenv("HOME", str(path.parent))
    assert load_checkpoint("~/best.pt").card == card


# Writing


def test_folders_are_made_and_nothing_else_is_left_in_them(tmp_path, model, card):
    save_checkpoint(tmp_path / "runs" / "a" / "best.pt", model.state_dict(), card)
    assert os.listdir(tmp_path / "runs" / "a") == ["best.pt"]


def test_a_checkpoint_has_the_permissions_of_any_new_file(path):
    plain = path.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("unexpected pos 64 vs 0: No space left on device\nat 3")],
    ids=["of the system", "of torch"],
)
def test_a_full_disk_leaves_the_old_file_and_no_other(path, model, card, monkeypatch, error):
    before = path.read_bytes()

    def half(content, file):
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", half)
    with pytest.raises(WeightsError, match="No space left") as refused:
        save_checkpoint(path, model.state_dict(), card)
    assert str(refused.value).startswith(f"{path}: cannot be written")
    assert "\n" not in str(refused.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_is_a_file_is_refused(tmp_path, model, card):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(WeightsError, match=r"best\.pt: cannot be written .* choose another folder"):
        save_checkpoint(tmp_path / "runs" / "best.pt", model.state_dict(), card)


def test_a_folder_that_may_only_be_read_is_refused(tmp_path, model, card):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_checkpoint(tmp_path / "best.pt", model.state_dict(), card)
    with pytest.raises(WeightsError, match="cannot be written"):
        save_checkpoint(tmp_path / "runs" / "best.pt", model.state_dict(), card)


def test_a_checkpoint_replaces_the_one_before(path, model, card):
    save_checkpoint(path, model.state_dict(), replace(card, metrics={"AP": 0.25}))
    assert load_checkpoint(path).card.metrics == {"AP": 0.25}


# What is refused


def refusal(path):
    with pytest.raises(WeightsError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "none.pt").endswith(f"no such weights file; {tmp_path} is empty")
    (tmp_path / "d0").mkdir()
    assert refusal(tmp_path / "d1" / "best.pt").endswith(f"no such weights file; {tmp_path} holds d0")


def test_a_folder_is_refused(tmp_path):
    assert refusal(tmp_path).endswith("is a folder; it has no weights; give a file")
    (tmp_path / "best.pt").touch()
    assert "best.pt" in refusal(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"<!DOCTYPE html>\n<html><body>Not Found</body></html>",
        b"PK\x03\x04",
        b"\x80\x02",
        bytes(range(256)) * 9,
    ],
    ids=["empty", "text", "html", "zip", "pickle", "bytes"],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, content):
    (tmp_path / "x.pt").write_bytes(content)
    assert "not a weights file, or damaged" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_half_a_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "not a weights file, or damaged" in refusal(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_bytes_are_refused_or_read_but_never_give_another_error(tmp_path, zipped):
    path, rng = tmp_path / "x.pt", random.Random(0)
    torch.save({"a": torch.zeros(20), "b": {"c": [1, "x"]}}, path, _use_new_zipfile_serialization=zipped)
    whole, refused = path.read_bytes(), 0
    for _ in range(200):
        content = bytearray(whole)
        for _ in range(3):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            checkpoint.read_tensors(path)
        except WeightsError:
            refused += 1
    assert refused > 50


class Mischief:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("key", ["model", "card", "training"])
@pytest.mark.parametrize(
    "save",
    [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))],
    ids=["torch", "pickle"],
)
def test_code_in_a_file_is_never_run(tmp_path, save, key):
    content = {"format": FORMAT, "model": {}, "card": {}, "training": {}}
    save(content | {key: Mischief(tmp_path / "ran")}, tmp_path / "x.pt")
    assert "not a weights file, or damaged" in refusal(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    assert "not a weights file" in refusal(tmp_path / "x.pt")


@pytest.mark.parametrize(("content", "kind"), [([torch.zeros(1)], "list"), (torch.zeros(1), "Tensor"), (3, "int")])
def test_a_file_of_something_else_than_a_dictionary_is_refused(tmp_path, content, kind):
    torch.save(content, tmp_path / "x.pt")
    assert f"holds a {kind}; expected a state dict or a checkpoint" in refusal(tmp_path / "x.pt")


def test_bare_weights_are_refused_for_want_of_a_card(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "x.pt")
    assert "no model card" in refusal(tmp_path / "x.pt")


def changed(path, **changes):
    """The content of a file, rewritten with some changes."""
    content = torch.load(path, weights_only=True)
    torch.save({**content, **changes}, path)
    return content


@pytest.mark.parametrize(
    ("number", "words"), [(FORMAT + 1, "newer version"), (1, "older version"), ("x", "newer version")]
)
def test_a_file_of_another_format_is_refused(path, number, words):
    changed(path, format=number)
    assert words in refusal(path)


def test_weights_that_do_not_fit_their_card_are_refused(path):
    content = changed(path)
    changed(path, card={**content["card"], "class_names": ("a", "b", "c"), "category_ids": (1, 2, 3)})
    assert "do not fit their own card" in refusal(path)


@pytest.mark.parametrize(("name", "value"), [("running_var", float("inf")), ("bias", float("nan"))])
def test_weights_that_are_nan_or_inf_are_refused_with_their_name(path, name, value):
    content = torch.load(path, weights_only=True)
    key = next(key for key in content["model"] if key.endswith(name))
    content["model"][key][0] = value
    torch.save(content, path)
    assert f"'{key}' holds NaN or Inf; use an earlier checkpoint" in refusal(path)


def test_negative_variances_are_refused(path):
    content = torch.load(path, weights_only=True)
    key = next(key for key in content["model"] if key.endswith("running_var"))
    content["model"][key][0] = -1
    torch.save(content, path)
    assert f"'{key}' holds negative variances" in refusal(path)


def test_weights_that_are_no_state_dict_are_refused(path):
    changed(path, model=torch.zeros(1))
    assert "no model card" in refusal(path)
    changed(path, model={"a": 3})
    assert "its weight 'a' is a int; expected a tensor" in refusal(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, "colour"),
        ({"task": "segmentation"}, "unknown task 'segmentation'"),
        ({"task": "classification"}, "'stages'"),
        ({"class_names": 3}, "'class_names'"),
        ({"category_ids": ("a", "b")}, "'category_ids.0'"),
        ({"spec": {"name": "efficientdet_lite0"}}, "'backbone'"),
        ({"metrics": []}, "'metrics'"),
    ],
)
def test_a_damaged_card_is_refused_with_the_place(path, changes, words):
    content = changed(path)
    changed(path, card={**content["card"], **changes})
    message = refusal(path)
    assert "the model card is damaged" in message
    assert words in message


@pytest.mark.parametrize("content", [{}, {"name": "efficientdet_lite0"}, None, 3, []])
def test_a_file_with_something_else_than_a_card_is_refused(path, content):
    changed(path, card=content)
    assert "the model card is damaged" in refusal(path)


@pytest.mark.parametrize("key", ["padding", "fusion", "image_size", "anchor_aspects", "max_level"])
def test_a_card_with_an_impossible_network_is_refused(path, key):
    content = changed(path)
    changed(path, card={**content["card"], "spec": {**content["card"]["spec"], key: "x"}})
    assert f"the model card is damaged: '{key}" in refusal(path)
