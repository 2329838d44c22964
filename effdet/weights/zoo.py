"""The public weights by name, by model and by file.

Their rows are in `zoo_detectors.py` and `zoo_classifiers.py`. Downloading and verifying is in `download.py`, reading in
`pretrained.py`.
"""

from __future__ import annotations

import difflib

from effdet.errors import WeightsError
from effdet.types import Task
from effdet.weights.zoo_classifiers import CLASSIFIERS
from effdet.weights.zoo_detectors import DETECTORS
from effdet.weights.zoo_entry import ZooEntry

RESEARCH_NOTE = (
    "ImageNet's own terms allow research and teaching only; whether they bind trained weights too is for you to judge"
)

ZOO: dict[str, ZooEntry] = {entry.name: entry for entry in (*DETECTORS, *CLASSIFIERS)}


def find_entry(name: str) -> ZooEntry:
    """An entry by name, with or without its source, or the default entry of a model.

    Raises:
        WeightsError: there is no such entry; the message suggests near names.
    """
    entry = ZOO.get(name) or default_entry(name)
    if entry is None:  # without its source
        entry = next((entry for entry in ZOO.values() if entry.name.endswith(f"/{name}")), None)
    if entry is None:
        known = [*ZOO, *dict.fromkeys(entry.architecture for entry in ZOO.values())]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        suggestion = f"did you mean {' or '.join(near)}? " if near else ""
        raise WeightsError(f"no public weights are called '{name}'; {suggestion}`effdet weights list` shows all")
    return entry


def default_entry(architecture: str, task: Task | None = None) -> ZooEntry | None:
    """The preferred entry of a model, or None if there is none.

    Args:
        architecture: name of the model.
        task: the task that the weights must be for; None for any.
    """
    return next((entry for entry in entries_of(architecture) if task in (None, entry.task)), None)


def entry_of_file(file_name: str) -> ZooEntry | None:
    """The entry whose file has that name, or None."""
    return next((entry for entry in ZOO.values() if entry.url and entry.file_name == file_name), None)


def entries_of(architecture: str) -> list[ZooEntry]:
    """All entries of a model, the preferred ones first."""
    return [entry for entry in ZOO.values() if entry.architecture == architecture]
