import pytest

from effdet.cli import main
from effdet.models import EFFICIENTDETS, EFFICIENTNETS, list_models


def shown(capsys, *arguments):
    """The lines that `effdet` prints, with one space between words."""
    assert main(list(arguments)) == 0
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def refused(capsys, *arguments):
    assert main(["info", *arguments]) == 1
    return capsys.readouterr().err.strip()


def test_the_summary_of_a_detector_are_shown(capsys):
    lines = shown(capsys, "info", "efficientdet_d0")
    assert lines[:4] == ["model efficientdet_d0", "input 512 x 512", "classes 90", "anchors 49,104"]
    assert "MiB of activations per image" in lines[4]
    assert "backbone 3,595,388 1,901,490,688" in lines
    assert "all 3,880,067 2,492,331,520" in lines
    assert lines[-4:] == [
        "feature stride channels size",
        "C3 8 40 64 x 64",
        "C4 16 112 32 x 32",
        "C5 32 320 16 x 16",
    ]


def test_the_summary_of_a_classifier_are_shown_without_anchors(capsys):
    lines = shown(capsys, "info", "efficientnet_lite0")
    assert lines[:3] == ["model efficientnet_lite0", "input 224 x 224", "classes 1000"]
    assert not any(line.startswith("anchors") for line in lines)
    assert "all 4,652,008 385,187,552" in lines


def test_a_network_may_be_shown_with_changes(capsys):
    lines = shown(capsys, "info", "efficientdet_lite0", "model.image_size=[64,96]", "model.num_classes=7")
    assert {"input 64 x 96", "classes 7", "anchors 1,161", "C3 8 40 8 x 12"} <= set(lines)


def test_the_network_of_a_recipe_is_shown(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("model: {name: efficientdet_lite0, num_classes: 3, image_size: [64, 64], width: 0.5}\n")
    lines = shown(capsys, "info", str(recipe), "model.image_size=[65,33]")
    assert {"model efficientdet_lite0", "input 65 x 33", "classes 3", "C5 32 160 3 x 2"} <= set(lines)


def test_the_model_of_a_recipe_that_comes_with_the_package_is_shown(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown(capsys, "info", "lite0")[:3] == ["model efficientdet_lite0", "input 320 x 320", "classes 90"]
    assert shown(capsys, "info", "classification/lite0")[0] == "model efficientnet_lite0"


def test_the_classifier_of_a_recipe_is_shown(capsys, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("task: classification\nmodel: {name: efficientnet_lite0, image_size: [64, 64]}\n")
    lines = shown(capsys, "info", str(recipe))
    assert {"model efficientnet_lite0", "input 64 x 64", "classes 1000"} <= set(lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["efficientdet_d00"], "'efficientdet_d00' is no model and no recipe; did you mean efficientdet_d0"),
        (["b0"], "did you mean efficientnet_b0 or efficientnetv2_b0 or the recipe classification/b0?"),
        (["lite00"], "did you mean the recipe lite0"),
        (["xyzzy"], "'xyzzy' is no model and no recipe; `effdet models` lists the models"),
        (["efficientdet_d0", "model.phy=1"], "unknown key 'model.phy'; did you mean 'model.phi'?"),
        (["efficientdet_d0", "efficientdet_d1"], "expected one model or recipe, got efficientdet_d0 and"),
        (["model.phi=1"], "expected one model or recipe, got none"),
        (["missing.yaml"], "missing.yaml"),
        (["efficientdet_d0", "model.backbone=efficientnet_b99"], "unknown model 'efficientnet_b99'; did you mean"),
    ],
)
def test_what_is_no_network_and_no_recipe_is_refused_in_one_line(capsys, arguments, message):
    error = refused(capsys, *arguments)
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error


def test_networks_are_listed_with_their_multiply_adds(capsys, monkeypatch):
    monkeypatch.setattr("effdet.models.EFFICIENTDETS", {"efficientdet_d0": EFFICIENTDETS["efficientdet_d0"]})
    monkeypatch.setattr("effdet.models.EFFICIENTNETS", {"efficientnetv2_s": EFFICIENTNETS["efficientnetv2_s"]})
    monkeypatch.setattr("effdet.models.list_models", lambda: ["efficientdet_d0", "efficientnetv2_s"])
    assert shown(capsys, "models", "--full") == [
        "model input parameters multiply-adds",
        "efficientdet_d0 512 x 512 3,880,067 2.492 G",
        "efficientnetv2_s 384 x 384 21,458,488 8.366 G",
    ]


@pytest.mark.slow
def test_all_networks_are_listed_with_input_and_parameters(capsys):
    lines = shown(capsys, "models")
    assert lines[:2] == ["model input parameters", "efficientdet_d0 512 x 512 3,880,067"]
    assert [line.split()[0] for line in lines[1:]] == list_models()
