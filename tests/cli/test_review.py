import csv
import json
import shutil

import pytest

from effdet.cli import main
from effdet.config import load_config
from effdet.data.formats import read_table


@pytest.fixture
def run_folder(tiny_run, tmp_path):
    """A copy of a trained run, without its results."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("best.pt", "config.yaml"):
        shutil.copyfile(tiny_run / name, folder / name)
    return folder


def perfect_results(folder, path, change=lambda rows: None):
    """Writes confident detections of every object of the training split, after a change; gives the split."""
    table = read_table(load_config(folder / "config.yaml").data, "train")
    rows = []
    for image in range(len(table)):
        record = table.record(image)
        for (x1, y1, x2, y2), category in zip(record["boxes"], record["category_ids"], strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append({"image_id": record["image_id"], "category_id": category, "bbox": box, "score": 0.9})
    change(rows)
    path.write_text(json.dumps(rows))
    return table


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(["review", *map(str, arguments)]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_the_validation_split_is_reviewed_by_best_pt(run_folder, capsys):
    assert main(["review", str(run_folder), "--split", "val", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "predicting 4 images" in out
    assert "trained on these labels" not in out
    assert out.splitlines()[-1].startswith(f"look through {run_folder / 'review' / 'review.html'}")
    names = sorted(path.name for path in (run_folder / "review").iterdir())
    assert names == ["proposals-val.json", "review.csv", "review.html", "review.json"]


def test_predictions_of_another_model_are_used(run_folder, tmp_path, capsys):
    table = perfect_results(run_folder, tmp_path / "results.json", lambda rows: rows.pop(0))
    arguments = ["review", str(run_folder), "--predictions", str(tmp_path / "results.json"), "--out", str(tmp_path)]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "review.json").read_text())
    assert report["models"] == {"train": [str(tmp_path / "results.json")]}
    assert report["splits"]["train"] == {"images": 12, "objects": len(table.labels)}
    (row,) = report["rows"]
    assert (row["kind"], row["file_name"], row["number"]) == ("spurious", table.file_name(0), 1)
    with (tmp_path / "review.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == len(report["rows"])


def test_the_data_set_is_not_changed(run_folder, tiny_data, capsys):
    before = {path: path.read_bytes() for path in tiny_data.rglob("*") if path.is_file()}
    assert main(["review", str(run_folder), "--device", "cpu"]) == 0
    assert {path: path.read_bytes() for path in tiny_data.rglob("*") if path.is_file()} == before
    assert "trained on these labels" in capsys.readouterr().out


def test_folds_are_trained_once(run_folder, capsys):
    arguments = ["review", str(run_folder), "--folds", "2", "train.epochs=1", "--device", "cpu", "--rows", "0"]
    assert main(arguments) == 0
    report = json.loads((run_folder / "review" / "review.json").read_text())
    folders = [run_folder / "review" / f"fold-{number}-of-2" for number in (1, 2)]
    assert report["models"]["train"] == [str(folder.absolute() / "best.pt") for folder in folders]
    modified = [(folder / "best.pt").stat().st_mtime for folder in folders]
    capsys.readouterr()
    assert main(arguments) == 0
    assert "fold-2-of-2: trained already" in capsys.readouterr().out
    assert [(folder / "best.pt").stat().st_mtime for folder in folders] == modified


def test_a_class_name_of_markup_does_no_harm_on_the_page(tiny_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for category in content["categories"]:
        category["name"] = f"<script>{category['name']}</script>"
    path.write_text(json.dumps(content))
    (tmp_path / "config.yaml").write_text(f"data: {{root: {root}}}\n")

    def move_some(rows):
        for row in rows[::9]:
            row["bbox"][0] = (row["bbox"][0] + 64) % 100

    perfect_results(tmp_path, tmp_path / "results.json", move_some)
    arguments = ["--predictions", str(tmp_path / "results.json"), "--out", str(tmp_path / "out")]
    assert main(["review", str(tmp_path), *arguments]) == 0
    page = (tmp_path / "out" / "review.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page


def test_a_run_without_best_pt_is_refused(run_folder, capsys):
    (run_folder / "best.pt").rename(run_folder / "last.pt")
    assert f"give a checkpoint instead, such as {run_folder / 'last.pt'}" in refused(capsys, run_folder)
    (run_folder / "last.pt").unlink()
    assert "there is no model to predict" in refused(capsys, run_folder)
    message = refused(capsys, run_folder, "--split", "all", "--folds", "2")
    assert "no model to review the validation split" in message


def test_a_classifier_is_refused(shapes_run, capsys):
    assert "needs a detector" in refused(capsys, shapes_run)
    assert "needs a detector" in refused(capsys, shapes_run, "--folds", "2")


def test_predictions_of_other_images_are_refused(run_folder, tmp_path, capsys):
    def rename(rows):
        for row in rows:
            row["image_id"] = f"other-{row['image_id']}"

    perfect_results(run_folder, tmp_path / "results.json", rename)
    message = refused(capsys, run_folder, "--predictions", tmp_path / "results.json")
    assert "results.json" in message


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--folds", "1"), "at least 2"),
        (("--folds", "2", "--split", "val"), "training split"),
        (("--folds", "2", "--predictions", "x.json"), "give one of them"),
        (("--predictions", "x.json", "--split", "all"), "of one split"),
        (("--predictions", "nowhere.json"), "nowhere.json"),
        (("--rows", "-1"), "expected 0 or more"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(run_folder, capsys, arguments, reason):
    assert reason in refused(capsys, run_folder, *arguments)


def test_a_run_that_does_not_exist_is_refused(tmp_path, capsys):
    assert "no such run" in refused(capsys, tmp_path / "nowhere")
    assert "no such run" in refused(capsys, tmp_path / "nowhere", "--folds", "2")
    assert "did you mean" in refused(capsys, "lite00.yaml", "--folds", "2")


def test_the_folds_of_a_recipe_are_trained_in_its_output_dir(tiny_recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["review", str(tiny_recipe), "--folds", "2", "train.epochs=1", "--device", "cpu", "--rows", "0"]
    assert main([*arguments, f"output_dir={tmp_path / 'own'}"]) == 0
    names = {path.name for path in (tmp_path / "own" / "review").iterdir()}
    assert {"fold-1-of-2", "fold-2-of-2", "review.html"} <= names
    assert not (tmp_path / "runs").exists()


def test_a_given_output_dir_replaces_the_folder_of_the_run(run_folder, tmp_path, capsys):
    other = tmp_path / "other"
    assert main(["review", str(run_folder), "--split", "val", "--device", "cpu", f"output_dir={other}"]) == 0
    assert (other / "review" / "review.html").is_file()
    assert not (run_folder / "review").exists()


def test_a_recipe_is_found_by_its_name(tiny_data, capsys):
    message = refused(capsys, "lite0", "--folds", "99", f"data.root={tiny_data}")
    assert "has only 12 images of different content" in message


def test_a_recipe_without_a_model_needs_folds_or_predictions(tiny_recipe, capsys):
    assert "--folds 5 or --predictions" in refused(capsys, tiny_recipe)
