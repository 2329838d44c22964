"""`effdet eval`: results files, and the flags on detections."""

import json

import pytest

from effdet.cli import main


def run(*arguments):
    return main(["eval", *map(str, arguments)])


def refused(capsys, *arguments):
    capsys.readouterr()
    assert run(*arguments) == 1
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    return line.removeprefix("error: ")


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """An evaluation of the tiny run with all flags: its folder and its output."""
    folder = tmp_path_factory.mktemp("eval")
    files = ("--save-predictions", folder / "results.json", "--out", folder / "out")
    assert run("--weights", tiny_run / "best.pt", "--device", "cpu", "--pycocotools", *files) == 0
    return folder


def test_saved_predictions_are_evaluated_like_the_model(evaluated, tiny_data, capsys):
    truth = tiny_data / "annotations/instances_val2017.json"
    files = ("--annotations", truth, "--predictions", evaluated / "results.json")
    assert run(*files, "--out", evaluated / "again", "--pycocotools", "--voc") == 0
    output = capsys.readouterr().out
    metrics, again = read(evaluated / "out/metrics.json"), read(evaluated / "again/metrics.json")
    assert {name: again[name] for name in metrics} == pytest.approx(metrics, abs=0.01)  # scores are rounded
    assert set(again) - set(metrics) == {"AP50_VOC2007", "AP50_VOC2010"}
    lines = output.splitlines()
    assert lines[0].split()[:2] == ["metric", "%"]
    assert "COCO counts 100 detections per image and class" in lines
    assert any(line.split()[:3] == ["class", "objects", "AP"] for line in lines)
    assert any(line.startswith("pycocotools gives AP ") for line in lines)
    rows = read(evaluated / "results.json")
    assert lines[-1] == (
        f"4 images, {len(rows)} detections; report.html, metrics.json and more are in {evaluated / 'again'}"
    )
    assert read(evaluated / "again/predictions.json") == read(evaluated / "out/predictions.json")
    assert all(set(row) == {"image_id", "category_id", "bbox", "score"} for row in rows)


def test_settings_and_pycocotools_are_shown_for_a_model(tiny_run, tmp_path, capsys):
    assert run("--weights", tiny_run / "best.pt", "--device", "cpu", "--out", tmp_path, "--pycocotools") == 0
    lines = capsys.readouterr().out.splitlines()
    assert (
        "confidence threshold 0.001, NMS within each class at IoU 0.5, at most 100 detections per image; COCO counts "
        "100 detections per image and class"
    ) in lines
    assert any(line.startswith("pycocotools gives AP ") for line in lines)


def test_predictions_of_effdet_predict_are_matched_by_file_name(tiny_run, tiny_data, evaluated, tmp_path, capsys):
    options = ("--weights", str(tiny_run / "best.pt"), "--device", "cpu", "--conf", "0.001", "--no-images")
    assert main(["predict", str(tiny_data / "val2017"), "--out", str(tmp_path / "out"), *options]) == 0
    capsys.readouterr()
    truth = tiny_data / "annotations/instances_val2017.json"
    files = ("--annotations", truth, "--predictions", tmp_path / "out/predictions.json")
    assert run(*files, "--out", tmp_path / "eval") == 0
    assert "detections matched to images by file name" in capsys.readouterr().out
    metrics = read(tmp_path / "eval/metrics.json")
    assert metrics == pytest.approx(read(evaluated / "out/metrics.json"), abs=0.02)


def test_without_out_nothing_is_written(evaluated, tiny_data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    truth = tiny_data / "annotations/instances_val2017.json"
    assert run("--annotations", truth, "--predictions", evaluated / "results.json") == 0
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out.endswith(" detections\n")


def test_arguments_that_do_not_fit_are_refused(evaluated, tiny_data, shapes_run, capsys):
    files = (
        "--annotations",
        tiny_data / "annotations/instances_val2017.json",
        "--predictions",
        evaluated / "results.json",
    )
    assert refused(capsys) == "nothing to evaluate: give --weights, or --annotations and --predictions"
    assert refused(capsys, *files[:2]) == (
        "a results file is evaluated with --annotations and --predictions; --predictions is missing"
    )
    assert "--annotations is missing" in refused(capsys, *files[2:])
    assert "--annotations is missing" in refused(capsys, "--weights", "x.pt", "--voc")
    assert refused(capsys, *files, "--weights", "x.pt", "eval.batch_size=2") == (
        "--weights, RECIPE: for models alone; a results file is evaluated without"
    )
    assert "holds the report.html of another evaluation" in refused(capsys, *files, "--out", evaluated / "out")
    message = refused(capsys, "--weights", shapes_run / "best.pt", "--pycocotools")
    assert message.endswith("is a classifier; COCO results and pycocotools are for detectors alone")


@pytest.fixture(scope="module")
def voc_data(tiny_data, tmp_path_factory):
    """The tiny data set in the format of VOC."""
    folder = tmp_path_factory.mktemp("converted") / "voc"
    assert main(["convert", str(tiny_data), str(folder), "--to", "voc"]) == 0
    return folder


def test_a_training_on_voc_logs_the_metrics_of_voc(tiny_recipe, voc_data, tmp_path):
    changes = [f"data.root={voc_data}", "train.max_steps=1", f"output_dir={tmp_path / 'run'}"]
    assert main(["train", str(tiny_recipe), *changes, "--device", "cpu"]) == 0
    assert tuple(read(tmp_path / "run/metrics.json"))[-2:] == ("AP50_VOC2007", "AP50_VOC2010")
    header, *lines = (tmp_path / "run/log.csv").read_text().splitlines()
    assert {"AP50", "AP50_VOC2007", "AP50_VOC2010"} <= set(header.split(","))
    assert all(line.count(",") == header.count(",") for line in lines)
    assert (tmp_path / "run/truth.json").exists()


def test_a_voc_data_set_is_written_as_coco_beside_the_predictions(tiny_run, voc_data, tmp_path, capsys):
    assert (
        run(
            *("--weights", tiny_run / "best.pt", "--device", "cpu", "--out", tmp_path / "eval"),
            *(f"data.root={voc_data}", "data.workers=0"),
        )
        == 0
    )
    capsys.readouterr()
    metrics = read(tmp_path / "eval/metrics.json")
    assert tuple(metrics)[-2:] == ("AP50_VOC2007", "AP50_VOC2010")
    files = ("--annotations", tmp_path / "eval/truth.json", "--predictions", tmp_path / "eval/predictions.json")
    assert run(*files, "--voc", "--out", tmp_path / "again") == 0
    assert "matched" not in capsys.readouterr().out
    assert read(tmp_path / "again/metrics.json") == pytest.approx(metrics, abs=0.01)
