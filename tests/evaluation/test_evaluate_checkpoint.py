"""By which recipe a checkpoint is evaluated, and where its results go."""

import json
import shutil

import pytest

from effdet.cli import main
from effdet.config import load_config, make_config
from effdet.errors import ConfigError
from effdet.evaluation.evaluate_checkpoint import evaluation_config, results_folder
from effdet.models import ModelOptions, make_spec
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint


def run(*arguments):
    return main([*map(str, arguments), "--device", "cpu"])


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def contents(folder):
    """The files of a folder but the report, which says when it was written."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.suffix != ".html"}


@pytest.fixture
def own_run(tiny_run, tmp_path):
    """A copy of a run's folder, to be written to."""
    return shutil.copytree(tiny_run, tmp_path / "own")


# The folder


def test_an_evaluation_writes_to_a_folder_of_its_own_and_says_where(own_run, tiny_run, capsys):
    before = contents(own_run)
    assert run("eval", "--weights", own_run / "last.pt") == 0
    assert capsys.readouterr().out.endswith(
        f"report.html, metrics.json, predictions.json and more are in {own_run / 'eval-last'}\n"
    )
    assert contents(own_run) == before
    written = {"metrics.json", "predictions.json", "analysis.json", "confusion.csv", "confusion.png", "config.yaml"}
    assert set(contents(own_run / "eval-last")) == written
    assert "eval-last" in (own_run / "eval-last" / "report.html").read_text(encoding="utf-8")
    assert load_config(own_run / "eval-last/config.yaml") == load_config(tiny_run / "config.yaml")


def test_an_evaluation_never_overwrites_another_one(own_run):
    for _ in range(3):
        assert run("eval", "--weights", own_run / "best.pt", "postprocess.max_detections=3") == 0
    folders = sorted(path.name for path in own_run.iterdir() if path.is_dir())
    assert folders == ["eval-best", "eval-best-2", "eval-best-3"]
    assert len({str(contents(own_run / folder)) for folder in folders}) == 1


def test_other_data_are_named_in_the_folder(own_run, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "other.v2")
    weights = ["--weights", own_run / "best.pt"]
    assert run("eval", *weights, f"data.root={tmp_path / 'other.v2'}") == 0
    assert run("eval", *weights, "data.val.split=train2017") == 0
    assert {path.name for path in own_run.iterdir() if path.is_dir()} == {
        "eval-best-other.v2",
        f"eval-best-{tiny_data.name}-train2017",
    }


def test_public_weights_are_evaluated_in_runs(shapes_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    card = load_checkpoint(shapes_run / "best.pt").card
    config, _ = evaluation_config(card, "best.pt", overrides=["data.root=/data/imagenet"])
    public = type(card)(card.spec, card.class_names, card.category_ids)
    with (
        results_folder("efficientnet_lite0", public, config) as folder,
        results_folder("efficientnet_lite0", public, config) as second,
    ):
        assert str(folder) == "runs/eval-efficientnet_lite0-imagenet"
        assert str(second) == "runs/eval-efficientnet_lite0-imagenet-2"
    assert list((tmp_path / "runs").iterdir()) == []  # nothing was written


@pytest.mark.parametrize("name", ["metrics.json", "predictions.json"])
def test_out_is_not_a_folder_with_other_results(own_run, tmp_path, capsys, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("{}")
    line = refused(capsys, "eval", "--weights", own_run / "best.pt", "--out", out)
    assert line == (f"{out}: holds the {name} of another evaluation or of a training; choose another folder with --out")
    assert contents(out) == {name: b"{}"}


def test_out_may_be_an_empty_folder(own_run, tmp_path):
    (tmp_path / "out").mkdir()
    assert run("eval", "--weights", own_run / "best.pt", "--out", tmp_path / "out") == 0
    assert (tmp_path / "out/metrics.json").exists()


def test_data_that_cannot_be_read_leave_no_folder(own_run, tmp_path, capsys):
    assert "nowhere: no such folder" in refused(
        capsys, "eval", "--weights", own_run / "best.pt", f"data.root={tmp_path / 'nowhere'}"
    )
    assert not [path for path in own_run.iterdir() if path.is_dir()]


# The recipe and the model


def test_the_input_size_can_be_changed(own_run, tmp_path, capsys):
    weights = ["--weights", own_run / "best.pt"]
    assert run("eval", *weights, "--out", tmp_path / "small") == 0
    assert "evaluating at" not in capsys.readouterr().out
    assert run("eval", *weights, "--out", tmp_path / "large", "model.image_size=[192, 160]") == 0
    assert (
        f"model.image_size: evaluating at 192 x 160 pixels; {own_run / 'best.pt'} was trained at 64 x 64\n"
        in capsys.readouterr().out
    )
    first, second = (json.loads((tmp_path / name / "predictions.json").read_text()) for name in ("small", "large"))
    assert first != second


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.name=efficientdet_d2", "model.name is efficientdet_d2, but {} has efficientdet_lite0"),
        ("model={name: efficientdet_d2}", "model.name is efficientdet_d2, but {} has efficientdet_lite0"),
        ("model.num_classes=80", "model.num_classes is 80, but {} has 6"),
        ("model.backbone=efficientnet_b3", "model.backbone is efficientnet_b3, but {} has efficientnet_lite0"),
        ("model.phi=1", "model.phi is 1.0, but {} has null"),
        ("model.width=1.5", "model.width is 1.5, but {} has 1.0"),
        ("model.depth=1.5", "model.depth is 1.5, but {} has 0.2"),
        ("model.padding=symmetric", "model.padding is symmetric, but {} has same"),
        ("model.anchor_scale=5", "model.anchor_scale is 5.0, but {} has 3.0"),
        ("model.anchor_aspects=[[1, 1]]", "model.anchor_aspects is [[1.0, 1.0]], but {} has [[1.0, 1.0], [1.4, 0.7]"),
    ],
)
def test_another_model_on_the_command_line_is_refused(own_run, capsys, override, message):
    weights = own_run / "best.pt"
    line = refused(capsys, "eval", "--weights", weights, override)
    assert line.startswith(f"command line: {message.format(weights)}")
    key = message.partition(" ")[0]
    assert line.endswith(
        f"; leave {key} out; of the model only the input size can be changed, by model.image_size=[H,W]"
    )


@pytest.mark.parametrize(
    "override",
    [
        "model.name=efficientdet_lite0",
        "model.num_classes=6",
        "model.backbone=efficientnet_lite0",
        "model.width=1",
        "model.padding=same",
        "model.anchor_scale=3",
    ],
)
def test_the_model_of_the_checkpoint_may_be_given(own_run, override):
    path = own_run / "best.pt"
    config, lines = evaluation_config(load_checkpoint(path).card, path, overrides=[override])
    assert config.model.image_size == (64, 64)
    assert lines == []


def test_a_recipe_of_another_model_is_refused(own_run, tiny_data, tmp_path, capsys):
    recipe = tmp_path / "other.yaml"
    recipe.write_text(f"model: {{name: efficientdet_d2}}\ndata: {{root: {tiny_data}}}\n")
    weights = own_run / "best.pt"
    assert refused(capsys, "eval", recipe, "--weights", weights) == (
        f"{recipe}: model.name is efficientdet_d2, but {weights} has efficientdet_lite0; give the recipe that the "
        "weights were trained by, or leave the recipe out"
    )


def test_a_recipe_without_a_model_is_of_any(own_run, tiny_data, tmp_path):
    recipe = tmp_path / "data.yaml"
    recipe.write_text(f"data: {{root: {tiny_data}, workers: 0}}\neval: {{batch_size: 2}}\n")
    path = own_run / "best.pt"
    config, lines = evaluation_config(load_checkpoint(path).card, path, recipe)
    assert (config.eval.batch_size, lines) == (2, [])
    assert run("eval", recipe, "--weights", path) == 0


def test_overrides_without_effect_are_shown(own_run, capsys):
    useless = [
        *("optim.learning_rate=0.5", "train.epochs=7", "augment.mosaic=0.5", "loss.gamma=2", "seed=3"),
        *("model.drop_path=0.1", "eval.every_epochs=2", "data.cache=memory", "optim={momentum: 0.8}"),
    ]
    useful = ["eval.batch_size=2", "data.workers=0", "postprocess.nms=soft"]
    assert run("eval", "--weights", own_run / "best.pt", *useful, *useless) == 0
    keys = [override.partition("=")[0] for override in useless[:-1]]
    line = f"without effect in an evaluation: {', '.join([*keys, 'optim.momentum'])}\n"
    assert line in capsys.readouterr().out
    assert run("eval", "--weights", own_run / "best.pt", *useful) == 0
    assert "without effect" not in capsys.readouterr().out


def test_a_recipe_in_memory_is_used_like_its_file(own_run, tiny_recipe):
    path = own_run / "best.pt"
    card = load_checkpoint(path).card
    config, lines = evaluation_config(card, path, load_config(tiny_recipe), ["eval.batch_size=3"])
    assert config == load_config(tiny_recipe, ["eval.batch_size=3"])
    assert lines == []
    with pytest.raises(ConfigError, match=r"^recipe: model.name is efficientdet_d2, but .* has efficientdet_lite0"):
        evaluation_config(card, path, load_config(tiny_recipe, ["model.name=efficientdet_d2"]))


def test_results_of_an_exported_file_are_beside_those_of_its_checkpoint(tmp_path):
    spec = make_spec(ModelOptions("efficientdet_lite0"))
    recipe = {"task": "detection", "model": {"name": "efficientdet_lite0"}, "data": {"root": "coco"}}
    card, config = ModelCard(spec, ("a",), (1,), config=recipe), make_config(recipe)
    for name, folder in (("best.pt", "eval-best"), ("best.onnx", "eval-best.onnx"), ("best.xml", "eval-best.xml")):
        (tmp_path / name).touch()
        with results_folder(tmp_path / name, card, config) as chosen:
            assert chosen == tmp_path / folder
