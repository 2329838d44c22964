"""Pairs runs over the images that they were evaluated on, from their predictions, and computes their differences.

The statistics of detectors is in `paired.py`; the page that shows the differences is written by `run_comparison.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from effdet.config import load_config
from effdet.data.annotations import Annotations
from effdet.data.formats import read_table
from effdet.data.validation_list import with_saved_list
from effdet.errors import DataError, EffdetError
from effdet.evaluation.coco import CocoEvaluator
from effdet.evaluation.paired import ComparedRun, compare_runs, difference_row
from effdet.evaluation.seed_noise import late_change
from effdet.evaluation.truth_file import LARGEST
from effdet.files import read_text
from effdet.plain_data import parse_json
from effdet.report.run_page import RunContent
from effdet.structures import Detections
from effdet.text import count_of, reason_of

_QUANTILE = 1.96  # of the normal distribution, for 95%
_OF_A_RUN = ("version", "seed", "output_dir", "log")  # keys in which runs of one recipe may differ


def pair_runs(folders: Sequence[Path], runs: Sequence[RunContent]) -> dict[str, Any]:
    """The differences between all pairs of runs, as `compare_runs` in `paired.py` gives them.

    Args:
        folders: of the runs.
        runs: what their reports show, of one task.

    Raises:
        DataError: the predictions or the data set cannot be read, or the runs are of other images.
    """
    if runs[0].analysis["task"] == "detection":
        return _pair_detectors(folders, runs)
    return _pair_classifiers(folders, runs)


def _pair_detectors(folders: Sequence[Path], runs: Sequence[RunContent]) -> dict[str, Any]:
    """The differences of detectors over the same objects."""
    evaluators = [_evaluator(folder) for folder in folders]
    first = evaluators[0]
    for folder, evaluator in zip(folders, evaluators, strict=True):
        if evaluator.annotations.fingerprint() != first.annotations.fingerprint():
            raise DataError(
                f"{folder} was evaluated on other images or objects than {folders[0]}; evaluate all runs on the same"
            )
    recipes = _recipes([run.config for run in runs])
    compared = [
        ComparedRun(run.name, evaluator.matches(), recipe, late_change(run.evaluations))
        for run, evaluator, recipe in zip(runs, evaluators, recipes, strict=True)
    ]
    return compare_runs(compared, first.truth(), len(first))


def _recipes(configs: Sequence[Mapping[str, Any] | None]) -> list[str | None]:
    """The recipe of each run as text without its seed; None where it is unknown, or where a seed occurs twice.

    Two evaluations of one training have one seed, and say nothing about the noise between seeds.
    """
    texts: list[str | None] = []
    seen: dict[tuple[str, str], int] = {}
    for config in configs:
        if config is None:
            texts.append(None)
            continue
        plain = {key: value for key, value in config.items() if key not in _OF_A_RUN}
        texts.append(json.dumps(plain, sort_keys=True, default=str))
        key = (str(texts[-1]), str(config.get("seed")))
        seen[key] = seen.get(key, 0) + 1
    repeated = {text for (text, _), count in seen.items() if count > 1}
    return [None if text in repeated else text for text in texts]


def _evaluator(folder: Path) -> CocoEvaluator:
    """An evaluator with the detections in a folder, on the data set of its recipe.

    Raises:
        DataError: predictions.json is damaged or of other images, or the data set cannot be read.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise DataError(f"{folder} holds no config.yaml that names the data set; evaluate again with `effdet eval`")
    try:
        table = read_table(with_saved_list(load_config(path), folder).data, "val")
    except EffdetError as error:
        raise DataError(f"the data set of {folder} cannot be read: {reason_of(error)}") from None
    if not isinstance(table, Annotations):
        raise DataError(f"{path}: the data set has no boxes")
    labels = {category: label for label, category in enumerate(table.label_map.category_ids)}
    rows = {image: row for row, image in enumerate(table.image_ids.tolist())}
    found: dict[int, list[tuple[list[float], float, int]]] = {}
    path = folder / "predictions.json"
    try:
        for each in parse_json(read_text(path)):
            x, y, width, height, score = _numbers(each)
            entry = ([x, y, x + width, y + height], score, labels[each["category_id"]])
            found.setdefault(rows[each["image_id"]], []).append(entry)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)}); evaluate the run again") from None
    except KeyError as error:
        raise DataError(f"{path}: {error} is not of the data set any more; evaluate the run again") from None
    evaluator = CocoEvaluator(table)
    for row, entries in found.items():
        boxes, scores, classes = zip(*entries, strict=True)
        columns = torch.tensor(boxes, dtype=torch.float64), torch.tensor(scores, dtype=torch.float64)
        evaluator.add(row, Detections(*columns, torch.tensor(classes)))
    return evaluator


def _numbers(row: Any) -> list[float]:
    """Box and score of a row of predictions.json.

    Raises:
        ValueError, TypeError, KeyError: they are not five numbers up to `LARGEST`.
    """
    numbers = [*row["bbox"], row["score"]]
    if len(numbers) != 5 or not all(type(number) in (int, float) and abs(number) <= LARGEST for number in numbers):
        raise ValueError("a row has no bbox of four numbers and a score, all finite and not huge")
    return [float(number) for number in numbers]


def _pair_classifiers(folders: Sequence[Path], runs: Sequence[RunContent]) -> dict[str, Any]:
    """The differences of the accuracy of classifiers over the same images.

    The interval is that of the mean of paired differences, each -1, 0 or 1.

    Raises:
        DataError: predictions.json is missing or damaged, or is of other images.
    """
    right = [_correct_images(folder) for folder in folders]
    if len({frozenset(images) for images in right}) > 1 or not right[0]:
        raise DataError("predictions.json lists other images in each of them; evaluate all runs on the same images")
    pairs = []
    for first, second in combinations(range(len(runs)), 2):
        changes = [right[second][name] - right[first][name] for name in right[first]]
        mean = sum(changes) / len(changes)
        variance = sum((change - mean) ** 2 for change in changes) / max(len(changes) - 1, 1)
        reach = _QUANTILE * math.sqrt(variance / len(changes))
        row = difference_row(mean, reach)
        pairs.append({"a": runs[first].name, "b": runs[second].name, "metric": "top1", "noise": None, **row})
    images = count_of(len(right[0]), "image")
    note = (
        f"The intervals are over {images}. They do not include that a recipe gives another accuracy with another seed; "
        "to see that, compare runs that differ by the seed alone."
    )
    return {"pairs": pairs, "notes": [note]}


def _correct_images(folder: Path) -> dict[str, bool]:
    """Whether the most probable class of each image is the true one, by file name.

    Raises:
        DataError: predictions.json is missing or damaged.
    """
    path = folder / "predictions.json"
    try:
        rows = parse_json(read_text(path))
        return {row["file_name"]: row["classes"][0]["name"] == row["label"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)}); evaluate the run again") from None
