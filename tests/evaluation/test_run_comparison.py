import contextlib
import io
import json
import math
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from effdet.config import make_config
from effdet.errors import ConfigError, DataError
from effdet.evaluation.run_comparison import write_comparison

ANALYSES = Path(__file__).resolve().parents[1] / "report" / "analyses.py"
analyses = SimpleNamespace(**runpy.run_path(str(ANALYSES)))


def folder_of(path, analysis, predictions=None, config=None):
    path.mkdir(parents=True)
    (path / "analysis.json").write_text(json.dumps(analysis))
    if predictions is not None:
        (path / "predictions.json").write_text(json.dumps(predictions))
    if config is not None:
        (path / "config.yaml").write_text(make_config(config).to_yaml())
    return path


def predictions_of(right):
    """predictions.json of a classifier that is right or wrong about each image."""
    classes = {True: [{"name": "rose"}], False: [{"name": "tulip"}]}
    return [{"file_name": f"{n}.jpg", "label": "rose", "classes": classes[bool(hit)]} for n, hit in enumerate(right)]


def classifiers(tmp_path, *right):
    return [
        folder_of(tmp_path / f"run{number}", analyses.classification(), predictions_of(each))
        for number, each in enumerate(right)
    ]


def test_the_difference_of_classifiers_is_that_of_a_paired_test(tmp_path):
    rng = np.random.default_rng(0)
    first, second = rng.random(200) < 0.7, rng.random(200) < 0.75
    paired = write_comparison(classifiers(tmp_path, first, second), tmp_path / "page.html")
    (pair,) = paired["pairs"]
    changes = second.astype(float) - first
    reach = 1.96 * changes.std(ddof=1) / math.sqrt(200)
    assert pair["difference"] == pytest.approx(changes.mean())
    assert pair["interval"] == pytest.approx([changes.mean() - reach, changes.mean() + reach], abs=1e-5)
    assert pair["verdict"] == ("different" if abs(changes.mean()) > reach else "not distinguishable")
    assert (pair["a"], pair["b"], pair["metric"]) == ("run0", "run1", "top1")


def test_equal_classifiers_are_not_different_and_clearly_better_ones_are(tmp_path):
    right = np.arange(100) % 2 == 0
    paired = write_comparison(classifiers(tmp_path, right, right, np.ones(100)), tmp_path / "page.html")
    assert [pair["verdict"] for pair in paired["pairs"]] == ["not distinguishable", "different", "different"]


def test_classifiers_of_other_images_are_not_paired_and_the_page_says_so(tmp_path):
    folders = classifiers(tmp_path, [True, False, True], [True, False])
    assert write_comparison(folders, tmp_path / "page.html") is None
    assert "evaluate all runs on the same images" in (tmp_path / "page.html").read_text()


@pytest.fixture
def detectors(tmp_path):
    """Function that writes runs on one data set; each gives the objects with a probability, and with another seed."""
    rng = np.random.default_rng(0)
    images = [{"id": n, "file_name": f"{n}.jpg", "height": 100, "width": 100} for n in range(1, 31)]
    boxes = [
        {"id": 1 + 3 * n + k, "image_id": n + 1, "category_id": 1 + k % 2, "bbox": [*rng.uniform(0, 50, 2), 40.0, 40.0]}
        for n in range(30)
        for k in range(3)
    ]
    annotations = [box | {"area": 1600.0, "iscrowd": 0} for box in boxes]
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "white"}]
    (tmp_path / "images").mkdir()
    for image in images:
        (tmp_path / "images" / image["file_name"]).touch()
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    val = {"images": str(tmp_path / "images"), "annotations": str(tmp_path / "truth.json")}
    config = {"model": {"name": "efficientdet_lite0"}, "data": {"format": "coco", "val": val}}

    def write(*runs):
        folders = []
        for number, (probability, seed) in enumerate(runs):
            found = [box for box in boxes if rng.random() < probability]
            rows = [{key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9} for box in found]
            folders.append(
                folder_of(tmp_path / f"run{number}", analyses.detection(images=30), rows, config | {"seed": seed})
            )
        return folders

    return write


def test_the_difference_of_detectors_is_that_of_their_metrics(detectors, tmp_path):
    folders = detectors((1.0, 0), (0.5, 1))
    paired = write_comparison(folders, tmp_path / "page.html")
    pair = next(pair for pair in paired["pairs"] if pair["metric"] == "AP")
    scored = [read_results(tmp_path / "truth.json", folder / "predictions.json") for folder in folders]
    assert pair["difference"] == pytest.approx(scored[1] - scored[0], abs=1e-5)
    assert scored[0] == pytest.approx(1)
    page = (tmp_path / "page.html").read_text()
    assert "Which differences are real" in page
    assert all(note in page for note in paired["notes"])


def read_results(truth, predictions):
    """AP by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(predictions)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


def test_the_noise_is_measured_from_runs_with_other_seeds_only(detectors, tmp_path):
    measured = write_comparison(detectors(*((0.8, seed) for seed in range(5))), tmp_path / "page.html")
    assert "as 5 runs show" in measured["notes"][0]


def test_evaluations_of_one_training_do_not_measure_the_noise(detectors, tmp_path):
    assumed = write_comparison(detectors((0.8, 0), (0.7, 0)), tmp_path / "page.html")
    assert "assumed, because no runs differ by the seed alone" in assumed["notes"][0]


def test_the_assumed_noise_follows_from_the_evaluations_in_the_log(detectors, tmp_path):
    folders = detectors((0.8, 0), (0.8, 0))
    rows = [{"step": 100 * n, "epoch": n, "seconds": 9.0 * n, "AP": 0.2 * n} for n in (1, 2, 3)]
    (folders[1] / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, unknown, changing = write_comparison(folders, tmp_path / "page.html")["notes"]
    assert unknown.startswith("run0: 3.4 points, because AP before")
    assert (
        changing
        == "run1: 10.0 points, because AP was still changing: by 20.0 points in the last third of its training."
    )


@pytest.mark.parametrize("fault", ["images", "category", "damaged", "no recipe"])
def test_detectors_that_cannot_be_paired_are_shown_without_verdicts(detectors, tmp_path, fault):
    folders = detectors((1.0, 0), (0.9, 1))
    path = folders[1] / "predictions.json"
    rows = json.loads(path.read_text())
    if fault == "no recipe":
        (folders[1] / "config.yaml").unlink()
    else:
        rows[0]["image_id" if fault == "images" else "category_id"] = 999
        path.write_text("[" if fault == "damaged" else json.dumps(rows))
    assert write_comparison(folders, tmp_path / "page.html") is None
    assert "the runs are not paired over images: " in (tmp_path / "page.html").read_text()


def test_the_page_shows_what_differs_in_the_recipes(tmp_path):
    recipe = {"task": "classification", "model": {"name": "efficientnet_lite0"}}
    names = [
        folder_of(
            tmp_path / name / "eval",
            analyses.classification(),
            predictions_of([True]),
            recipe | {"train": {"epochs": epochs}},
        )
        for name, epochs in (("first", 11), ("second", 22))
    ]
    write_comparison(names, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "train.epochs" in page
    assert "train.batch_size" not in page
    assert "first/eval" in page  # the folders have one name


def test_other_numbers_of_images_and_other_settings_are_warned_of(tmp_path):
    other = analyses.detection(images=21)
    other["settings"]["max_detections"] = 300
    folders = [folder_of(tmp_path / "a", analyses.detection()), folder_of(tmp_path / "b", other)]
    write_comparison(folders, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "different numbers of images (a 20, b 21)" in page
    assert "max detections differs: a 100, b 300" in page


def test_a_folder_given_twice_has_two_names(tmp_path):
    (folder,) = classifiers(tmp_path, [True, False])
    paired = write_comparison([folder, folder], tmp_path / "page.html")
    assert [paired["pairs"][0][key] for key in ("a", "b")] == ["run0 (1)", "run0 (2)"]


def test_what_cannot_be_compared_is_refused(tmp_path):
    detector = folder_of(tmp_path / "detector", analyses.detection())
    classifier = folder_of(tmp_path / "classifier", analyses.classification())
    with pytest.raises(ConfigError, match="needs two runs"):
        write_comparison([detector], tmp_path / "page.html")
    with pytest.raises(ConfigError, match="runs of one task"):
        write_comparison([detector, classifier], tmp_path / "page.html")
    with pytest.raises(DataError, match="no such folder"):
        write_comparison([detector, tmp_path / "nowhere"], tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
