import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

from effdet.cli import main

ANALYSES = Path(__file__).resolve().parents[1] / "report" / "analyses.py"
analyses = SimpleNamespace(**runpy.run_path(str(ANALYSES)))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two folders with analyses of classifiers, the second of which is right about every image."""
    monkeypatch.chdir(tmp_path)
    for name, right in (("first", 30), ("second", 100)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "analysis.json").write_text(json.dumps(analyses.classification()))
        rows = [
            {"file_name": f"{n}.jpg", "label": "rose", "classes": [{"name": "rose" if n < right else "tulip"}]}
            for n in range(100)
        ]
        (folder / "predictions.json").write_text(json.dumps(rows))
    return ["first", "second"]


def test_the_report_of_one_run_is_written_to_its_folder(runs, capsys):
    assert main(["report", "first"]) == 0
    assert capsys.readouterr().out == "report: first/report.html\n"
    assert "Accuracy over coverage" in Path("first/report.html").read_text()


def test_several_runs_are_compared_and_the_verdict_is_printed(runs, capsys):
    assert main(["report", *runs]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "second against first: top1 +70.0 points, 95% interval +61.0 to +79.0: different"
    assert lines[-1] == "comparison: comparison.html"
    assert "2 runs side by side" in Path("comparison.html").read_text()


def test_out_names_the_page_of_several_runs(runs):
    assert main(["report", *runs, "--out", "pages/both.html"]) == 0
    assert Path("pages/both.html").is_file()


def test_the_page_of_several_runs_is_written_even_if_they_cannot_be_paired(runs, capsys):
    Path("second/predictions.json").unlink()
    assert main(["report", *runs]) == 0
    assert "not paired over images; the page says why" in capsys.readouterr().out
    assert "predictions.json: cannot be read" in Path("comparison.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], "holds no analysis.json"),
        (["first", "--out", "x.html"], "--out x.html: the report of one run is written to its folder"),
        (["first", "second", "--images", "x"], "--images x: the page of several runs shows no images"),
        (["first", "second", "--out", "first"], "cannot be written"),
        (["first", "--images", "nowhere"], "--images nowhere: no such folder; give the folder of the images"),
    ],
)
def test_what_cannot_be_reported_is_an_error(runs, capsys, arguments, message):
    assert main(["report", *arguments]) == 1
    assert message in capsys.readouterr().err
