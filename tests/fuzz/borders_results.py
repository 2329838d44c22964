"""Borders of results: a results file with its annotations, and the files in a run's folder that reports read."""

from __future__ import annotations

import contextlib
import functools
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from .border import Border, damages
from .mutate import mutate_text, mutate_tree, write_text

TRUTH = {
    "images": [
        {"id": number, "file_name": f"{number}.jpg", "height": 100, "width": 120, "extra": None} for number in (4, 7, 9)
    ],
    "categories": [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 2, "bbox": [10, 10, 40.5, 30], "area": 1215.0, "iscrowd": 0},
        {"id": 2, "image_id": 4, "category_id": 5, "bbox": [50, 20, 30, 60], "area": 1800, "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 5, "bbox": [0, 0, 120, 100], "area": 12000, "iscrowd": 1},
        {"id": 4, "image_id": 9, "category_id": 2, "bbox": [5, 5, 10, 10], "area": 100, "ignore": 1, "difficult": 0},
    ],
}
RESULTS = [
    {"image_id": 4, "category_id": 2, "bbox": [11, 9, 40, 31], "score": 0.9},
    {"image_id": 4, "category_id": 5, "bbox": [49.5, 21, 30, 59], "score": 0.8},
    {"image_id": 7, "category_id": 5, "bbox": [1, 1, 100, 90], "score": 0.03},
    {"image_id": 9, "category_id": 2, "bbox": [60, 60, 20, 20], "score": 0.02, "file_name": "9.jpg"},
]
TOKENS = ("NaN", "Infinity", "-Infinity", '"bbox": [1, 2, 3]', "null", "[[", '{"id": 1}', '"4"', "4.0", "1e400", ",")
SCRIPT = "<script>alert(1)</script>"  # that no page may hold


def _make_results(rng: random.Random, folder: Path) -> Path:
    files: dict[str, Any] = {"truth.json": TRUTH, "results.json": RESULTS}
    _write_damaged(rng, folder, files, damages(rng, folder))
    return folder / "results.json"


def _write_damaged(rng: random.Random, folder: Path, files: dict[str, Any], count: int) -> None:
    """Writes JSON files of which one at a time is damaged as a tree, and some as texts at the end."""
    as_text = rng.random() < 0.3
    damaged = [rng.choice(list(files)) for _ in range(count)]
    for name in [] if as_text else damaged:
        files = {**files, name: mutate_tree(rng, files[name])}
    texts = {name: json.dumps(tree, indent=rng.choice((None, 1))) for name, tree in files.items()}
    for name in damaged if as_text else []:
        texts[name] = mutate_text(rng, texts[name], TOKENS)
    for name, text in texts.items():
        write_text(folder / name, text)


def _strict_json(path: Path) -> Any:
    """The content of a JSON file without NaN and Inf, which are no JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path.name} holds {name}")

    return json.loads(path.read_text(), parse_constant=refuse)


def _read_results(path: Path) -> None:
    from rich.console import Console

    from effdet.evaluation.evaluate_results import evaluate_results
    from effdet.evaluation.results_file import read_results

    truth, out = path.parent / "truth.json", path.parent / "out"
    evaluator, lines = read_results(truth, path, voc=True)
    assert all(isinstance(line, str) and len(line) < 3000 for line in lines)
    predictions = evaluator.predicted()
    assert ((predictions.labels >= 0) & (predictions.labels < len(evaluator.label_map))).all()
    assert ((predictions.images >= 0) & (predictions.images < len(evaluator))).all()
    assert abs(predictions.boxes).max(initial=0) < float("inf"), "a box is NaN or Inf"
    metrics = evaluate_results(truth, path, voc=True, output_dir=out, console=Console(quiet=True))
    assert all(-1 <= value <= 1 for value in metrics.values()), metrics
    for file in out.glob("*.json"):
        _strict_json(file)


def _read_doctor(path: Path) -> None:
    from effdet.diagnosis.doctor.diagnose import diagnose_results

    diagnosis = diagnose_results(path.parent / "truth.json", path)
    texts = [diagnosis.sentence, *diagnosis.facts, *(check.change for check in diagnosis.checks)]
    assert all(isinstance(text, str) and len(text) < 3000 for text in texts)
    assert all(-1 <= value <= 1 for check in diagnosis.checks for value in (check.value or 0, check.before))


@functools.cache
def _run_files() -> dict[str, Any]:
    """The files of a small run, JSON as trees."""
    from rich.console import Console

    from effdet.evaluation.evaluate_results import evaluate_results

    folder = Path(tempfile.mkdtemp(prefix="fuzz-results-"))
    for name, content in (("truth", TRUTH), ("results", RESULTS)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    evaluate_results(
        folder / "truth.json", folder / "results.json", output_dir=folder / "run", console=Console(quiet=True)
    )
    trees = {path.name: json.loads(path.read_text()) for path in sorted((folder / "run").glob("*.json"))}
    shutil.rmtree(folder)
    common = {"epoch": 1, "seconds": 2.5}
    training = {"learning_rate": 0.1, "loss": 1.5, "class_loss": 1.0, "box_loss": 0.5, "gradient_norm": 3.0}
    speed = {"images_per_second": 10.5, "data_wait": 0.1}
    log = [{"step": step, **common, **training, **speed} for step in (1, 2, 3)] + [{"step": 3, **common, "AP": 0.5}]
    start = {"time": "2026-01-01", "command": ["effdet"], "versions": {"torch": "2"}, "data": {"val": "a"}, "seed": 0}
    return {
        **trees,
        "log.jsonl": log,
        "manifest.json": {"starts": [{**start, "git": [{"commit": "abc", "changed": True}], "hardware": {"gpu": "x"}}]},
        "config.yaml": {"data": {"root": "data"}, "model": {"name": "efficientdet_lite0"}, "seed": 3},
    }


def _make_run(rng: random.Random, folder: Path) -> Path:
    run, files = folder / "run", _run_files()
    run.mkdir()
    count = damages(rng, folder)
    as_text = rng.random() < 0.3
    damaged = [rng.choice((*files, "analysis.json", "analysis.json")) for _ in range(count)]
    for name in [] if as_text else damaged:
        files = {**files, name: mutate_tree(rng, files[name])}
    if count and rng.random() < 0.3:
        files = json.loads(json.dumps(files).replace('"cat"', json.dumps(SCRIPT)))
    for name, tree in files.items():
        rows = tree if name == "log.jsonl" and isinstance(tree, list) else [tree]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        for _ in range(damaged.count(name) if as_text else 0):
            text = mutate_text(rng, text, TOKENS)
        write_text(run / name, text)
    return run


def _read_run(path: Path) -> None:
    from effdet.diagnosis.doctor.training_checks import _records
    from effdet.errors import DataError
    from effdet.evaluation.run_comparison import write_comparison
    from effdet.evaluation.run_report import write_run_report
    from effdet.training.records.logs import RunLog

    sound = path.parent / "sound"
    if not sound.exists():
        sound.mkdir()
        for name in ("analysis.json", "predictions.json", "config.yaml"):
            (sound / name).write_text(json.dumps(_run_files()[name]))
    _records(path)
    page = write_run_report(path)
    write_comparison([path, sound], path.parent / "comparison.html")
    for written in (page, path.parent / "comparison.html"):
        assert SCRIPT not in written.read_text(encoding="utf-8", errors="surrogateescape"), "a name is no text of HTML"
    with contextlib.suppress(DataError):
        RunLog(path, ["loss"]).rewind(2, evaluated=True)


BORDERS = (
    Border("results", _make_results, _read_results),
    Border("doctor predictions", _make_results, _read_doctor),
    Border("run folder", _make_run, _read_run, seconds=20),
)
