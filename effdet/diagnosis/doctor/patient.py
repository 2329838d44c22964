"""The model that is diagnosed: its weights, its recipe, and samples of its images; and the metric of any change of it.

Which changes are tried is in `model_checks.py`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effdet.config import ClassificationConfig, Config, DetectionConfig
from effdet.data.classification_dataset import ClassificationDataset
from effdet.data.dataset import ImageDataset
from effdet.data.detection_dataset import DetectionDataset
from effdet.data.formats import read_table
from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.data.loader import evaluation_batches
from effdet.errors import WeightsError
from effdet.evaluation.evaluate import Evaluator, evaluate
from effdet.evaluation.evaluate_checkpoint import evaluation_config
from effdet.files import full_path
from effdet.models import EfficientDet, EfficientNet
from effdet.runtimes.opening import EXPORTED, open_model
from effdet.runtimes.pytorch import TorchRuntime
from effdet.runtimes.runtime import Runtime
from effdet.types import Part, Task
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import is_checkpoint, read_tensors
from effdet.weights.create import open_checkpoint

METRIC: dict[Task, str] = {"detection": "AP", "classification": "top1"}


@dataclass(frozen=True)
class Patient:
    """A model with what is needed to run it on its data set.

    Attributes:
        weights: file or name, for messages.
        card: of the model.
        model: the network; None for an exported file.
        runtime: runs the model.
        config: the recipe.
        training: state of the training in last.pt; empty if there is none.
        folder: of the run; None for public weights.
    """

    weights: str
    card: ModelCard
    model: EfficientDet | EfficientNet | None
    runtime: Runtime
    config: DetectionConfig | ClassificationConfig
    training: Mapping[str, Any]
    folder: Path | None

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return METRIC[self.card.task]

    def table(self, split: Part) -> Any:
        """A split of the data set with the labels of the model.

        Raises:
            DataError: it cannot be read.
        """
        return read_table(self.config.data, split, LabelMap(self.card.class_names, self.card.category_ids))

    def evaluate(self, table: ImageTable, runtime: Runtime | None = None, config: Config | None = None) -> Evaluator:
        """The predictions for a table; of the runtime and by the recipe of the model unless others are given."""
        config = config or self.config
        data = config.data.model_copy(update={"workers": 0})  # for few images, starting processes would take longer
        return evaluate(runtime or self.runtime, table, config.model_copy(update={"data": data}))

    def measure(self, table: ImageTable, runtime: Runtime | None = None, config: Config | None = None) -> float:
        """The metric of `evaluate`; -1 if an output is NaN or Inf."""
        try:
            return self.evaluate(table, runtime, config).metrics()[self.metric]
        except WeightsError:
            return -1.0

    def batches(self, table: Any, batch_size: int) -> Generator[Any, None, None]:
        """The images of a table as in an evaluation, with their targets."""
        spec: Any = self.card.spec
        size = self.config.model.image_size or self.runtime.image_size
        dataset: ImageDataset[Any, Any]
        if self.card.task == "detection":
            dataset = DetectionDataset(table, size, spec.fill_color, spec.antialias, spec.letterbox, None, seed=0)
        else:
            dataset = ClassificationDataset(table, size, spec.crop, spec.interpolation, None, None, 1, seed=0)
        return evaluation_batches(dataset, batch_size, 0, pin_memory=False)

    def network(self, spec: Any = None, state: Mapping[str, Tensor] | None = None) -> EfficientDet | EfficientNet:
        """A new network, perhaps with another spec or other weights; that of the run is never changed."""
        assert self.model is not None
        network: EfficientDet | EfficientNet = (spec or self.card.spec).build(len(self.card.class_names))
        network.load_state_dict(dict(state or self.model.state_dict()))
        return network.eval()

    def runtime_of(self, network: EfficientDet | EfficientNet) -> Runtime:
        """What runs a network that `network` gave."""
        return TorchRuntime(network, replace(self.card, spec=network.spec), self.runtime.device)


def open_patient(
    run: str | Path,
    recipe: str | Path | None,
    overrides: Sequence[str],
    device: torch.device,
    threads: int | None = None,
    metadata: str | Path | None = None,
) -> tuple[Patient, list[str]]:
    """The model of a run's folder, a checkpoint or an exported file, and lines to show about its recipe.

    Raises:
        ConfigError: the recipe cannot be used.
        WeightsError: there is no model, or it cannot be read.
    """
    path = full_path(run)
    if path.is_dir():
        path = _checkpoint_in(path)
    weights: str | Path = path if path.exists() else run
    opened = open_model(weights, threads=threads, metadata=metadata)
    config, lines = evaluation_config(opened.card, weights, recipe, overrides)
    folder = path.parent if path.is_file() else None
    model = None if path.suffix.lower() in EXPORTED else open_checkpoint(weights).model
    training = {} if folder is None or model is None else _training_state(path, model)
    runtime = opened.start(device, "auto" if opened.exported else "fp32")
    return Patient(str(weights), opened.card, model, runtime, config, training, folder), lines


def _checkpoint_in(folder: Path) -> Path:
    """The checkpoint of a run's folder that would be used."""
    for name in ("best.pt", "last.pt", "previous.pt"):
        if (folder / name).is_file():
            return folder / name
    held = sorted(entry.name for entry in folder.iterdir())[:8]
    raise WeightsError(
        f"{folder}: has no best.pt or last.pt{'; it holds ' + ', '.join(held) if held else ', it is empty'}; give the "
        "folder of a run, a checkpoint or an exported file"
    )


def _training_state(path: Path, model: nn.Module) -> dict[str, Any]:
    """The training state in a checkpoint, or in the last.pt beside it if that is of the same network."""
    for file in dict.fromkeys((path, path.with_name("last.pt"))):
        if not file.is_file():
            continue
        content = read_tensors(file)
        training: dict[str, Any] = content["training"] if is_checkpoint(content) else {}
        own = model.state_dict()
        raw = training.get("model") or {}
        if raw.keys() == own.keys() and all(raw[name].shape == own[name].shape for name in raw):
            return {"model": raw, "step": training.get("step"), "has_average": bool(training.get("average"))}
    return {}


def evenly(table: Any, count: int, rows: Any = None) -> Any:
    """A table of at most `count` of its images (or of those in `rows`), evenly spaced."""
    rows = np.arange(len(table)) if rows is None else rows
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(np.int64)
    return table.subset(rows[np.unique(places)])
