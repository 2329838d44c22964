"""Runs docs/tutorial.py in a temporary folder and writes it with its outputs to docs/tutorial.ipynb.

python tests/render_tutorial.py
"""

import os
import sys
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

DOCS = Path(__file__).resolve().parent.parent / "docs"
CELL_SECONDS = 1200


def executed(script: str, folder: Path) -> nbformat.NotebookNode:
    """The notebook of a script in the percent format, run in a folder."""
    notebook = jupytext.reads(script, fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # the same in every run
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    # The commands of the notebook are those of this environment; output goes to files, so without a progress bar.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    client = NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of this run
    return notebook


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        rendered = executed((DOCS / "tutorial.py").read_text(encoding="utf-8"), Path(folder))
    nbformat.write(rendered, DOCS / "tutorial.ipynb")
