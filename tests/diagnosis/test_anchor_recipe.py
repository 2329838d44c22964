from pathlib import Path

import pytest

from effdet.config import load_config
from effdet.config.recipe_files import find_recipe
from effdet.diagnosis.anchors.recipe import detector_of, starts_from_detector, suggested_recipe
from effdet.errors import ConfigError

CHANGES = ["data.root=mine", "train.epochs=3", "model.image_size=[192,256]", "loss.class_weights={a: 2.0}"]
MODEL = {"anchor_scale": 1.9, "anchor_aspects": [[0.5, 2.0], [1.0, 1.0]], "image_size": [256, 320]}


@pytest.mark.parametrize("base", ["bccd", "own.yaml"])
def test_the_recipe_written_is_that_of_the_command_with_the_suggestion(base, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("base: bccd\ntrain: {batch_size: 4}\n")
    config = load_config(base, CHANGES)
    Path("sub").mkdir()
    text = suggested_recipe(find_recipe(base), config, MODEL, Path("sub"), "a comment")
    Path("sub", "new.yaml").write_text(text)
    expected = load_config(base, [*CHANGES, *(f"model.{key}={value}" for key, value in MODEL.items())])
    assert load_config("sub/new.yaml") == expected
    lines = text.splitlines()
    assert lines[:2] == ["# a comment", f"base: {'bccd' if base == 'bccd' else '../own.yaml'}"]
    assert "  anchor_scale: 1.9" in lines


def test_a_recipe_without_changes_is_its_base(tmp_path):
    text = suggested_recipe(find_recipe("lite0"), load_config("lite0"), {}, tmp_path, "none")
    assert text == "# none\nbase: lite0\n"


def test_a_classifier_has_no_anchors():
    with pytest.raises(ConfigError, match="only detectors have anchors"):
        detector_of(load_config("classification/finetune"))


@pytest.mark.parametrize("weights", ["null", "imagenet", "coco"])
def test_the_anchors_are_those_that_training_starts_from(weights):
    config = load_config("finetune", [f"model.weights={weights}", "model.image_size=[320,384]"])
    spec = detector_of(config)
    assert spec.image_size == (320, 384)
    assert spec.anchor_scale == 4
    assert starts_from_detector(config) == (weights == "coco")


def test_anchors_follow_the_weights_unless_the_recipe_sets_them():
    changes = ["model.name=efficientdet_lite0", "model.weights=effdet/tf_efficientdet_d0"]
    assert detector_of(load_config("finetune", changes)).anchor_scale == 4  # that of D0; Lite0 has 3
    assert detector_of(load_config("finetune", [*changes, "model.anchor_scale=2.5"])).anchor_scale == 2.5
