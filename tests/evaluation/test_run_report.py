import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from effdet.config import make_config
from effdet.data.formats import read_table
from effdet.errors import DataError
from effdet.evaluation.run_report import write_run_report

ANALYSES = Path(__file__).resolve().parents[1] / "report" / "analyses.py"
analyses = SimpleNamespace(**runpy.run_path(str(ANALYSES)))


@pytest.fixture
def images(tmp_path):
    """A data set of six images in COCO format, with the names of the made-up analysis."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"image-{number}.png"), np.full((60, 80, 3), 40 * number, np.uint8))
    listed = [{"id": n + 1, "file_name": f"image-{n}.png", "height": 60, "width": 80} for n in range(6)]
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 20, 20], "area": 400, "iscrowd": 0}
    content = {"images": listed, "annotations": [box], "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "truth.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def run(tmp_path):
    """A folder with an analysis alone."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "analysis.json").write_text(json.dumps(analyses.detection()))
    return folder


def recipe(images):
    val = {"images": str(images), "annotations": str(images.parent / "truth.json")}
    return make_config({"model": {"name": "efficientdet_lite0"}, "data": {"format": "coco", "val": val}})


def report(folder, images=None):
    path = write_run_report(folder, images)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def pictures(page):
    return page.count("data:image/jpeg;base64,")


def test_the_images_are_those_of_the_recipe_in_the_folder(run, images):
    (run / "config.yaml").write_text(recipe(images).to_yaml())
    page = report(run)
    assert pictures(page) == 6
    assert "efficientdet_lite0" in page


def test_the_images_may_be_given_as_a_table_or_as_a_folder(run, images):
    table = read_table(recipe(images).data, "val")
    assert pictures(report(run, table)) == 6
    assert pictures(report(run, images)) == 6


def test_an_image_is_found_by_its_name_if_the_table_has_changed(run, images):
    table = read_table(recipe(images).data, "val")
    assert pictures(report(run, table.subset(np.arange(5, 0, -1)))) == 5


def test_images_that_are_missing_or_damaged_are_counted(run, images):
    (images / "image-0.png").unlink()
    (images / "image-1.png").write_bytes(b"no image")
    (images / "image-2.png").write_bytes((images / "image-3.png").read_bytes()[:60])
    page = report(run, images)
    assert pictures(page) == 3
    assert page.count(">no picture<") == 3
    assert "3 of 6 images below cannot be read: " in page


def test_a_folder_with_nothing_but_an_analysis_has_a_report(run):
    page = report(run)
    assert page.count(">no picture<") == 6
    assert "there is no config.yaml that names the images" in page
    assert "Training loss" not in page


def test_a_data_set_that_is_gone_is_named(run, images):
    (run / "config.yaml").write_text(recipe(images).to_yaml())
    (images.parent / "truth.json").unlink()
    page = report(run)
    assert "the images of the gallery cannot be read" in page
    assert "truth.json" in page


@pytest.mark.parametrize("place", ["elsewhere", "training/eval-best"])
def test_the_log_of_an_evaluation_is_that_of_its_weights(run, tmp_path, place):
    training = tmp_path / "training"
    training.mkdir()
    records = [record for kind in analyses.log() for record in kind]
    (training / "log.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    (training / "manifest.json").write_text(json.dumps({"starts": [{"versions": {"torch": "2.345"}}]}))
    weights = str(training / "best.pt") if place == "elsewhere" else None
    (run / "analysis.json").write_text(json.dumps(analyses.detection() | {"weights": weights}))
    page = report(run.rename(tmp_path / place))
    assert "Training loss" in page
    assert "2.345" in page


@pytest.mark.parametrize("name", ["log.jsonl", "config.yaml", "manifest.json"])
def test_a_damaged_file_is_named_on_the_page(run, name):
    (run / name).write_text("{ : no\n{\n")
    page = report(run)
    assert f"{name}: " in page


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"task": "detection"}', "null"])
def test_a_missing_or_foreign_analysis_is_refused(run, content):
    (run / "analysis.json").unlink()
    if content is not None:
        (run / "analysis.json").write_text(content)
    with pytest.raises(DataError, match=r"effdet eval --weights .*best\.pt"):
        write_run_report(run)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("weights", ["a"], "'weights'"),
        ("metrics", {"AP": "high"}, "'metrics.AP"),
        ("metrics", {"AP": 10**4000}, "'metrics.AP"),
        ("objects", None, "'objects'"),
        ("classes", [{"name": 5}], "'classes.0.name'"),
        ("intervals", {"level": [0, 1]}, "the interval 'level'"),
        ("intervals", {"AP": [None, 0.5]}, "the interval 'AP' has one end"),
        ("confusion", {"names": ["a"], "entries": [[0, 9, 1]]}, "lacks a threshold"),
        (
            "confusion",
            {"names": ["a"], "entries": [[0, 9, 1]], "score_threshold": 0.5, "iou_threshold": 0.5},
            "it has the label 9, but 2 classes",
        ),
        ("worst", [{"file_name": "a", "size": [0, 5], "counts": {}, "objects": [], "detections": []}], "'worst.0.size"),
    ],
)
def test_an_analysis_with_values_that_no_evaluation_writes_is_refused(run, key, value, message):
    (run / "analysis.json").write_text(json.dumps(analyses.detection() | {key: value}))
    with pytest.raises(DataError, match=message):
        write_run_report(run)


@pytest.mark.parametrize("start", [[], {"git": {"a": 1}}, {"hardware": "gpu"}, {"time": 5}])
def test_a_manifest_of_another_kind_is_named_on_the_page(run, start):
    (run / "manifest.json").write_text(json.dumps({"starts": [start]}))
    assert "manifest.json: cannot be read" in report(run)


def test_an_analysis_of_an_unknown_task_is_refused(run):
    (run / "analysis.json").write_text(json.dumps(analyses.detection() | {"task": "poetry"}))
    with pytest.raises(DataError, match="its task is 'poetry'"):
        write_run_report(run)


def test_a_report_is_replaced_and_nothing_else_is_left(run):
    (run / "report.html").write_text("old")
    assert "old" not in report(run)[:100]
    assert {path.name for path in run.iterdir()} == {"analysis.json", "report.html"}
