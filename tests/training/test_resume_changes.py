import json
import shutil

from effdet.cli import main
from effdet.config import ClassificationConfig, make_config
from effdet.training.resume import data_changes, differences


def recipe(*overrides, task="detection"):
    return make_config({"task": task}, overrides).to_dict()


def test_equal_recipes_do_not_differ():
    assert differences(recipe(), recipe()) == []
    assert differences(recipe("loss.class_weights={a: 2}"), recipe("loss.class_weights={a: 2}")) == []


def test_keys_that_matter_are_told_one_by_one_and_the_others_in_one_line():
    now = recipe("optim.learning_rate=0.1", "train.epochs=20", "augment.scale_jitter=null", "data.workers=0")
    assert differences(recipe(), now) == [
        "augment.scale_jitter: [0.1, 2.0] -> null",
        "optim.learning_rate: 0.08 -> 0.1",
        "changed too: data.workers: 2 -> 0, train.epochs: 300 -> 20",
    ]


def test_only_minor_keys_are_one_line():
    now = recipe("output_dir=there", "train.max_hours=2", "train.patience=3", "eval.every_epochs=2")
    (line,) = differences(recipe(), now)
    assert line.startswith("changed too: ")
    for told in ("output_dir: null -> there", "train.max_hours: null -> 2.0", "eval.every_epochs: 1 -> 2"):
        assert told in line


def test_parts_that_come_and_go_are_told():
    before, after = recipe("data.val=null"), recipe("data.val.images=there")
    assert differences(before, after) == ["data.val.images: null -> there"]
    assert differences(after, before) == ["data.val.images: there -> null"]
    assert differences(recipe(), recipe("loss.class_weights={a: 2.0}")) == ["loss.class_weights.a: null -> 2.0"]


def test_a_key_that_the_saved_recipe_does_not_know_counts_as_its_default():
    before = recipe(task="classification")
    del before["train"]["deterministic"]
    assert differences(before, recipe(task="classification")) == []
    assert differences(before, recipe("train.deterministic=true", task="classification")) == [
        "train.deterministic: False -> True"
    ]
    assert ClassificationConfig().train.deterministic is False


def test_a_data_set_that_has_changed_is_told_with_its_counts():
    saved = {"fingerprints": {"train": "a", "val": "v"}, "images": 10, "objects": 20}
    assert data_changes(saved, dict(saved)) == []
    assert data_changes({}, saved) == []  # of a run that did not note it
    (line,) = data_changes(saved, {"fingerprints": {"train": "b", "val": "v"}, "images": 12, "objects": 20})
    assert line == (
        "the training set has changed (images 10 -> 12): from here on this is not the run that would have been"
    )
    (line,) = data_changes(saved, {**saved, "fingerprints": {"train": "b", "val": "v"}})
    assert "as many as before, but others or in another order" in line
    (line,) = data_changes(saved, {**saved, "fingerprints": {"train": "a"}})
    assert line.startswith("the validation set has changed")


def test_a_resumed_run_tells_what_has_changed(tiny_run, tiny_recipe, tiny_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    file = data / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    gone = content["annotations"].pop()
    file.write_text(json.dumps(content))
    assert gone is not None
    shutil.copytree(tiny_run, tmp_path / "run")
    changes = [f"data.root={data}", "optim.weight_decay=1e-3", "train.epochs=3", "train.max_steps=6"]
    assert main(["train", str(tiny_recipe), "--resume", str(tmp_path / "run"), "--device", "cpu", *changes]) == 0
    told = capsys.readouterr().out
    objects = len(content["annotations"])
    assert f"the training set has changed (objects {objects + 1} -> {objects}): from here on" in told
    assert "optim.weight_decay: 4e-05 -> 0.001" in told
    assert "train.epochs: 2 -> 3" in told.split("changed too: ")[1]
