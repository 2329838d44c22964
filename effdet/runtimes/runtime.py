"""The one interface of everything that runs a model.

PyTorch's implementation is in `pytorch.py`, that of exported files in `exported.py`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from effdet.structures import Detections
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard


class Runtime(Protocol):
    """A model ready to run.

    Attributes:
        card: of the model.
        device: where it computes.
        image_size: (H, W) of the input in pixels that it is meant for.
    """

    card: ModelCard
    device: torch.device
    image_size: tuple[int, int]

    def detections(self, images: Tensor, options: PostprocessOptions) -> list[Detections]:
        """The detections of a detector for B images, boxes xyxy in pixels of the input, in host memory.

        Args:
            images: [B, 3, H, W] uint8 RGB in host memory, normalization not applied.
            options: thresholds and NMS.

        Raises:
            ConfigError: the file is fixed to another image size or to other options.
            NotFiniteError: an output is NaN or Inf.
        """

    def logits(self, images: Tensor) -> Tensor:
        """The logits [B, K] of a classifier for images [B, 3, H, W] uint8 RGB, in host memory, float32.

        Raises:
            ConfigError: the file is fixed to another image size.
        """
