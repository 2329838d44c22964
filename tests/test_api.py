import json
from pathlib import Path

import pytest

import effdet


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def trained(tiny_recipe, tmp_path_factory):
    """The result of a training of three steps."""
    folder = tmp_path_factory.mktemp("api") / "run"
    return effdet.train(tiny_recipe, ["train.max_steps=3"], output_dir=folder, device="cpu")


def test_training_gives_folder_metrics_and_ending(trained):
    assert trained.ending == "finished"
    assert (trained.folder / "best.pt").exists()
    assert trained.metrics == read(trained.folder / "metrics.json")
    assert 0 <= trained.metrics["AP50"] <= 1


def test_a_recipe_in_memory_is_trained_under_the_name_of_its_model(tiny_recipe, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = effdet.load_config(tiny_recipe, ["train.epochs=1"])
    result = effdet.train(config, ["train.max_steps=3"], device="cpu")
    assert result.folder == Path("runs") / config.model.name
    assert result.metrics == trained.metrics  # the same three steps


def test_without_validation_there_are_no_metrics(tiny_recipe, tmp_path):
    result = effdet.train(tiny_recipe, ["train.max_steps=1", "data.val=null"], output_dir=str(tmp_path), device="cpu")
    assert result.metrics == {}


def test_a_run_is_continued(tiny_recipe, trained, tmp_path):
    changes = ["train.max_steps=3", "train.save_every_minutes=0.0000001"]
    first = effdet.train(tiny_recipe, ["train.max_hours=0.0000001", *changes], output_dir=tmp_path / "a", device="cpu")
    assert first.ending == "out of time"
    second = effdet.train(tiny_recipe, changes, device="cpu", resume=first.folder)
    assert effdet.train(resume=first.folder) == second  # nothing is left to do
    assert (second.ending, second.folder, second.metrics) == ("finished", first.folder, trained.metrics)


def test_a_run_is_continued_by_its_own_recipe(tiny_recipe, trained, tmp_path):
    first = effdet.train(tiny_recipe, ["train.max_steps=3", "train.max_hours=1e-9"], output_dir=tmp_path, device="cpu")
    second = effdet.train(resume=str(first.folder), overrides=["train.max_hours=null"])
    assert (second.ending, second.folder, second.metrics) == ("finished", first.folder, trained.metrics)


def test_mistakes_are_named(tiny_recipe, trained, tmp_path):
    with pytest.raises(effdet.ConfigError, match=r"unknown key .train\.epoch.; did you mean .train\.epochs."):
        effdet.train(tiny_recipe, ["train.epoch=3"])
    with pytest.raises(effdet.ConfigError, match="no data set is given: add data"):
        effdet.train(overrides=["train.epochs=3"])
    with pytest.raises(effdet.ConfigError, match="holds a run already"):
        effdet.train(tiny_recipe, output_dir=trained.folder)
    with pytest.raises(effdet.ConfigError, match="device 'gpu' cannot be used here"):
        effdet.train(tiny_recipe, output_dir=tmp_path, device="gpu")


def test_a_trained_checkpoint_predicts(trained, tiny_data):
    image = next((tiny_data / "val2017").iterdir())
    detections = effdet.Predictor(trained.folder / "best.pt", score_threshold=0.001)(image)
    assert isinstance(detections, effdet.Detections)
    assert detections.draw().shape[2] == 3


def test_a_checkpoint_is_evaluated_by_its_own_recipe(trained):
    metrics = effdet.evaluate(trained.folder / "best.pt", device="cpu")
    assert metrics == pytest.approx(trained.metrics, abs=1e-6)
    assert read(trained.folder / "eval-best/metrics.json") == metrics


def test_a_checkpoint_is_evaluated_by_another_recipe(trained, tiny_recipe, tmp_path):
    changes = ["postprocess.max_detections=1", "eval.batch_size=1"]
    by_file = effdet.evaluate(str(trained.folder / "best.pt"), tiny_recipe, changes, output_dir=tmp_path / "a")
    in_memory = effdet.load_config(tiny_recipe, changes)
    assert effdet.evaluate(trained.folder / "best.pt", in_memory, output_dir=tmp_path / "b") == by_file
    assert by_file["AR100"] <= trained.metrics["AR100"]
    assert len(read(tmp_path / "a/predictions.json")) <= 4  # one in each image
