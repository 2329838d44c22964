"""The commands that are run under faults, on a tiny data set and a detector that was trained on it for a moment.

The faults are in `places.py` and `moments.py`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .commands import Starter

_RECIPE = """
data: {{root: {root}, workers: 0}}
model: {{name: efficientdet_lite0, image_size: [64, 64]}}
optim: {{name: adamw, learning_rate: 1e-3, base_batch_size: null}}
train: {{epochs: 2, batch_size: 4, log_every: 1, precision: fp32, deterministic: true}}
"""


@dataclass(frozen=True)
class Inputs:
    """What the commands read.

    Attributes:
        folder: of everything below.
        data: a COCO data set, with a video in it.
        recipe: trains on it in two epochs of two steps.
        run: a finished run of the recipe.
        seconds: how long it lasted.
    """

    folder: Path
    data: Path
    recipe: Path
    run: Path
    seconds: float


def make_inputs(folder: Path, starter: Starter) -> Inputs:
    """Draws the data set and trains on it."""
    data, recipe, run = folder / "data", folder / "tiny.yaml", folder / "run"
    made = starter.run(["synthetic", str(data), "--train", "8", "--val", "4", "--size", "96"], folder)
    assert made.status == 0, made.stderr
    recipe.write_text(_RECIPE.format(root=data))
    started = time.monotonic()
    made = starter.run(["train", str(recipe), f"output_dir={run}", "--device", "cpu"], folder)
    assert made.status == 0, made.stderr
    return Inputs(folder, data, recipe, run, time.monotonic() - started)


@dataclass(frozen=True)
class Verb:
    """A command that writes below a folder.

    Attributes:
        arguments: of the inputs and that folder.
        writes: files that are there if the status is 0; names below the folder.
        prepare: what the folder holds before.
        is_slow: whether it is run in a few places only.
    """

    arguments: Callable[[Inputs, Path], list[str]]
    writes: tuple[str, ...]
    prepare: Callable[[Inputs, Path], None] = lambda inputs, out: None
    is_slow: bool = False


def _train(*changes: str) -> Callable[[Inputs, Path], list[str]]:
    return lambda inputs, out: ["train", str(inputs.recipe), f"output_dir={out}/run", *changes, "--device", "cpu"]


def _predict(name: str, *options: str) -> Callable[[Inputs, Path], list[str]]:
    source = ["predict", name, "--conf", "0.01", "--max-det", "5", *options]
    return lambda inputs, out: [
        *(str(inputs.data / word) if word == name else word for word in source),
        *("--weights", str(inputs.run / "best.pt"), "--out", f"{out}/predict", "--device", "cpu"),
    ]


def _copy_run(inputs: Inputs, out: Path) -> None:
    shutil.copytree(inputs.run, out / "run", ignore=shutil.ignore_patterns("*.pt"))


_RUN = ("best.pt", "last.pt", "log.csv", "log.jsonl", "metrics.json", "predictions.json", "report.html", "curves.png")

VERBS = {
    "train": Verb(_train(), tuple(f"run/{name}" for name in _RUN)),
    "train with workers": Verb(_train("data.workers=2"), tuple(f"run/{name}" for name in _RUN)),
    "train with a cache": Verb(
        lambda inputs, out: _train("data.cache=disk", f"data.cache_folder={out}/cache")(inputs, out),
        tuple(f"run/{name}" for name in _RUN),
    ),
    "eval": Verb(
        lambda inputs, out: ["eval", "--weights", str(inputs.run / "best.pt"), "--out", f"{out}/eval"],
        ("eval/metrics.json", "eval/predictions.json", "eval/report.html"),
    ),
    "predict images": Verb(_predict("val2017"), ("predict/predictions.json", "predict/predictions.csv")),
    "predict a video": Verb(_predict("clip.mp4"), ("predict/predictions.json", "predict/clip.mp4")),
    "check": Verb(
        lambda inputs, out: ["check", str(inputs.data), "--html", f"{out}/check.html", "--json", f"{out}/check.json"],
        ("check.html", "check.json"),
    ),
    "check --fix": Verb(lambda inputs, out: ["check", str(inputs.data), "--fix", f"{out}/fixed"], ("fixed",)),
    "convert": Verb(
        lambda inputs, out: ["convert", str(inputs.data), f"{out}/yolo", "--to", "yolo"], ("yolo/data.yaml",)
    ),
    "shards": Verb(
        lambda inputs, out: ["shards", str(inputs.recipe), "--out", f"{out}/shards"],
        ("shards/train.index.npz", "shards/val.index.npz"),
    ),
    "export": Verb(
        lambda inputs, out: ["export", "--weights", str(inputs.run / "best.pt"), "--out", f"{out}/best.onnx"],
        ("best.onnx",),
        is_slow=True,
    ),
    "export to OpenVINO": Verb(
        lambda inputs, out: [
            *("export", "--weights", str(inputs.run / "best.pt"), "--format", "openvino", "--out", f"{out}/best.xml"),
        ],
        ("best.xml", "best.bin"),
        is_slow=True,
    ),
    "report": Verb(lambda inputs, out: ["report", f"{out}/run"], ("run/report.html",), prepare=_copy_run),
}
