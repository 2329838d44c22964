"""Weights files, cards and exported cards that others may have made: a sentence each, and nothing built from them."""

import json
import zipfile
from dataclasses import replace

import pytest
import torch

from effdet.config.migration import VERSION
from effdet.errors import ConfigError, WeightsError
from effdet.evaluation.evaluate_checkpoint import evaluation_config
from effdet.models import ModelOptions, make_spec
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard, read_card, recipe_of
from effdet.weights.checkpoint import load_checkpoint, read_tensors, save_checkpoint
from effdet.weights.create import create_model
from effdet.weights.exported import ExportCard, read_export_card


@pytest.fixture(scope="module")
def card():
    spec = make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 64)))
    return ModelCard(spec, ("cat", "dog"), (3, 7), postprocess=vars(PostprocessOptions()))


def changed(card, *path, value):
    """The plain card with one value changed."""
    plain = card.to_dict()
    inner = plain
    for key in path[:-1]:
        inner[key] = dict(inner[key])
        inner = inner[key]
    inner[path[-1]] = value
    return plain


BAD_VALUES = [
    (("category_ids",), (1,), "category_ids has 1 values"),
    (("class_names",), ("a", "\ud800"), "half of a character"),
    (("class_thresholds",), (0.5, 0.5, 0.5), "class_thresholds has 3 values"),
    (("class_thresholds",), (0.5,), "class_thresholds has 1 values"),
    (("value_range",), (7, 3), "value_range is"),
    (("metrics",), [], "metrics"),
    (("beam",), 4, "'beam' is an unknown key"),
    (("postprocess", "max_candidates"), 2**40, "postprocess.max_candidates"),
    (("postprocess", "nms"), "magic", "nms"),
    (("postprocess", "beam"), 4, "beam"),
    (("spec", "image_size"), [0, 0], "spec.image_size is 0"),
    (("spec", "num_cells"), 2**31, "spec.num_cells"),
    (("spec", "max_level"), 1, "spec.max_level"),
    (("spec", "backbone", "std"), [0, 0, 0], "spec.backbone.std is 0"),
    (("spec", "backbone", "mean"), [1, 2], "spec.backbone.mean has 2 values"),
    (("spec", "backbone", "name"), "timm/hf-hub:someone/model", "expected the name of a network"),
    (("spec", "anchor_aspects"), [[1e300, 1e300]], "spec.anchor_aspects"),
    (("config",), [1], "the recipe is of the type list"),
    (("config",), {"version": 1, "augment": 5, "train": 5}, "config.train is a int"),
    (("config",), {"version": VERSION, "data": 5}, "config.data is a int"),
    (("config",), {"version": VERSION, "data": {"val": 5}}, "config.data.val is a int"),
]


@pytest.mark.parametrize(("path", "value", "reason"), BAD_VALUES)
def test_a_card_beyond_its_limits_is_refused_in_checkpoints_and_exported_files(card, tmp_path, path, value, reason):
    plain = changed(card, *path, value=value)
    torch.save({"format": 3, "model": {}, "card": plain, "training": {}}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=reason):
        load_checkpoint(tmp_path / "x.pt")
    export = json.loads(ExportCard(card, "detections").to_json())
    text = json.dumps({**export, "model": json.loads(json.dumps(plain, default=str))})
    with pytest.raises(WeightsError):
        read_export_card(text, "x.onnx")


def test_a_training_state_that_is_no_mapping_is_refused(card, tmp_path):
    torch.save({"format": 3, "model": {}, "card": card.to_dict(), "training": [1]}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=r"x\.pt: its training state is of the type list; expected a mapping"):
        load_checkpoint(tmp_path / "x.pt")


def test_options_of_a_card_have_their_types(card):
    read = read_card(changed(card, "postprocess", "max_detections", value="7"))
    assert read.postprocess["max_detections"] == 7
    with pytest.raises(ValueError, match="max_detections"):
        read_card(changed(card, "postprocess", "max_detections", value="many"))


@pytest.mark.parametrize("card", [None, [], 5, "card"])
def test_a_card_that_is_no_mapping_is_refused(card):
    with pytest.raises(ValueError, match="expected a mapping"):
        read_card(card)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "[]", "5", '{"format": "1"}'])
def test_damaged_metadata_of_an_exported_file_is_refused(text):
    with pytest.raises(WeightsError, match=r"x\.onnx: the metadata is damaged|newer version"):
        read_export_card(text, "x.onnx")


def test_a_card_of_a_far_larger_model_than_its_weights_is_refused_before_that_is_built(card, tmp_path, monkeypatch):
    model = card.spec.build(2)
    save_checkpoint(tmp_path / "x.pt", model.state_dict(), replace(card, spec=replace(card.spec, channels=2048)))

    def build(*arguments):
        raise AssertionError("the model was built")

    monkeypatch.setattr(type(card.spec), "build", build)
    with pytest.raises(WeightsError, match="do not fit their own card"):
        load_checkpoint(tmp_path / "x.pt")


def test_an_address_in_a_card_is_not_connected_to_unless_the_user_gives_it(card):
    data = {"format": "shards", "url": "ftp://127.0.0.1/x"}
    stored = replace(card, config={"task": "detection", "model": {"name": card.spec.name}, "data": data})
    with pytest.raises(ConfigError, match=r"best\.pt: its recipe reads the data set from ftp://127\.0\.0\.1/x"):
        evaluation_config(stored, "best.pt")
    config, _ = evaluation_config(stored, "best.pt", None, ["data.url=https://host/x"])
    assert config.data.url == "https://host/x"
    config, _ = evaluation_config(stored, "best.pt", None, ["data.format=auto", "data.root=/data"])
    assert config.data.url is None
    assert recipe_of(card, "best.pt") is card.config


def itself():
    values = []
    values.append(values)
    return values


def doubling():
    value = [0]
    for _ in range(60):
        value = [value, value]
    return value


CONTENTS = {
    "sparse": (lambda: torch.eye(3).to_sparse(), "layout"),
    "complex": (lambda: torch.zeros(2, dtype=torch.complex64), "complex64"),
    "quantized": (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "qint8"),
    "no values": (lambda: torch.empty(2, device="meta"), "without values"),
    "one value repeated": (lambda: torch.zeros(1).expand(2**40), "fewer values"),
    "holds itself": (itself, "stand for more"),
    "aliases": (doubling, "stand for more"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CONTENTS)
def test_strange_content_is_refused(tmp_path, kind):
    make, reason = CONTENTS[kind]
    torch.save({"conv_stem.weight": make()}, tmp_path / "x.pt")
    with pytest.raises(WeightsError, match=reason):
        read_tensors(tmp_path / "x.pt")


def test_a_compressed_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as archive,
        zipfile.ZipFile(tmp_path / "y.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    with pytest.raises(WeightsError, match="compressed"):
        read_tensors(tmp_path / "y.pt")


@pytest.mark.parametrize("data", [b"", b"\x80\x02X\x05", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_files_that_are_cut_off_are_refused(tmp_path, data):
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(WeightsError, match="not a weights file"):
        read_tensors(tmp_path / "x.pt")


def test_an_undamaged_card_is_read(card):
    assert read_card(card.to_dict()) == card


@pytest.mark.parametrize("value", [5, None, "x", [1.0]])
def test_a_checkpoint_whose_weights_are_no_tensors_is_refused(card, tmp_path, value):
    state = {"backbone.conv_stem.weight": value}
    torch.save({"format": 3, "model": state, "card": card.to_dict(), "training": {}}, tmp_path / "x.pt")
    for read in (load_checkpoint, lambda path: create_model("efficientdet_lite0", weights=str(path))):
        with pytest.raises(WeightsError, match=r"'backbone\.conv_stem\.weight' is a"):
            read(tmp_path / "x.pt")


ODD_SHAPES = [
    {"conv_stem.weight": torch.zeros(32, 3, 3, 3), "classifier.weight": torch.tensor(1.0)},
    {"conv_stem.weight": torch.zeros(0)},
    {"class_net.predict.conv_pw.weight": torch.tensor(1.0)},
    {"class_net.predict.conv_pw.weight": torch.zeros(27, 64), "box_net.predict.conv_pw.weight": torch.zeros(7, 64)},
    {"class_head.predict.pointwise.weight": torch.zeros(0, 64, 1, 1)},
]


@pytest.mark.parametrize("state", ODD_SHAPES)
def test_foreign_weights_of_odd_shapes_are_refused(tmp_path, state):
    torch.save(state, tmp_path / "x.pt")
    for name in ("efficientdet_lite0", "efficientnet_b0"):
        with pytest.raises(WeightsError, match=r"x\.pt: "):
            create_model(name, weights=str(tmp_path / "x.pt"))
