"""Writes the page that puts several runs side by side, from the files in their folders.

The page itself is in `effdet/report/comparison_page.py`, the differences are in `run_pairs.py`. The page of one run
is written by `run_report.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet.errors import ConfigError, DataError
from effdet.evaluation.run_pairs import pair_runs
from effdet.evaluation.run_report import read_content
from effdet.report.comparison_page import write_comparison_page
from effdet.report.run_page import RunContent
from effdet.text import reason_of

_IGNORED = ("version", "output_dir", "log")  # keys of recipes that change no result


def write_comparison(folders: Sequence[Path], path: Path) -> dict[str, Any] | None:
    """Writes the page, in one step; gives the differences between the runs, or None if they cannot be paired.

    Args:
        folders: two or more folders of runs or of evaluations, of one task.
        path: the file to write.

    Raises:
        ConfigError: there are fewer than two folders, or their tasks differ.
        DataError: an analysis.json is missing or is not an analysis.
        OSError: the page cannot be written.
    """
    if len(folders) < 2:
        raise ConfigError(f"a comparison needs two runs or more, got {len(folders)}")
    names = _names(folders)
    runs = [read_content(folder)._replace(name=name) for folder, name in zip(folders, names, strict=True)]
    tasks = [run.analysis["task"] for run in runs]
    if len(set(tasks)) > 1:
        listed = ", ".join(f"{folder} is for {task}" for folder, task in zip(folders, tasks, strict=True))
        raise ConfigError(f"runs of one task can be compared; {listed}")
    warnings = list(_warnings(runs))
    paired = None
    try:
        paired = pair_runs(folders, runs)
    except DataError as error:
        warnings.append(f"the runs are not paired over images: {reason_of(error)}")
    write_comparison_page(path, runs, paired, _differing(runs), warnings)
    return paired


def _names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as it takes to tell them apart."""
    places = [folder.resolve() for folder in folders]
    for length in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-length:]) for place in places]
        if len(set(names)) == len(names):
            return names
    return [f"{place.name} ({number})" for number, place in enumerate(places, 1)]  # a folder is given twice


def _warnings(runs: Sequence[RunContent]) -> Iterator[str]:
    """What makes the metrics of runs incomparable."""
    for key, noun in (("images", "images"), ("objects", "objects")):
        counts = [run.analysis.get(key) for run in runs]
        if len(set(counts)) > 1:
            listed = ", ".join(f"{run.name} {count}" for run, count in zip(runs, counts, strict=True))
            yield f"the runs were evaluated on different numbers of {noun} ({listed}), so their metrics do not compare"
    for key in ("score_threshold", "nms", "iou_threshold", "max_detections"):
        values = [(run.analysis.get("settings") or {}).get(key) for run in runs]
        if len(set(values)) > 1:
            listed = ", ".join(f"{run.name} {value}" for run, value in zip(runs, values, strict=True))
            yield f"{key.replace('_', ' ')} differs: {listed}"


def _differing(runs: Sequence[RunContent]) -> list[tuple[str, list[str]]]:
    """Keys of the recipes whose values differ, with the value of each run; nothing if a recipe is unknown."""
    if any(run.config is None for run in runs):
        return []
    flat = [dict(_flattened(run.config or {}, "")) for run in runs]
    keys = dict.fromkeys(key for values in flat for key in values if key.partition(".")[0] not in _IGNORED)
    rows = [(key, [values.get(key, "\u2013") for values in flat]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flattened(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as text."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "null" if value is None else str(value)
