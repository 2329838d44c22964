"""Opens anything that runs: a checkpoint, a name of public weights, or an exported file, told apart by its suffix.

Running is in the modules beside this one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from effdet.devices import inference_dtype
from effdet.runtimes.pytorch import TorchRuntime
from effdet.runtimes.runtime import Runtime
from effdet.types import Precision
from effdet.weights.card import ModelCard
from effdet.weights.create import open_checkpoint


class ModelFile(NamedTuple):
    """A model that was read and does not run yet.

    Attributes:
        card: of the model.
        start: makes it ready to run on a device in a precision; exported files have a precision of their own.
    """

    card: ModelCard
    start: Callable[[torch.device, Precision], Runtime]


def open_model(weights: str | Path) -> ModelFile:
    """The model of a checkpoint, of a name of public weights, or of an exported file.

    Raises:
        WeightsError: the file is missing, damaged or of an unknown kind, or the public weights are not available.
        ConfigError: the runtime of the file is not installed.
    """
    checkpoint = open_checkpoint(weights)

    def start(device: torch.device, precision: Precision = "auto") -> Runtime:
        return TorchRuntime(checkpoint.model, checkpoint.card, device, inference_dtype(precision, device))

    return ModelFile(checkpoint.card, start)
