"""Trained weights as the start of another training: classifier to detector, detector to classifier, classes kept."""

import json

import pytest
import torch
from rich.console import Console

from effdet.cli import main
from effdet.config import load_config
from effdet.training.setup import set_up
from effdet.weights.checkpoint import load_checkpoint

QUIET = Console(quiet=True)
HEAD = ("conv_head.", "bn2.", "classifier.")
ROWS = "class_head.predict.pointwise"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def before_the_first_step(recipe, folder, *overrides):
    """The state dict with which a run begins."""
    _, state = set_up(load_config(recipe, overrides), folder, "cpu", QUIET)
    return state.model.state_dict()


def num_weights(state):
    """Tensors of a state but the counters of its norms."""
    return sum(not name.endswith("num_batches_tracked") for name in state)


def backbone(state, prefix=""):
    """Weights and statistics of a backbone."""
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return {name: value for name, value in own.items() if not name.startswith(HEAD)}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert [name for name, value in first.items() if not torch.equal(value, second[name])] == []


def report(capsys):
    """The three lines of a load report."""
    lines = capsys.readouterr().out.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("weights: "))
    return lines[begin : begin + 3]


@pytest.mark.parametrize("key", ["weights", "backbone_weights"])
def test_a_detector_starts_from_a_classifier(tiny_recipe, shapes_run, tmp_path, capsys, key):
    start = f"model.{key}={shapes_run / 'best.pt'}"
    classifier = load_checkpoint(shapes_run / "best.pt").model.state_dict()
    detector = before_the_first_step(tiny_recipe, tmp_path, start)
    assert_equal(backbone(detector, "backbone."), backbone(classifier))
    fresh = before_the_first_step(tiny_recipe, tmp_path)
    assert not torch.equal(detector["backbone.conv_stem.weight"], fresh["backbone.conv_stem.weight"])
    capsys.readouterr()
    assert run("train", tiny_recipe, start, "train.max_steps=1", f"output_dir={tmp_path / 'run'}") == 0
    loaded, new, left = report(capsys)
    count = num_weights(backbone(classifier))
    assert loaded == f"weights: loaded {count} tensors from {shapes_run / 'best.pt'}"
    others = [name for name in detector if not name.startswith("backbone.") and not name.endswith("_tracked")]
    assert new.startswith(f"  initialised: {len(others)} (neck.")
    head = [name for name in classifier if name.startswith(HEAD) and not name.endswith("_tracked")]
    assert left == f"  unused: {len(head)} (backbone.conv_head, backbone.bn2, backbone.classifier)"
    assert json.loads((tmp_path / "run/metrics.json").read_text())["AP"] >= 0


@pytest.mark.parametrize("key", ["weights", "backbone_weights"])
def test_what_of_the_classifier_is_frozen_stays_through_the_training(tiny_recipe, shapes_run, tmp_path, key):
    start = f"model.{key}={shapes_run / 'best.pt'}"
    options = [start, "train.freeze=[backbone]", "train.max_steps=2", "data.val=null", f"output_dir={tmp_path / 'run'}"]
    assert run("train", tiny_recipe, *options) == 0
    detector = load_checkpoint(tmp_path / "run/last.pt").model.state_dict()
    assert_equal(backbone(detector, "backbone."), backbone(load_checkpoint(shapes_run / "best.pt").model.state_dict()))


def test_a_classifier_starts_from_the_backbone_of_a_detector(shapes_recipe, tiny_run, tmp_path, capsys):
    start = f"model.backbone_weights={tiny_run / 'best.pt'}"
    detector = load_checkpoint(tiny_run / "best.pt").model.state_dict()
    classifier = before_the_first_step(shapes_recipe, tmp_path, start)
    assert_equal(backbone(classifier), backbone(detector, "backbone."))
    capsys.readouterr()
    assert run("train", shapes_recipe, start, "train.max_steps=1", f"output_dir={tmp_path / 'run'}") == 0
    loaded, new, left = report(capsys)
    assert loaded == f"weights: loaded {num_weights(backbone(classifier))} tensors from {tiny_run / 'best.pt'}"
    assert new == "  initialised: 7 (conv_head.weight, bn2.weight, bn2.bias, bn2.running_mean, ...)"
    assert left.startswith("  unused: ")


def test_there_and_back_the_backbone_is_the_same(tiny_recipe, shapes_recipe, shapes_run, tmp_path):
    still = ["train.freeze=[backbone]", "train.max_steps=1", "data.val=null"]
    start = f"model.backbone_weights={shapes_run / 'best.pt'}"
    assert run("train", tiny_recipe, start, *still, f"output_dir={tmp_path / 'detector'}") == 0
    back = f"model.backbone_weights={tmp_path / 'detector/best.pt'}"
    classifier = before_the_first_step(shapes_recipe, tmp_path, back)
    assert_equal(backbone(classifier), backbone(load_checkpoint(shapes_run / "best.pt").model.state_dict()))


# Classes that both know


def renamed(root, folder, names):
    """Annotation files of the tiny data set with three classes of these names."""
    folder.mkdir()
    overrides = []
    for part in ("train", "val"):
        content = json.loads((root / f"annotations/instances_{part}2017.json").read_text())
        for annotation in content["annotations"]:
            annotation["category_id"] %= 3
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(names)]
        (folder / f"{part}.json").write_text(json.dumps(content))
        overrides.append(f"data.{part}.annotations={folder / part}.json")
    return overrides


def rows_of(state, name):
    """Rows of the last layer by class: [anchors, 3, ...]."""
    return state[f"{ROWS}.{name}"].unflatten(0, (-1, 3))


@pytest.fixture(scope="module")
def lettered_run(tiny_recipe, tiny_data, tmp_path_factory):
    """The folder of a run of a detector of the classes a, b and c."""
    folder = tmp_path_factory.mktemp("letters")
    overrides = renamed(tiny_data, folder / "abc", "abc")
    assert run("train", tiny_recipe, *overrides, "train.max_steps=3", f"output_dir={folder / 'run'}") == 0
    return folder / "run"


def test_rows_of_classes_that_the_weights_know_are_kept(tiny_recipe, tiny_data, lettered_run, tmp_path, capsys):
    start = [*renamed(tiny_data, tmp_path / "bcd", "bcd"), f"model.weights={lettered_run / 'best.pt'}"]
    before = load_checkpoint(lettered_run / "best.pt").model.state_dict()
    kept = before_the_first_step(tiny_recipe, tmp_path, *start, "model.keep_known_classes=true")
    for name in ("weight", "bias"):
        assert rows_of(kept, name)[:, :2].equal(rows_of(before, name)[:, 1:])
    assert not rows_of(kept, "weight")[:, 2].equal(rows_of(before, "weight")[:, 0])
    rest = {name for name in before if not name.startswith(ROWS) and not name.endswith("num_batches_tracked")}
    assert all(torch.equal(kept[name], before[name]) for name in rest)
    capsys.readouterr()
    options = ["model.keep_known_classes=true", "train.max_steps=1", f"output_dir={tmp_path / 'run'}"]
    assert run("train", tiny_recipe, *start, *options) == 0
    loaded, new, left = report(capsys)
    assert loaded.endswith(f"tensors from {lettered_run / 'best.pt'}")
    assert new == "  initialised: nothing; rows kept of 2 classes (b, c), new for 1 (d)"
    assert left == "  unused: nothing"


def test_without_keep_known_classes_the_head_of_other_classes_is_new(tiny_recipe, tiny_data, lettered_run, tmp_path):
    start = [*renamed(tiny_data, tmp_path / "bcd", "bcd"), f"model.weights={lettered_run / 'best.pt'}"]
    before = load_checkpoint(lettered_run / "best.pt").model.state_dict()
    new = before_the_first_step(tiny_recipe, tmp_path, *start)
    fresh = before_the_first_step(tiny_recipe, tmp_path, *start[:-1])
    assert rows_of(new, "weight").equal(rows_of(fresh, "weight"))
    assert not rows_of(new, "weight").equal(rows_of(before, "weight"))
    assert torch.equal(new["box_head.predict.pointwise.weight"], before["box_head.predict.pointwise.weight"])


def test_the_same_classes_keep_their_head(tiny_recipe, tiny_data, lettered_run, tmp_path):
    start = [*renamed(tiny_data, tmp_path / "abc", "abc"), f"model.weights={lettered_run / 'best.pt'}"]
    before = load_checkpoint(lettered_run / "best.pt").model.state_dict()
    new = before_the_first_step(tiny_recipe, tmp_path, *start)
    assert_equal(backbone(new), backbone(before))


def test_a_classifier_keeps_the_rows_of_its_classes(shapes_recipe, shapes_data, shapes_run, tmp_path):
    lines = (shapes_data / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(lines.replace(",disc", ",wolf"))  # frame, stripes, wolf
    start = [
        "data.format=csv",
        f"data.train.annotations={tmp_path / 'train.csv'}",
        f"data.train.images={shapes_data}",
        "data.val=null",
        f"model.weights={shapes_run / 'best.pt'}",
    ]
    before = load_checkpoint(shapes_run / "best.pt").model.state_dict()
    kept = before_the_first_step(shapes_recipe, tmp_path, *start, "model.keep_known_classes=true")
    assert kept["classifier.weight"][:2].equal(before["classifier.weight"][1:])
    assert kept["classifier.bias"][:2].equal(before["classifier.bias"][1:])
    assert_equal(backbone(kept), backbone(before))
    new = before_the_first_step(shapes_recipe, tmp_path, *start)
    assert new["classifier.weight"].equal(
        before_the_first_step(shapes_recipe, tmp_path, *start[:-1])["classifier.weight"]
    )
    assert not new["classifier.weight"].equal(before["classifier.weight"])
    assert new["conv_head.weight"].equal(before["conv_head.weight"])
