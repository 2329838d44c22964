"""What runs a model: from a batch of images at the input size to raw outputs, whatever the runtime.

Only PyTorch is here so far. Another runtime is a class with the attributes and the call of `Backend`, and a branch in
`open_backend`; resizing, postprocessing and files stay in the predictor.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from effdet.devices import move_to_device, pick_device
from effdet.models import EfficientDet, EfficientNet
from effdet.structures import Outputs
from effdet.weights.card import ModelCard
from effdet.weights.create import open_checkpoint


class Backend(Protocol):
    """A model ready to run.

    Attributes:
        device: where it computes.
        image_size: (H, W) of its input in pixels.
    """

    device: torch.device
    image_size: tuple[int, int]

    def __call__(self, images: Tensor) -> Outputs | Tensor:
        """The raw outputs for images [B, 3, H, W] uint8 RGB in host memory, normalization included.

        A detector gives `Outputs`, a classifier logits [B, K]; on any device, without gradients.
        """


class TorchBackend:
    """A PyTorch model; see `Backend`."""

    def __init__(self, model: EfficientDet | EfficientNet, device: torch.device) -> None:
        self.device, self.image_size = device, model.spec.image_size
        self._model = move_to_device(model, device).eval()

    def __call__(self, images: Tensor) -> Outputs | Tensor:
        """See `Backend`."""
        with torch.inference_mode():
            outputs: Outputs | Tensor = self._model(images.to(self.device))
        return outputs


def open_backend(weights: str | Path, device: str | None = None) -> tuple[Backend, ModelCard]:
    """The model of a checkpoint, or of a name of public weights, on a device, and its card.

    Raises:
        WeightsError: the file is missing, damaged or not a checkpoint, or the public weights are not available.
        ConfigError: there is no such device.
    """
    picked = pick_device(device)
    checkpoint = open_checkpoint(weights)
    return TorchBackend(checkpoint.model, picked), checkpoint.card
