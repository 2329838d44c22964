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
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # for `effdet` itself
    os.environ |= {"TTY_COMPATIBLE": "0", "NO_COLOR": "1", "COLUMNS": "100"}  # no progress bars in the notebook
    client = NotebookClient(notebook, timeout=CELL_SECONDS, resources={"metadata": {"path": str(folder)}})
    client.execute()
    tidy(notebook)
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> None:
    """Joins the lines that a cell printed one by one, and removes times and folders of this machine."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        joined: list[nbformat.NotebookNode] = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = output.text.replace(str(Path.home()), "~").replace("\r\n", "\n")
                if joined and joined[-1].output_type == "stream":
                    joined[-1].text += output.text
                    continue
            joined.append(output)
        if cell.cell_type == "code":
            cell.outputs = joined


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        rendered = executed((DOCS / "tutorial.py").read_text(encoding="utf-8"), Path(folder))
    nbformat.write(rendered, DOCS / "tutorial.ipynb")
