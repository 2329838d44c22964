"""The tutorial: its notebook holds the script, with outputs, and the script runs on a smaller data set."""

import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHORTER = {
    "--train 240 --val 40": "--train 8 --val 4",
    'output_dir="tutorial/run"': 'output_dir="tutorial/run", overrides=["train.epochs=1"]',
}


@pytest.fixture(scope="module")
def script():
    return (DOCS / "tutorial.py").read_text(encoding="utf-8")


def test_the_notebook_is_the_script_with_outputs(script):
    jupytext, nbformat = pytest.importorskip("jupytext"), pytest.importorskip("nbformat")
    cells = jupytext.reads(script, fmt="py:percent").cells
    notebook = nbformat.read(DOCS / "tutorial.ipynb", as_version=4)
    message = "run python tests/render_tutorial.py"
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == [
        (cell.cell_type, cell.source) for cell in cells
    ], message
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in code), message
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) == 3, message
    assert "/root" not in str(notebook)
    assert "error" not in {output.output_type for cell in code for output in cell.outputs}


@pytest.mark.slow
def test_the_tutorial_runs(script, tmp_path):
    for name in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(name)
    executed = runpy.run_path(str(DOCS.parent / "tests" / "render_tutorial.py"))["executed"]
    for text, shorter in SHORTER.items():
        assert text in script
        script = script.replace(text, shorter)
    notebook = executed(script, tmp_path)
    assert (tmp_path / "tutorial" / "run" / "best.pt").is_file()
    assert (tmp_path / "tutorial" / "predictions" / "predictions.json").is_file()
    texts = [output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("images" in text for text in texts)
