import csv
import json
import os
import pickle
import shutil
import socket
from pathlib import Path

import pytest
import torch

from effdet.cli import main
from effdet.config import load_config
from effdet.data.images import read_image
from effdet.evaluation.accuracy import METRIC_NAMES
from effdet.models import ModelOptions, make_spec
from effdet.report.pictures import write_image
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import load_checkpoint, save_checkpoint
from effdet.weights.zoo import find_entry

CLASSES = ("disc", "frame", "stripes")


def run(*arguments):
    return main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    """The one line with which a command is refused."""
    capsys.readouterr()
    assert run(*arguments) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")
    return message.strip()


def read(path):
    return json.loads(path.read_text())


def table(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def data(shapes_data, tmp_path):
    """A copy of the labelled images to damage."""
    return Path(shutil.copytree(shapes_data, tmp_path / "data"))


@pytest.fixture
def train(shapes_recipe, tmp_path):
    """Arguments that train by the recipe in a folder of their own."""
    return ["train", shapes_recipe, f"output_dir={tmp_path / 'run'}", "--device", "cpu"]


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """A machine without connection and with an empty cache, whose folder is given."""

    def refuse(*arguments, **options):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("EFFDET_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


# A run's folder


def test_a_run_leaves_all_its_files(shapes_run, shapes_recipe):
    assert {path.name for path in shapes_run.iterdir()} == {
        *("best.pt", "config.yaml", "confusion.csv", "confusion.png", "last.pt", "previous.pt"),
        *("log.csv", "log.jsonl", "metrics.json", "predictions.json", "manifest.json", "curves.png"),
        *("analysis.json", "report.html"),
    }
    config = load_config(shapes_run / "config.yaml")
    assert config == load_config(shapes_recipe, [f"output_dir={shapes_run}"])
    checkpoint = load_checkpoint(shapes_run / "best.pt")
    assert (checkpoint.card.task, checkpoint.card.spec.name) == ("classification", "efficientnet_lite0")
    assert (checkpoint.card.class_names, checkpoint.card.category_ids) == (CLASSES, (0, 1, 2))
    assert checkpoint.card.metrics == read(shapes_run / "metrics.json")
    assert checkpoint.card.config == config.to_dict()
    assert checkpoint.training == {}
    assert load_checkpoint(shapes_run / "last.pt").training["step"] == 6


def test_the_log_has_every_step_with_its_settings_and_every_evaluation(shapes_run):
    lines = [json.loads(line) for line in (shapes_run / "log.jsonl").read_text().splitlines()]
    rows = table(shapes_run / "log.csv")
    assert list(rows[0]) == [
        *("step", "epoch", "seconds", "learning_rate", "loss", "gradient_norm"),
        *("image_height", "image_width", "rand_augment_magnitude", "mixup_alpha", "cutmix_alpha", "dropout"),
        *("images_per_second", "data_wait", "top1", "top5", "mean_class_accuracy"),
    ]
    assert [(line["step"], line["epoch"]) for line in lines if "loss" in line] == [
        *((1, 1), (2, 1), (3, 1)),
        *((4, 2), (5, 2), (6, 2)),
    ]
    assert [line["step"] for line in lines if "top1" in line] == [3, 6]
    assert [{key: float(value) for key, value in row.items() if value} for row in rows] == lines


def test_results_of_a_run_fit_together(shapes_run, shapes_data):
    predictions = read(shapes_run / "predictions.json")
    assert [row["file_name"] for row in predictions] == [
        f"{name}/{number}.png" for name in CLASSES for number in range(3)
    ]
    assert all(row["file_name"].startswith(f"{row['label']}/") for row in predictions)
    right = [row["classes"][0]["name"] == row["label"] for row in predictions]
    metrics = read(shapes_run / "metrics.json")
    assert tuple(metrics) == METRIC_NAMES
    assert metrics["top1"] == pytest.approx(sum(right) / 9)
    assert metrics["top5"] == 1
    confusion = table(shapes_run / "confusion.csv")
    assert list(confusion[0]) == ["true class", *CLASSES]
    assert [row["true class"] for row in confusion] == list(CLASSES)
    counts = [[int(row[name]) for name in CLASSES] for row in confusion]
    assert [sum(row) for row in counts] == [3, 3, 3]
    assert sum(counts[label][label] for label in range(3)) == sum(right)
    assert min(read_image(shapes_run / "confusion.png").shape[:2]) > 100


def test_the_best_weights_are_those_of_the_best_evaluation(shapes_run):
    lines = [json.loads(line) for line in (shapes_run / "log.jsonl").read_text().splitlines()]
    best = max(line["top1"] for line in lines if "top1" in line)
    assert load_checkpoint(shapes_run / "best.pt").card.metrics["top1"] == best
    assert load_checkpoint(shapes_run / "last.pt").training["best"] == best


def test_lists_give_the_same_training_as_folders(shapes_run, shapes_data, train, tmp_path):
    assert run(*train, "data.format=csv") == 0
    first, second = (load_checkpoint(folder / "last.pt") for folder in (shapes_run, tmp_path / "run"))
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert read(shapes_run / "metrics.json") == read(tmp_path / "run/metrics.json")


def test_a_run_of_stages_ends_at_the_size_of_the_network(train, tmp_path, capsys):
    stages = "progressive={image_size: [32, 48], mixup_alpha: [0, 0.2], dropout: [0.1, 0.3]}"
    assert run(*train, stages, "eval.every_epochs=0", "train.batch_size=9") == 0
    rows = [row for row in table(tmp_path / "run/log.csv") if row["loss"]]
    assert [row["image_height"] for row in rows] == ["32", "32", "48", "48"]
    assert load_checkpoint(tmp_path / "run/best.pt").card.spec.image_size == (64, 64)
    metrics = read(tmp_path / "run/metrics.json")
    weights = ["--weights", tmp_path / "run/best.pt"]
    assert run("eval", *weights, "--out", tmp_path / "eval", "--device", "cpu") == 0
    assert read(tmp_path / "eval/metrics.json") == metrics
    assert "efficientnet_lite0 64 x 64" in capsys.readouterr().out


def test_a_run_without_validation_keeps_its_newest_weights(train, tmp_path):
    assert run(*train, "data.val=null", "train.max_steps=1") == 0
    first, second = (load_checkpoint(tmp_path / "run" / name) for name in ("best.pt", "last.pt"))
    assert torch.equal(first.model.classifier.weight, second.model.classifier.weight)
    assert not (tmp_path / "run/metrics.json").exists()


# Eval


@pytest.mark.parametrize("with_recipe", [True, False])
def test_eval_gives_the_metrics_of_the_training(shapes_run, shapes_recipe, tmp_path, capsys, with_recipe):
    recipe = [shapes_recipe] if with_recipe else []
    weights = ["--weights", shapes_run / "best.pt", "--out", tmp_path, "--device", "cpu"]
    assert run("eval", *recipe, *weights) == 0
    for name in ("metrics.json", "predictions.json", "confusion.csv"):
        assert (tmp_path / name).read_text() == (shapes_run / name).read_text()
    output = capsys.readouterr().out
    assert f"9 images; report.html, metrics.json, predictions.json and more are in {tmp_path}\n" in output
    assert "top1" in output


def test_eval_of_another_split_and_another_format(shapes_run, tmp_path):
    options = ["--weights", shapes_run / "best.pt", "--device", "cpu", "--out"]
    assert run("eval", *options, tmp_path / "a", "data.val.split=train") == 0
    assert run("eval", *options, tmp_path / "b", "data.format=csv", "data.val.split=train") == 0
    assert read(tmp_path / "a/metrics.json") == read(tmp_path / "b/metrics.json")
    assert len(read(tmp_path / "a/predictions.json")) == 18


def test_classes_without_images_and_in_another_order_keep_their_labels(shapes_run, data, tmp_path):
    shutil.rmtree(data / "val/disc")
    weights = ["--weights", shapes_run / "best.pt", "--out", tmp_path / "eval", "--device", "cpu"]
    assert run("eval", *weights, f"data.root={data}") == 0
    kept = [row for row in read(shapes_run / "predictions.json") if row["label"] != "disc"]
    assert read(tmp_path / "eval/predictions.json") == kept


def test_a_recipe_of_the_other_task_is_refused(capsys, shapes_run, shapes_recipe, tiny_run, tiny_recipe):
    line = refused(capsys, "eval", tiny_recipe, "--weights", shapes_run / "best.pt")
    assert f"{tiny_recipe}: the recipe is for detection, but {shapes_run / 'best.pt'} is for classification" in line
    line = refused(capsys, "eval", shapes_recipe, "--weights", tiny_run / "best.pt")
    assert "the recipe is for classification, but" in line
    assert line.endswith("give a recipe of that task")


# Predict


def test_predict_writes_names_tables_and_pictures(shapes_run, shapes_data, tmp_path, capsys):
    out = tmp_path / "out"
    options = ["--weights", shapes_run / "best.pt", "--out", out, "--top", "2", "--device", "cpu"]
    assert run("predict", shapes_data / "val", *options) == 0
    assert "classified    9 images" in capsys.readouterr().out
    rows = read(out / "predictions.json")
    wanted = {row["file_name"]: row["classes"] for row in read(shapes_run / "predictions.json")}
    assert len(rows) == 9
    for row in rows:
        name = str(Path(row["file_name"]).relative_to(shapes_data / "val"))
        assert [entry["name"] for entry in row["classes"]] == [entry["name"] for entry in wanted[name][:2]]
        scores = [entry["score"] for entry in wanted[name][:2]]
        assert [entry["score"] for entry in row["classes"]] == pytest.approx(scores, abs=2e-5)
        assert read_image(out / name).shape == (96, 96, 3)
    lines = table(out / "predictions.csv")
    assert [(line["rank"], line["label"]) for line in lines] == [
        (str(rank), entry["name"]) for row in rows for rank, entry in enumerate(row["classes"], start=1)
    ]


def test_predict_writes_all_classes_if_there_are_fewer_than_five(shapes_run, shapes_data, tmp_path):
    image = shapes_data / "val/disc/0.png"
    assert run("predict", image, "--weights", shapes_run / "best.pt", "--out", tmp_path, "--no-images") == 0
    (row,) = read(tmp_path / "predictions.json")
    assert {entry["name"] for entry in row["classes"]} == set(CLASSES)
    assert sum(entry["score"] for entry in row["classes"]) == pytest.approx(1, abs=3e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.csv", "predictions.json"]


@pytest.mark.parametrize(
    ("flag", "value"), [("--conf", "0.5"), ("--iou", "0.5"), ("--max-det", "3"), ("--nms", "soft")]
)
def test_settings_of_detectors_are_refused_for_a_classifier(capsys, shapes_run, shapes_data, flag, value):
    weights = shapes_run / "best.pt"
    line = refused(capsys, "predict", shapes_data, "--weights", weights, flag, value)
    assert f"for detectors, but {weights} is a classifier; leave it out" in line


def test_settings_of_classifiers_are_refused_for_a_detector(capsys, tiny_run, tiny_data, shapes_run):
    line = refused(capsys, "predict", tiny_data, "--weights", tiny_run / "best.pt", "--top", "3")
    assert line == f"error: top is for classifiers, but {tiny_run / 'best.pt'} is a detector; leave it out"
    line = refused(capsys, "predict", tiny_data, "--weights", shapes_run / "best.pt", "--top", "0")
    assert line == "error: top is 0; expected at least 1"


# Data that cannot be used


def test_an_empty_class_folder_is_counted(capsys, train, data):
    (data / "train/cross").mkdir()
    assert run(*train, f"data.root={data}", "train.max_steps=1") == 0
    assert "class folders without images left out: 1 (cross)" in capsys.readouterr().out


def test_a_single_class_is_refused(capsys, train, data):
    for name in ("frame", "stripes"):
        shutil.rmtree(data / "train" / name)
    line = refused(capsys, *train, f"data.root={data}")
    assert f"{data / 'train'}: all images are of the class 'disc'; a classifier needs at least two classes" in line


def test_missing_images_of_a_list_are_named(capsys, train, data):
    (data / "train/disc/1.png").unlink()
    line = refused(capsys, *train, f"data.root={data}", "data.format=csv")
    assert "1 of 18 images do not exist" in line
    assert "train/disc/1.png" in line


@pytest.mark.parametrize(
    ("name", "hint"), [("discs", "did you mean 'disc'?"), ("wolf", "the classes are disc, frame, ")]
)
def test_a_class_that_is_not_in_the_training_set_is_named(capsys, train, data, shapes_run, name, hint):
    (data / "val/disc").rename(data / "val" / name)
    arguments = ["eval", "--weights", shapes_run / "best.pt"]
    for verb in (train, arguments):
        line = refused(capsys, *verb, f"data.root={data}")
        assert f"{data / 'val'}: the class '{name}'" in line
        assert "is not among the 3 classes of the training split or of the model" in line
        assert hint in line


def test_missing_folders_are_named_with_their_setting(capsys, train, data):
    path = data.parent / "nowhere"
    assert f"{path}: no such folder; set data.root=" in refused(capsys, *train, f"data.root={path}")
    shutil.rmtree(data / "val")
    line = refused(capsys, *train, f"data.root={data}", "data.val.split=val")
    assert "no split 'val'" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_in_the_first_batch_is_named_and_nothing_is_saved(capsys, train, data, tmp_path, workers):
    image = data / "train/frame/3.png"
    image.write_bytes(image.read_bytes()[:-500])
    line = refused(capsys, *train, f"data.root={data}", f"data.workers={workers}", "train.batch_size=18")
    assert line.startswith(f"error: {image}: ")
    assert not (tmp_path / "run/last.pt").exists()


def test_files_that_are_not_images_are_counted_and_skipped(capsys, train, data):
    (data / "train/disc/notes.txt").write_text("notes")
    assert run(*train, f"data.root={data}", "train.max_steps=1", "data.val=null") == 0
    assert "train: files that are no images left out: 1\n" in capsys.readouterr().out


def test_grey_and_odd_images_are_trained_on(train, data, tmp_path):
    import cv2

    grey = read_image(data / "train/disc/0.png")[:, :, 0]
    cv2.imwrite(str(data / "train/disc/0.png"), grey)
    write_image(data / "train/disc/1.png", read_image(data / "train/disc/1.png")[:1])
    assert run(*train, f"data.root={data}", "train.max_steps=3", "train.batch_size=18") == 0


# Recipes that cannot be used


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_classes=5", "the training set has 3 classes but model.num_classes is 5; leave model.num_classes"),
        ("model.name=efficientnet_lite9", "unknown model 'efficientnet_lite9'; did you mean efficientnet_lite"),
        ("model.name=efficientdet_d0", "unknown model 'efficientdet_d0'; did you mean"),
        ("postprocess.score_threshold=0.5", "unknown key 'postprocess'; it belongs to task: detection"),
        ("augment.scale_jitter=[0.5, 1]", "unknown key 'augment.scale_jitter'; it belongs to task: detection"),
        ("augment.mixup_alpha=-1", "'augment.mixup_alpha' is -1"),
        ("progressive.image_size=[]", "progressive has no stages; give image_size as a list"),
        (
            "progressive={image_size: [32, 64], mixup_alpha: [0.1]}",
            "every list needs one value per stage, but their lengths are",
        ),
        ("progressive.rand_augment_magnitude=[1, 2]", "augment.rand_augment.layers is 0; set it to 2"),
    ],
)
def test_an_override_that_cannot_be_used_is_named(capsys, train, tmp_path, override, message):
    assert message in refused(capsys, *train, override)
    assert not (tmp_path / "run").exists()


def test_both_kinds_of_weights_are_refused(capsys, train, shapes_run):
    weights = shapes_run / "best.pt"
    line = refused(capsys, *train, f"model.weights={weights}", f"model.backbone_weights={weights}")
    assert "weights and backbone_weights are both given; give the one that the training starts from" in line


# Weights that cannot be used


class Harm:
    """Something that runs code when it is unpickled."""

    def __reduce__(self):
        return (os.system, ("touch harm",))


def damaged(path, kind, whole):
    if kind == "page":
        path.write_bytes(b"<!DOCTYPE html><html><body>404: Not Found</body></html>")
    elif kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "code":
        torch.save({"model": Harm()}, path)
    else:
        path.write_bytes(pickle.dumps(Harm(), protocol=2))


@pytest.mark.parametrize("kind", ["page", "cut", "code", "pickle"])
def test_a_file_without_weights_is_named(
    capsys, train, shapes_run, shapes_data, shapes_recipe, tmp_path, monkeypatch, kind
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    damaged(path, kind, (shapes_run / "best.pt").read_bytes())
    message = f"error: {path}: not a weights file, or damaged; expected a file of tensors"
    for arguments in (
        [*train, f"model.weights={path}"],
        [*train, f"model.backbone_weights={path}"],
        ["eval", shapes_recipe, "--weights", path],
        ["predict", shapes_data / "val", "--weights", path],
        ["train", shapes_recipe, "--resume", path],
    ):
        assert refused(capsys, *arguments).startswith(message)
    assert not (tmp_path / "harm").exists()
    assert not (tmp_path / "run").exists()


def test_a_detectors_weights_are_refused_for_a_classifier(capsys, train, tiny_run):
    line = refused(capsys, *train, f"model.weights={tiny_run / 'best.pt'}")
    assert line == (
        f"error: {tiny_run / 'best.pt'}: these are a detector's weights, but the model is a classifier; load only "
        "their backbone with backbone_weights"
    )


def test_weights_of_another_network_are_named(capsys, train, tmp_path):
    spec, path = make_spec(ModelOptions("efficientnet_lite0")), tmp_path / "lite0.pt"
    save_checkpoint(path, spec.build(3).state_dict(), ModelCard(spec, CLASSES, (0, 1, 2)))
    line = refused(capsys, *train, f"model.weights={path}", "model.name=efficientnet_lite1", "model.depth=null")
    assert f"{path}: these weights belong to another model:" in line
    assert line.partition("the nearest models are ")[2].startswith("efficientnet_lite0")


def test_an_unknown_name_of_weights_gets_the_nearest_three(capsys, train, shapes_data, shapes_recipe):
    name = "efficientnet_lite0_imagenet"
    for arguments in (
        [*train, f"model.weights={name}"],
        ["eval", shapes_recipe, "--weights", name],
        ["predict", shapes_data, "--weights", name],
    ):
        line = refused(capsys, *arguments)
        assert line.startswith(f"error: no public weights are called '{name}'; did you mean ")
        assert line.count(" or ") == 2
        assert line.endswith("? `effdet weights list` shows all")


@pytest.mark.parametrize("name", ["efficientnet_b0", "efficientdet_d0"])
def test_the_error_for_weights_that_cannot_be_downloaded_says_what_to_do(
    capsys, train, shapes_data, offline, tmp_path, name
):
    entry = find_entry(name)
    commands = [["eval", "--weights", name], ["predict", shapes_data, "--weights", name]]
    if entry.task == "classification":
        commands.append([*train, f"model.weights={name}", f"model.name={name}"])
    for arguments in commands:
        assert refused(capsys, *arguments) == (
            f"error: {entry.name}: no connection (Network is unreachable); download {entry.url} by other means "
            f"and save it as {entry.file_name} in {offline / entry.source}"
        )
    assert not (tmp_path / "run").exists()


def test_weights_of_the_other_task_are_refused_with_those_that_fit(capsys, train):
    line = refused(capsys, *train, "model.weights=coco")
    assert "weights 'coco' are a detector's, but efficientnet_lite0 is a classifier; 'imagenet' fits it" in line
