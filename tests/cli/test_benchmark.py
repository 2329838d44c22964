import json
import runpy
from pathlib import Path

import pytest

from effdet.cli import benchmark, main
from effdet.inference.benchmark.inputs import benchmark_image, write_random_checkpoint

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "lite0.pt"
    write_random_checkpoint("efficientdet_lite0", path, (128, 128))
    return path


def refused(capsys, *arguments):
    assert main(["benchmark", *map(str, arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error.strip()


def stage(milliseconds):
    return {"p50_ms": milliseconds, "p95_ms": 2 * milliseconds}


def model(name, together=None, **fields):
    """What a report says about a model."""
    stages = {"decoding": 1.0, "resizing": 2.0, "network_and_postprocessing": 30.0, "end_to_end": 34.0}
    stages |= {} if together else {"network": 26.0, "postprocessing": 4.0}
    return {
        "name": name,
        "random_weights": False,
        "task": "detection",
        "runtime": "PyTorch",
        "precision": "float32",
        "image_size": [64, 96],
        "together": together,
        "detections": 3,
        "threads": 2,
        "fixed_batch": None,
        "load_seconds": 0.5,
        "first_seconds": 0.25,
        "stages": {name: stage(value) for name, value in stages.items()},
        "images_per_second": {"median": 12.3, "turns": [12.3]},
        "memory_bytes": 300 * 2**20,
        "device_memory_bytes": None,
        **fields,
    }


def report(*models, versus=None, **machine):
    """A report as `compare` gives it."""
    return {
        "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 2**34, "gpu": None, **machine},
        "versions": {"python": "3.11", "torch": "2.9"},
        "settings": {
            "image": "a drawn JPEG",
            "seconds": 10.0,
            "runs": None,
            "batch_size": 4,
            "turns": 5,
            "warmup": 3,
            "score_threshold": None,
        },
        "warnings": ["the machine is busy"],
        "models": list(models),
        "versus": versus,
    }


@pytest.fixture
def shown(capsys, monkeypatch):
    """The lines that a report is printed as, with one space between words."""

    def lines(given, *arguments):
        monkeypatch.setattr("effdet.inference.benchmark.comparison.compare", lambda *positional, **named: given)
        monkeypatch.setenv("COLUMNS", "160")
        assert main(["benchmark", "a.pt", *arguments]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return lines


def test_a_checkpoint_is_measured_and_all_results_are_written(weights, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    path = tmp_path / "results.json"
    arguments = ["--device", "cpu", "--runs", "2", "--turns", "1", "--warmup", "1", "--batch-size", "1"]
    assert main(["benchmark", str(weights), *arguments, "--threads", "1", "--json", str(path)]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    for start in (
        "machine",
        "versions python",
        "image a drawn JPEG of 640 x 480 pixels",
        "settings CPU threads: 1; latency of one image",
    ):
        assert any(line.startswith(start) for line in lines), start
    for label in benchmark.ROWS.values():
        assert any(line.startswith(label) for line in lines), label
    assert lines[-1] == f"results {path}"
    content = json.loads(path.read_text())
    (row,) = content["models"]
    assert row["name"] == str(weights)
    assert row["stages"]["network"]["runs"] == 2
    assert content["settings"]["threads"] == 1


def test_the_table_has_a_row_per_stage(shown):
    lines = shown(report(model("runs/d0/best.pt"), model("d0.onnx", runtime="ONNX Runtime")))
    assert "best.pt d0.onnx" in lines
    assert "PyTorch ONNX Runtime" in lines
    assert "p50 / p95 in ms float32, 64 x 96 float32, 64 x 96" in lines
    assert "letterbox 2.00 / 4.00 2.00 / 4.00" in lines
    assert "network 26.00 / 52.00 26.00 / 52.00" in lines
    assert "end to end 34.00 / 68.00 34.00 / 68.00" in lines
    assert "images/s, batches of 4 12.3 12.3" in lines
    assert "growth of memory 300 MiB 300 MiB" in lines
    assert "load 0.50 s 0.50 s" in lines
    assert "warning: the machine is busy" in lines
    assert not any(line.startswith("memory of the GPU") for line in lines)


def test_nms_inside_a_file_is_marked_in_the_table(shown):
    lines = shown(report(model("a.onnx", together="NMS is inside the file")))
    assert "network -" in lines
    assert "post-processing -" in lines
    assert "network + post-processing 30.00 / 60.00 *" in lines
    assert "* network and post-processing cannot be measured apart: NMS is inside the file" in lines


def test_random_weights_and_fixed_batches_are_said(shown):
    lines = shown(report(model("efficientdet_d0", random_weights=True, detections=0), model("a.tflite", fixed_batch=1)))
    assert "p50 / p95 in ms random weights float32, 64 x 96" in lines
    assert any(line.startswith("random weights give scores that are not those of objects: 0 detec") for line in lines)
    assert "throughput in batches of 1, to which the file is fixed: a.tflite" in lines


def test_many_models_get_several_tables(shown):
    lines = shown(report(*(model(f"{number}.pt") for number in range(5))))
    assert sum(line.startswith("end to end") for line in lines) == 2


def test_ratios_are_printed_with_their_range(shown):
    ratio = {"ratio": 0.5, "lowest": 0.45, "highest": 0.62}
    versus = {"name": "b.pt", "ratios": [{"name": "a.pt", "end_to_end": ratio, "images_per_second": ratio}]}
    lines = shown(report(model("a.pt"), model("b.pt"), versus=versus))
    assert "ratios to b.pt, with the lowest and the highest of all turns:" in lines
    assert "end to end 0.50 (0.45 to 0.62)" in lines
    assert "images/s 0.50 (0.45 to 0.62)" in lines


def test_the_memory_of_a_gpu_is_shown(shown):
    lines = shown(report(model("a.pt", device_memory_bytes=2**30), gpu="a GPU"))
    assert "GPU a GPU" in lines
    assert "memory of the GPU 1,024 MiB" in lines


def test_arguments_that_cannot_be_used_are_refused(capsys, weights, tmp_path):
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(benchmark_image(None, tmp_path).path.read_bytes()[:2000])
    for arguments, message in (
        (["--threads", 0], "threads is 0; expected at least 1"),
        (["--runs", 0], "runs is 0; expected at least 1"),
        (["--image", tmp_path / "none.jpg"], "none.jpg: no such image; check the path"),
        (["--image", cut], "cut.jpg: the image is cut off before its end"),
        (["--image-size", 64, 64], "lite0.pt: a file has an input size of its own; leave --image-size out"),
        (["--json", tmp_path / "none" / "results.json"], "cannot be written; give a file in a folder that exists"),
    ):
        assert message in refused(capsys, weights, *arguments)


def test_a_model_that_does_not_exist_is_refused(capsys):
    assert "no public weights are called 'efficientdet_d00'; did you mean" in refused(capsys, "efficientdet_d00")


def test_runs_and_seconds_are_not_given_together(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "a.pt", "--runs", "1", "--seconds", "1"])
    assert "not allowed with" in capsys.readouterr().err


def test_the_help_names_the_options(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for option in ("--vs", "--image", "--image-size", "--batch-size", "--threads", "--precision", "--runs", "--json"):
        assert option in text
    assert "A name of `effdet models` means random weights" in text


# The page of the manual


@pytest.fixture
def page_script():
    return runpy.run_path(str(REPOSITORY / "tests" / "benchmark_page.py"))


def test_the_page_of_the_manual_begins_with_the_text_of_its_script(page_script):
    text = (REPOSITORY / "docs" / "benchmark.md").read_text(encoding="utf-8")
    assert text.startswith(page_script["page"]([])), "run python tests/benchmark_page.py FOLDER"


def test_the_page_has_a_table_per_machine_and_a_row_per_model(page_script, tmp_path):
    models = [model("efficientdet_d0", random_weights=True), model("/tmp/efficientdet_d0.onnx", "NMS is inside")]
    for row in models:
        row["stages"]["end_to_end"]["runs"] = 20
    (tmp_path / "a.json").write_text(json.dumps(report(*models)))
    (tmp_path / "b.json").write_text(json.dumps(report(models[0], gpu="a GPU")))
    lines = page_script["page"](page_script["read_reports"](tmp_path)).splitlines()
    assert "## a CPU, 2 cores, 16 GiB of memory, CPU threads: 2" in lines
    assert "## a GPU (a CPU, 2 cores, 16 GiB of memory, CPU threads: 2)" in lines
    start = "| efficientdet_d0 | 64 x 96 | PyTorch | float32 | 1.0 | 2.0 |"
    assert f"{start} 26.0 | 4.0 | 30.0 | 34.0 | 68.0 | 12.3 | 300 |" in lines
    assert f"{start} - | - | 30.0 | 34.0 | 68.0 | 12.3 | 300 |" in lines
    for sentence in ("Image: a drawn JPEG.", "Runs per model: 20.", "Weights: random.", "Batches of 4 for throughput."):
        assert f"- {sentence}" in lines
    assert "- Versions: python 3.11, torch 2.9." in lines


def test_columns_and_cells_of_the_page_are_as_many(page_script):
    assert len(page_script["row_of"](model("a.pt"))) == len(page_script["COLUMNS"])
