import csv
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from effdet.cli import main
from effdet.data.synthetic import write_video
from effdet.data.train_order import TrainOrder
from effdet.training.run_folder import run_folder
from effdet.version import __version__
from effdet.weights.checkpoint import load_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent.parent
TRAIN_JSON = Path("annotations/instances_train2017.json")
VAL_JSON = Path("annotations/instances_val2017.json")


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


def test_the_package_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "effdet", "models", "--nothing"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("usage: effdet models")
    done = subprocess.run([sys.executable, "-m", "effdet", "--version"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"effdet {__version__}\n")


def test_a_closed_pipe_ends_a_verb_without_a_message(monkeypatch):
    def full(args):
        raise BrokenPipeError

    monkeypatch.setattr("effdet.cli.config.run", full)
    monkeypatch.setattr(os, "dup2", lambda *descriptors: None)
    assert run("config", "configs/d0.yaml") == 0


def test_a_folder_that_cannot_be_written_is_reported_before_the_evaluation(tiny_run, tmp_path, capsys, monkeypatch):
    def refuse(**settings):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    message = refused(capsys, "eval", "--weights", tiny_run / "best.pt", "--out", tmp_path, "--device", "cpu")
    assert f"{tmp_path}: cannot be written (Permission denied); choose another folder with --out" in message


def changed_json(path, source, change):
    """A copy of an annotation file with a change applied to its content."""
    content = read(source)
    change(content)
    path.write_text(json.dumps(content))
    return path


def with_category_ids(root, ids, folder):
    """Annotation files of the tiny data set with three classes of the given ids."""

    def change(content):
        old = sorted(category["id"] for category in content["categories"])
        label = {category_id: old.index(category_id) % 3 for category_id in old}
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[label[annotation["category_id"]]]
        content["categories"] = [
            {"id": category_id, "name": name} for category_id, name in zip(ids, "abc", strict=True)
        ][::-1]

    folder.mkdir()
    for name in (TRAIN_JSON, VAL_JSON):
        changed_json(folder / name.name, root / name, change)
    return [f"data.train.annotations={folder / TRAIN_JSON.name}", f"data.val.annotations={folder / VAL_JSON.name}"]


@pytest.fixture
def data(tiny_data, tmp_path):
    """A copy of the tiny data set to damage."""
    return Path(shutil.copytree(tiny_data, tmp_path / "data"))


@pytest.fixture
def train(tiny_recipe, tmp_path):
    """Arguments that train by the tiny recipe in a folder of their own."""
    return ["train", tiny_recipe, f"output_dir={tmp_path / 'run'}", "--device", "cpu"]


@pytest.fixture
def voc(tmp_path):
    """A Pascal VOC folder with two images."""
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in ("one", "two"):
        cv2.imwrite(str(root / f"JPEGImages/{name}.jpg"), np.full((100, 120, 3), 90, np.uint8))
        (root / f"Annotations/{name}.xml").write_text(
            f"<annotation><filename>{name}.jpg</filename><size><width>120</width><height>100</height></size>"
            "<object><name>cell</name><bndbox><xmin>10</xmin><ymin>10</ymin><xmax>60</xmax><ymax>70</ymax></bndbox>"
            "</object></annotation>"
        )
    for split in ("train", "val"):
        (root / f"ImageSets/Main/{split}.txt").write_text("one\ntwo\n")
    return root


# The whole path


def test_a_run_of_tools_train_is_evaluated_and_predicts(tiny_recipe, tiny_data, tmp_path, monkeypatch, capsys):
    process = subprocess.run(
        [sys.executable, REPOSITORY / "tools" / "train.py", tiny_recipe, "train.max_steps=2", "--device", "cpu"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "40"},
        capture_output=True,
        text=True,
    )
    assert process.stderr == ""
    assert process.returncode == 0
    lines = process.stdout.splitlines()
    assert lines[0] == f"loading PyTorch to train by {tiny_recipe}"
    assert lines[1].startswith("reading the data set ")
    assert any(line.startswith("step 1 of 2, epoch 1 of 1  loss ") for line in lines)
    script = REPOSITORY / "tools" / "predict.py"
    assert lines[-2] == f"next: python {script} YOUR_IMAGES --weights runs/tiny/best.pt"
    monkeypatch.chdir(tmp_path)
    assert run("eval", tiny_recipe, "--weights", "runs/tiny/best.pt", "--out", "eval", "--device", "cpu") == 0
    assert "4 images; report.html, metrics.json, predictions.json and more are in eval\n" in capsys.readouterr().out
    assert read(Path("eval/metrics.json")) == pytest.approx(read(Path("runs/tiny/metrics.json")), abs=1e-6)
    assert run("predict", tiny_data / "val2017", "--weights", "runs/tiny/best.pt", "--device", "cpu") == 0
    assert len(list(Path("runs/predict").glob("*.jpg"))) == 4
    assert run_folder(None, "tiny", None) == Path("runs/tiny-2")


def test_predict_reads_images_folders_and_videos(tiny_run, tiny_data, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", 3, (96, 128), seed=0)
    image = next((tiny_data / "train2017").iterdir())
    folder, out = tiny_data / "val2017", tmp_path / "out"
    options = ["--weights", tiny_run / "best.pt", "--out", out, "--conf", "0.005", "--device", "cpu"]
    assert run("predict", image, *options, folder, tmp_path / "clip.mp4") == 0
    assert "in 5 images and 3 video frames" in capsys.readouterr().out
    names = {path.name for path in [image, *folder.iterdir()]} | {
        "clip.mp4",
        "predictions.json",
        "predictions.csv",
        "pictures.csv",
    }
    assert {path.name for path in out.iterdir()} == names
    ids = {category["id"] for category in read(tiny_data / VAL_JSON)["categories"]}
    rows = read(out / "predictions.json")
    assert rows
    assert {row["category_id"] for row in rows} <= ids
    with (out / "predictions.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_options_may_come_before_between_and_after_overrides(tiny_run, tiny_recipe, tmp_path):
    weights, size = tiny_run / "best.pt", "eval.batch_size=2"  # one size: others are computed in another order
    assert run("eval", "--weights", weights, tiny_recipe, "--out", tmp_path / "a", size, "--device", "cpu") == 0
    assert run("eval", size, "--device", "cpu", "--weights", weights, "data.workers=0", "--out", tmp_path / "b") == 0
    assert read(tmp_path / "a/predictions.json") == read(tmp_path / "b/predictions.json")


@pytest.fixture(scope="module")
def runs_by_ids(tiny_recipe, tiny_data, tmp_path_factory):
    """The folder of a run for each way to number the same three classes."""
    folders = {}
    for ids in ((0, 1, 2), (1, 2, 3), (3, 7, 90)):
        folder = folders[ids] = tmp_path_factory.mktemp("ids")
        overrides = with_category_ids(tiny_data, ids, folder / "annotations")
        assert run("train", tiny_recipe, *overrides, "train.max_steps=3", f"output_dir={folder / 'run'}") == 0
    return {ids: folder / "run" for ids, folder in folders.items()}


@pytest.mark.parametrize("ids", [(1, 2, 3), (3, 7, 90)])
def test_category_ids_change_neither_losses_nor_metrics(runs_by_ids, ids):
    results = []
    for folder in (runs_by_ids[0, 1, 2], runs_by_ids[ids]):
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        timeless = [
            {key: value for key, value in line.items() if key not in ("seconds", "images_per_second", "data_wait")}
            for line in lines
        ]
        results.append((timeless, read(folder / "metrics.json")))
    assert results[0] == results[1]
    assert results[0][1]["AR100"] > 0


@pytest.mark.parametrize("ids", [(1, 2, 3), (3, 7, 90)])
def test_results_have_the_category_ids_of_the_data_set(runs_by_ids, ids):
    plain, numbered = (read(folder / "predictions.json") for folder in (runs_by_ids[0, 1, 2], runs_by_ids[ids]))
    assert [{**row, "category_id": ids[row["category_id"]]} for row in plain] == numbered
    assert load_checkpoint(runs_by_ids[ids] / "best.pt").card.category_ids == ids


# Recipes that cannot be used


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("model.num_clases=3", "unknown key 'model.num_clases'; did you mean 'model.num_classes'?"),
        ("nonsense.key=3", "unknown key 'nonsense'; sections are task, seed, output_dir, model,"),
        ("train.epochs=many", "'train.epochs' is 'many'"),
        ("train.epochs=0", "'train.epochs' is 0"),
        ("train.channels_last=3", "'train.channels_last' is 3"),
        ("model.image_size=[512]", "'model.image_size' is [512]"),
        ("=3", "expected section.key=value, got '=3'"),
        ("train.epochs=[3", "the value of 'train.epochs=[3' is not valid YAML"),
        ("model.name=efficientdet_d9", "efficientdet_d9"),
        ("train.freeze=[backbon]", "train.freeze: the model has no module 'backbon'; similar names are backbone"),
    ],
)
def test_an_override_that_cannot_be_used_is_named(capsys, train, tmp_path, override, message):
    assert message in refused(capsys, *train, override)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {epoch: 3}", "unknown key 'train.epoch'; did you mean 'train.epochs'?"),
        ("trian: {epochs: 3}", "unknown key 'trian'"),
        ("train: {epochs: three}", "'train.epochs' is 'three'"),
        ("train: [", "not valid YAML"),
        ("just words", "expected a mapping of sections such as 'model:', got a str"),
        ("base: nowhere.yaml", "nowhere.yaml: no such recipe"),
    ],
)
def test_a_recipe_that_cannot_be_used_is_named(capsys, tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    line = refused(capsys, "train", path)
    assert message in line
    assert str(tmp_path) in line


def test_a_missing_recipe_is_named(capsys, tmp_path):
    path = tmp_path / "none.yaml"
    line = refused(capsys, "train", path)
    assert line.startswith(f"error: {path}: no such recipe; recipes that come with effdet: bccd, d0, d1")


def test_no_recipe_and_two_recipes_are_refused(capsys, tiny_recipe):
    assert "no data set is given: add data.root=FOLDER" in refused(capsys, "train", "train.epochs=3")
    assert "one recipe at a time, got" in refused(capsys, "train", tiny_recipe, tiny_recipe)
    line = refused(capsys, "train", tiny_recipe, "train.epochs", "3")
    assert "train.epochs and 3; changes are written section.key=value" in line


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "nonsense"])
def test_an_unknown_device_is_refused(capsys, tiny_run, tiny_recipe, tiny_data, device):
    message = f"device '{device}' cannot be used"
    weights = ["--weights", tiny_run / "best.pt"]
    assert message in refused(capsys, "train", tiny_recipe, "--device", device)
    assert message in refused(capsys, "eval", *weights, "--device", device)
    assert message in refused(capsys, "predict", tiny_data, *weights, "--device", device)


def test_the_schema_has_the_keys_of_both_tasks(capsys):
    assert run("config", "--schema") == 0
    schema = json.loads(capsys.readouterr().out)
    detection, classification = (
        schema["$defs"][name]["properties"] for name in ("DetectionConfig", "ClassificationConfig")
    )
    assert {"postprocess"} <= detection.keys() - classification.keys()
    assert {"progressive"} <= classification.keys() - detection.keys()
    assert {"scale_jitter", "horizontal_flip"} <= schema["$defs"]["DetectionAugment"]["properties"].keys()


def test_another_number_of_classes_than_the_data_has_is_refused(capsys, train):
    line = refused(capsys, *train, "model.num_classes=5")
    assert "the training set has 6 classes but model.num_classes is 5; leave model.num_classes out" in line


# Data that cannot be used


def test_a_missing_data_folder_is_named(capsys, train, tmp_path):
    path = tmp_path / "nowhere"
    assert refused(capsys, *train, f"data.root={path}").startswith(f"error: {path}: no such folder; set data.root=")
    assert "no data set is given: set data.root=FOLDER" in refused(capsys, *train, "data.root=null")


def test_a_missing_annotation_file_is_named(capsys, train, data):
    path = data / VAL_JSON
    path.unlink()
    line = refused(capsys, *train, f"data.root={data}", f"data.val.annotations={path}")
    assert f"{path}: no such" in line


def test_a_cut_annotation_file_is_named(capsys, train, data):
    path = data / TRAIN_JSON
    path.write_text(path.read_text()[:1000])
    assert f"{path}: not valid JSON, line" in refused(capsys, *train, f"data.root={data}")


def test_an_annotation_file_of_another_kind_is_named(capsys, train, data):
    path = data / TRAIN_JSON
    path.write_text("[]")
    assert f"{path}: not a COCO instances file: expected" in refused(capsys, *train, f"data.root={data}")


def test_a_voc_folder_with_one_class_is_trained_on(voc, train, capsys):
    assert run(*train, "data.format=voc", f"data.root={voc}", "train.max_steps=1") == 0
    assert ", 1 class; 2 images for training, 2 for validation; 1 epoch, 1 step of " in capsys.readouterr().out


def test_a_broken_xml_file_is_named(capsys, train, voc):
    path = voc / "Annotations/two.xml"
    path.write_text(path.read_text()[:100])
    line = refused(capsys, *train, "data.format=voc", f"data.root={voc}")
    assert f"{path}: not valid XML, line 1 column 100; write the file again" in line


def test_a_class_that_is_not_in_the_training_set_is_named(capsys, train, voc):
    path = voc / "Annotations/two.xml"
    path.write_text(path.read_text().replace("cell", "wolf"))
    (voc / "ImageSets/Main/train.txt").write_text("one\n")
    line = refused(capsys, *train, "data.format=voc", f"data.root={voc}")
    assert "val.txt: the class 'wolf' is" in line
    assert "the classes are cell" in line


def test_an_object_of_an_unknown_category_is_counted(capsys, train, data):
    def change(content):
        content["annotations"][2]["category_id"] = 99

    changed_json(data / TRAIN_JSON, data / TRAIN_JSON, change)
    assert run(*train, f"data.root={data}", "train.max_steps=1") == 0
    assert "objects of categories that the file does not list left out: 1" in capsys.readouterr().out


def test_an_empty_data_set_is_refused(capsys, train, data):
    path = changed_json(data / TRAIN_JSON, data / TRAIN_JSON, lambda content: content.update(images=[], annotations=[]))
    line = refused(capsys, *train, f"data.root={data}")
    assert f"{path}: the data set has no images; expected at least one" in line


def test_a_data_set_without_any_object_is_trained_on(train, data, capsys):
    for path in (data / TRAIN_JSON, data / VAL_JSON):
        changed_json(path, path, lambda content: content.update(annotations=[]))
    assert run(*train, f"data.root={data}", "train.max_steps=1") == 0
    assert read(data.parent / "run/metrics.json")["AP"] == -1


def test_an_image_that_is_missing_is_named_before_the_training(capsys, train, data, tmp_path):
    image = sorted((data / "train2017").iterdir())[3]
    image.unlink()
    line = refused(capsys, *train, f"data.root={data}")
    assert f"1 of 12 images do not exist in {data / 'train2017'}: {image.name}" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda data: data[: len(data) // 2], "12 of 12 images are damaged; the image is cut off before its end: "),
        (lambda data: b"", "12 of 12 images are damaged; the file is empty: "),
        (lambda data: b"not an image at all", "not a whole image of a known format"),
    ],
)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_named(capsys, train, data, content, message, workers):
    for image in (data / "train2017").iterdir():
        image.write_bytes(content(image.read_bytes()))
    line = refused(capsys, *train, f"data.root={data}", f"data.workers={workers}")
    assert f"{data / 'train2017'}" in line
    assert message in line
    assert not (data.parent / "run/last.pt").exists()


def test_all_empty_images_are_named_before_training_and_evaluation(capsys, train, data, tmp_path, tiny_run):
    names = sorted(path.name for path in (data / "train2017").iterdir())[3::3]
    for name in names:
        (data / "train2017" / name).write_bytes(b"")
    message = f"{data / 'train2017'}: 3 of 12 images are damaged; the file is empty: {', '.join(names)}; "
    assert refused(capsys, *train, f"data.root={data}").startswith(f"error: {message}")
    assert not (tmp_path / "run").exists()
    split = [f"data.val.images={data / 'train2017'}", f"data.val.annotations={data / TRAIN_JSON}"]
    line = refused(capsys, "eval", "--weights", tiny_run / "best.pt", f"data.root={data}", *split, "--out", tmp_path)
    assert line.startswith(f"error: {message}")


@pytest.mark.parametrize("verb", ["train", "eval"])
def test_all_damaged_images_are_named_at_once_and_listed(capsys, train, data, tmp_path, tiny_run, verb):
    images = sorted((data / "val2017").iterdir())[:3]
    images[0].write_bytes(b"no image")
    for image in images[1:]:
        image.write_bytes(image.read_bytes()[:-100])
    folder = tmp_path / "run"
    weights = ["--weights", tiny_run / "best.pt", "--out", folder, "--device", "cpu"]
    arguments = [*train, "train.max_steps=1"] if verb == "train" else ["eval", *weights]
    line = refused(capsys, *arguments, f"data.root={data}")
    first, second, third = (image.name for image in images)
    assert "3 of 4 images are damaged; " in line
    assert f"not a whole image of a known format: {first}; " in line
    assert f"the image is cut off before its end: {second}, {third}; all are listed in {folder}/damaged.txt; " in line
    listed = (folder / "damaged.txt").read_text().splitlines()
    assert [path.partition(": ")[0] for path in listed] == [str(image) for image in images]


def test_a_run_that_ends_at_a_broken_image_is_saved_and_can_be_resumed(capsys, train, tiny_recipe, tiny_run, data):
    root, folder = f"data.root={data}", data.parent / "run"
    (order,) = TrainOrder(num_images=12, batch_size=12, seed=0).batches(0, 1)
    name = read(data / TRAIN_JSON)["images"][order[5].row]["file_name"]  # for the second step
    image = data / "train2017" / name
    whole = image.read_bytes()
    image.write_bytes(whole[:-100])
    capsys.readouterr()
    assert run(*train, root) == 1
    output = capsys.readouterr()
    command = f"effdet train --resume {folder}"
    assert f"saved after step 1; fix the cause below, then continue with: {command}\n" in output.out
    assert output.err.startswith(f"error: {image}: the image is cut off")
    image.write_bytes(whole)
    assert run(*command.split()[1:]) == 0
    first, second = (load_checkpoint(path / "last.pt").model.state_dict() for path in (folder, tiny_run))
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def test_faulty_boxes_are_counted_once_and_do_not_end_the_run(capsys, train, data):
    def change(content):
        image = content["annotations"][0]["image_id"]
        faults = [[10, 10, 0, 20], [10, 10, 20, -5], [300, 10, 20, 20], [-50, 10, 20, 20], [0, 0, float("nan"), 5]]
        for box in [*faults, [-20, 10, 60, 20]]:
            row = {"id": 10_000 + len(content["annotations"]), "image_id": image, "category_id": 1, "iscrowd": 0}
            content["annotations"].append({**content["annotations"][0], **row, "bbox": box, "area": 100})

    changed_json(data / TRAIN_JSON, data / TRAIN_JSON, change)
    assert run(*train, f"data.root={data}", "train.max_steps=2", "data.val=null") == 0
    lines = capsys.readouterr().out.splitlines()
    counted = [line.partition(" (")[0] for line in lines if line.startswith("instances_train2017.json")]
    assert counted == [
        "instances_train2017.json: boxes with NaN or infinite coordinates dropped: 1",
        "instances_train2017.json: boxes with corners in reverse order sorted: 1",
        "instances_train2017.json: boxes without area dropped: 1",
        "instances_train2017.json: boxes outside their image dropped: 2",
        "instances_train2017.json: boxes extending beyond their image clipped to it: 1",
    ]


def test_a_data_set_with_more_classes_than_the_model_is_not_evaluated(capsys, tiny_run, data):
    def change(content):
        content["categories"].append({"id": 77, "name": "wolf"})
        content["annotations"][0]["category_id"] = 77

    path = changed_json(data / VAL_JSON, data / VAL_JSON, change)
    before = (tiny_run / "metrics.json").read_bytes()
    line = refused(capsys, "eval", "--weights", tiny_run / "best.pt", f"data.root={data}", "--device", "cpu")
    assert f"{path}: the class 'wolf' is" in line
    assert (tiny_run / "metrics.json").read_bytes() == before


def test_a_recipe_without_validation_is_not_evaluated(capsys, tiny_run):
    line = refused(capsys, "eval", "--weights", tiny_run / "best.pt", "data.val=null")
    assert "no validation split: data.val is null; set data.val.split=" in line


# Weights that cannot be used

FOREIGN = {
    "text": b"these are no weights\n",
    "page": b"<!DOCTYPE html><html><body>404: Not Found</body></html>",
    "nothing": b"",
    "archive": b"PK\x03\x04" + bytes(200),
}


@pytest.fixture(params=[*FOREIGN, "cut"])
def foreign(request, tmp_path, tiny_run):
    path = tmp_path / "weights.pt"
    whole = (tiny_run / "best.pt").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if request.param == "cut" else FOREIGN[request.param])
    return path


def test_a_file_without_weights_is_named(capsys, foreign, train, tiny_data, tiny_recipe):
    message = f"error: {foreign}: not a weights file, or damaged; expected a file of tensors"
    assert refused(capsys, *train, f"model.weights={foreign}").startswith(message)
    assert refused(capsys, "eval", tiny_recipe, "--weights", foreign).startswith(message)
    assert refused(capsys, "predict", tiny_data, "--weights", foreign).startswith(message)
    assert refused(capsys, "train", tiny_recipe, "--resume", foreign).startswith(message)


def test_weights_of_another_network_are_named(capsys, train, tiny_run, tiny_data, tmp_path):
    path = tmp_path / "state.pt"
    torch.save({"layer1.weight": torch.zeros(3), "layer1.bias": torch.zeros(3)}, path)
    assert f"{path}: weights from an unknown system" in refused(capsys, *train, f"model.weights={path}")
    assert f"{path}: holds weights but no model card" in refused(capsys, "predict", tiny_data, "--weights", path)
    other = refused(capsys, *train, f"model.weights={tiny_run / 'best.pt'}", "model.name=efficientdet_lite1")
    assert f"{tiny_run / 'best.pt'}: these weights belong to another model:" in other
    assert "check model.name and model.weights" in other


def test_missing_weights_are_named(capsys, train, tiny_data, tiny_recipe, tmp_path):
    path = tmp_path / "none.pt"
    message = f"error: {path}: no such weights file"  # and none beside it
    there = f"{message}; {tmp_path} "  # and what it holds
    assert refused(capsys, *train, f"model.weights={path}").startswith(there)
    assert refused(capsys, "eval", tiny_recipe, "--weights", path).startswith(there)
    assert refused(capsys, "predict", tiny_data, "--weights", path).startswith(there)
    assert f"{tmp_path} is a folder; it has no weights" in refused(capsys, "predict", tiny_data, "--weights", tmp_path)
    (tmp_path / "last.pt").write_bytes(b"")
    files = f"{tmp_path} has last.pt; give one, such as {tmp_path / 'last.pt'}"
    assert refused(capsys, "eval", "--weights", tmp_path) == f"error: {tmp_path} is a folder; {files}"
    assert refused(capsys, "eval", "--weights", path) == f"{message}; {files}"


# Sources that cannot be used


def test_sources_that_cannot_be_used_are_named(capsys, tiny_run, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"no video" * 100)
    (tmp_path / "empty").mkdir()
    for name, message in {
        "clip.mp4": "the video cannot be opened; convert it to MP4 (H.264) or copy the file again",
        "none.jpg": f"no such file or folder; in {tmp_path}, the folder holds empty/, 1 .mp4",
        "empty": "no images or videos in this folder or below",
        "*.png": "matches no images or videos; check the pattern and the folder",
    }.items():
        line = refused(capsys, "predict", tmp_path / name, "--weights", tiny_run / "best.pt", "--out", tmp_path / "out")
        assert line.startswith(f"error: {tmp_path / name}: {message}")
    assert not (tmp_path / "out").exists()


# Folders that cannot be used


def test_a_run_is_never_overwritten(capsys, tiny_run, tiny_recipe, tmp_path):
    before = {path.name: path.read_bytes() for path in tiny_run.iterdir()}
    line = refused(capsys, "train", tiny_recipe, f"output_dir={tiny_run}")
    assert line == (
        f"error: {tiny_run}: holds a run already; continue it with --resume {tiny_run}, or set another output_dir"
    )
    line = refused(capsys, "train", tiny_recipe, "--resume", tiny_run, f"output_dir={tmp_path}")
    assert "a run continues in its own folder, but output_dir is" in line
    assert {path.name: path.read_bytes() for path in tiny_run.iterdir()} == before


def test_resuming_nothing_is_refused(capsys, tiny_recipe, tmp_path):
    path = tmp_path / "none"
    line = refused(capsys, "train", tiny_recipe, "--resume", path)
    assert line == f"error: --resume {path}: no such file or folder; give a run's folder or its last.pt"
    line = refused(capsys, "train", tiny_recipe, "--resume", tmp_path)
    assert line.startswith(f"error: --resume {tmp_path}: the folder has no last.pt, it is empty; ")
    assert "no data set is given" in refused(capsys, "train", "--resume", "auto")


@pytest.mark.parametrize("verb", ["train", "eval", "predict"])
def test_a_folder_that_cannot_be_written_is_named(capsys, verb, train, tiny_run, tiny_data, tmp_path):
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "run"
    arguments = {
        "train": [*train, f"output_dir={folder}"],
        "eval": ["eval", "--weights", tiny_run / "best.pt", "--out", folder],
        "predict": ["predict", tiny_data / "val2017", "--weights", tiny_run / "best.pt", "--out", folder],
    }[verb]
    line = refused(capsys, *arguments)
    assert "cannot be written" in line
    assert str(folder) in line


# Names that the terminal must not change


def test_brackets_and_long_paths_are_printed_unchanged(capsys, train, tmp_path):
    folder = tmp_path / "[bold]" / ("long" * 30)
    assert run(*train, f"output_dir={folder}", "train.max_steps=1", "data.val=null") == 0
    assert f"weights to use: {folder}/best.pt (the newest weights, because" in capsys.readouterr().out


def test_an_evaluation_that_runs_out_of_memory_says_what_to_change(
    tiny_run, tiny_recipe, monkeypatch, tmp_path, capsys
):
    def too_large(*arguments):
        return torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("effdet.evaluation.evaluate_checkpoint.evaluate", too_large)
    given = [str(tiny_recipe), "--weights", str(tiny_run / "best.pt"), "--out", str(tmp_path), "--device", "cpu"]
    assert main(["eval", *given]) == 1
    assert "error: not enough memory; lower the batch size (eval.batch_size" in capsys.readouterr().err
