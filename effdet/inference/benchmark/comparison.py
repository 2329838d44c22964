"""Measures several models in turns and collects what a report needs, as plain containers for JSON.

One model is measured in `measuring.py`; the machine is described in `machine.py`.
"""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from effdet.inference.benchmark.inputs import BenchmarkImage, benchmark_image, find_subjects
from effdet.inference.benchmark.machine import busy_warning, machine, package_versions
from effdet.inference.benchmark.measuring import STAGES, Stage
from effdet.inference.benchmark.process import ModelProcess
from effdet.inference.benchmark.settings import Settings

FORMAT = 1  # raised when keys of the report change

Samples = dict[Stage, list[list[float]]]  # seconds of each run, by turn


def compare(
    models: Sequence[str],
    settings: Settings,
    *,
    image: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    versus: str | None = None,
    show: Callable[[str], None],
) -> dict[str, Any]:
    """The report of a benchmark of models, each in a process of its own, measured in turns.

    In each turn every model measures its latency and its throughput while the others wait. Every turn starts with
    another model.

    Args:
        models: names of models for random weights, checkpoints, exported files or names of public weights.
        settings: how they are measured.
        image: an image file; None for a drawn scene.
        image_size: (H, W) of the input of models with random weights; None for that of each model.
        versus: a model that is measured too, with which the others are compared.
        show: is called with what is being done, in a line.

    Raises:
        EffdetError: a model or the image cannot be used.
    """
    warning = busy_warning()
    names = [*models, *([] if versus is None else [versus])]
    with tempfile.TemporaryDirectory(prefix="effdet-benchmark-") as folder, ExitStack() as stack:
        picture = benchmark_image(image, Path(folder))
        show("preparing models with random weights")
        subjects = find_subjects(names, image_size, Path(folder))
        processes = []
        for subject in subjects:
            show(f"loading {subject.name}")
            processes.append(stack.enter_context(ModelProcess(subject, picture.path, settings)))
        results = _measure(processes, settings, show)
        packages = [process.facts.package for process in processes]
        gpu = next((process.facts.device for process in processes if process.facts.device.startswith("cuda")), None)
    return {
        "format": FORMAT,
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(gpu),
        "warnings": [warning] if warning else [],
        "versions": package_versions(packages, gpu),
        "settings": _settings(settings, picture),
        "models": results,
        "versus": None if versus is None else _ratios(results),
    }


def _measure(
    processes: Sequence[ModelProcess], settings: Settings, show: Callable[[str], None]
) -> list[dict[str, Any]]:
    """The results of all models, after all turns."""
    samples: list[Samples] = [{} for _ in processes]
    rates: list[list[float]] = [[] for _ in processes]
    seconds = settings.seconds / settings.turns
    for turn in range(settings.turns):
        for place in range(len(processes)):
            number = (turn + place) % len(processes)
            process = processes[number]
            show(f"turn {turn + 1} of {settings.turns}: {process.subject.name}, {process.facts.runtime}")
            for stage, durations in process.latency(settings.runs_per_turn, seconds).items():
                samples[number].setdefault(stage, []).append(durations)
            rates[number].append(process.throughput(settings.runs_per_turn, seconds))
    return [_result(*given) for given in zip(processes, samples, rates, strict=True)]


def _result(process: ModelProcess, samples: Samples, rates: list[float]) -> dict[str, Any]:
    memory, device_memory = process.memory()
    return {
        "name": process.subject.name,
        "random_weights": process.subject.random,
        **asdict(process.facts),
        "stages": {stage: _summary(samples[stage]) for stage in STAGES if stage in samples},
        "images_per_second": {"median": float(np.median(rates)), "turns": rates},
        "memory_bytes": memory,
        "device_memory_bytes": device_memory,
    }


def _summary(turns: list[list[float]]) -> dict[str, Any]:
    """Percentiles of a stage over all runs of all turns, in milliseconds."""
    values = 1e3 * np.concatenate(turns)
    percentiles = {f"p{percent}_ms": float(np.percentile(values, percent)) for percent in (5, 25, 50, 75, 95)}
    return {
        "runs": len(values),
        **percentiles,
        "min_ms": float(values.min()),
        "max_ms": float(values.max()),
        "turn_p50_ms": [float(1e3 * np.median(turn)) for turn in turns],
    }


def _settings(settings: Settings, image: BenchmarkImage) -> dict[str, Any]:
    return {**asdict(settings), "image": image.description, "image_pixels": list(image.size)}


def _ratios(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Times and images per second of every model, divided by those of the last one, with the range over the turns."""
    *models, versus = results
    return {
        "name": versus["name"],
        "ratios": [
            {
                "name": model["name"],
                **{
                    stage: _ratio(
                        [model["stages"][stage]["p50_ms"], *model["stages"][stage]["turn_p50_ms"]],
                        [versus["stages"][stage]["p50_ms"], *versus["stages"][stage]["turn_p50_ms"]],
                    )
                    for stage in STAGES
                    if stage in model["stages"] and stage in versus["stages"]
                },
                "images_per_second": _ratio(
                    [rates["median"], *rates["turns"]],
                    [versus["images_per_second"]["median"], *versus["images_per_second"]["turns"]],
                ),
            }
            for model in models
            for rates in [model["images_per_second"]]
        ],
    }


def _ratio(values: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """The ratio of the first values, which are over all turns, and the range of those of the turns."""
    ratio, *turns = [value / other for value, other in zip(values, others, strict=True)]
    return {"ratio": ratio, "lowest": min(turns), "highest": max(turns)}
