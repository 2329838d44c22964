"""A few damaged inputs for each border, and every input that was a fault once. Thousands are in `make fuzz`."""

import shutil
from pathlib import Path

import pytest

from .border import all_borders
from .judge import FAULTS, read_input
from .workers import Worker

BORDERS = all_borders()
CASES = Path(__file__).parent / "cases"
KNOWN = sorted(path for folder in CASES.glob("*") for path in folder.iterdir())
FEW, ONE = 12, 1  # inputs of a border, and of a heavy one


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(tmp_path_factory.mktemp("fuzz"))
    yield worker
    worker.close()


@pytest.mark.parametrize("border", BORDERS.values(), ids=lambda border: border.name)
def test_damaged_inputs_are_read_or_refused_with_a_message(border, worker):
    for seed in range(ONE if border.heavy else FEW):
        result = worker.run(border, seed)
        assert result.outcome not in FAULTS, f"run.py --case '{border.name}' {seed}: {result.outcome}\n{result.detail}"


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_known_cases_are_refused_or_accepted_as_their_names_say(path, tmp_path):
    """The folder of a case has the name of its border; its own name starts with accepted- or refused-."""
    copy = tmp_path / path.name
    if path.is_dir():
        shutil.copytree(path, copy, symlinks=True)
    else:
        shutil.copyfile(path, copy)
    outcome, detail = read_input(BORDERS[path.parent.name.replace("-", " ")], copy)
    assert outcome == path.name.partition("-")[0], detail
