import json
from pathlib import Path

import pytest

from effdet.cli import main
from effdet.config import load_config


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """A recipe whose input is larger than its images, so that no larger inputs are searched."""
    path = tmp_path / "large.yaml"
    path.write_text(f"base: {tiny_recipe}\nmodel: {{image_size: [192, 192]}}\n")
    return path


def refused(capsys, *arguments):
    assert main(["anchors", *map(str, arguments)]) == 1
    return capsys.readouterr().err.strip()


def test_the_report_has_sizes_classes_levels_and_a_suggestion(recipe, capsys):
    assert main(["anchors", str(recipe)]) == 0
    out = capsys.readouterr().out
    for text in ("recall ceiling of the anchors:", "size ", "class ", "level ", "change ", "\nsuggestion: "):
        assert text in out
    assert "efficientdet_lite0, input 192 x 192" in out


def test_everything_is_written_as_json(recipe, capsys, tmp_path):
    assert main(["anchors", str(recipe), "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert main(["anchors", str(recipe), "--json", str(tmp_path / "anchors.json")]) == 0
    assert json.loads((tmp_path / "anchors.json").read_text()) == printed
    assert printed["images"] == 12
    assert sum(row["objects"] for row in printed["classes"]) == printed["objects"]
    assert sum(row["objects"] for row in printed["sizes"]) == printed["objects"]
    assert printed["suggestion"]["present"]["recall_ceiling"] == pytest.approx(printed["recall_ceiling"])


def test_the_suggestion_is_written_as_a_recipe_that_keeps_the_overrides(recipe, capsys, tmp_path):
    path = tmp_path / "suggestion.yaml"
    arguments = [str(recipe), "train.epochs=1", "model.anchor_scale=9.0"]
    assert main(["anchors", *arguments, "--write", str(path), "--json", "-"]) == 0
    captured = capsys.readouterr()
    changes = json.loads(captured.out)["suggestion"]["together"]["model"]
    assert f"next: effdet train {path}" in captured.err
    config = load_config(path)
    assert config == load_config(recipe, [*arguments[1:], *(f"model.{key}={value}" for key, value in changes.items())])
    assert main(["anchors", str(path)]) == 0


def test_a_data_set_alone_has_the_recipe_that_train_chooses(tiny_data, capsys):
    changes = [f"data.root={tiny_data}", "model.weights=null", "model.image_size=[128,128]"]
    assert main(["anchors", *changes]) == 0
    assert "no recipe is given; for 12 training images" in capsys.readouterr().out


def test_a_checkpoint_has_its_own_anchors_and_data_set(tiny_run, capsys):
    assert main(["anchors", "--weights", str(tiny_run / "best.pt"), "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["model"], report["image_size"], report["images"]) == ("efficientdet_lite0", [64, 64], 12)


def test_what_cannot_be_compared_is_refused_in_a_sentence(shapes_recipe, shapes_run, tiny_recipe, capsys):
    assert "only detectors have anchors" in refused(capsys, shapes_recipe)
    assert "only detectors have anchors" in refused(capsys, "--weights", shapes_run / "best.pt")
    assert "no recipe and no data set is given" in refused(capsys, "model.anchor_scale=2.0")
    assert "this is the recipe itself" in refused(capsys, tiny_recipe, "--write", tiny_recipe)


def test_a_data_set_without_objects_is_refused_in_a_sentence(tiny_data, tiny_recipe, tmp_path, capsys):
    file = tiny_data / "annotations" / "instances_train2017.json"
    empty = {**json.loads(file.read_text()), "annotations": []}
    path = tmp_path / "empty.json"
    path.write_text(json.dumps(empty))
    overrides = [f"data.train.annotations={path}", f"data.train.images={tiny_data / 'train2017'}", "data.val=null"]
    message = refused(capsys, tiny_recipe, *overrides)
    assert "no image has objects" in message
    assert Path(path).name in message
