"""Runs a network in PyTorch: folded, in channels-last memory, without gradients.

Exported files are run in `exported.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effdet.models import EfficientDet, EfficientNet
from effdet.models.folding import fold
from effdet.postprocess import postprocess
from effdet.structures import Detections, Outputs
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard


class TorchRuntime:
    """A network in PyTorch; see `Runtime`. Images may have any size."""

    def __init__(
        self,
        model: EfficientDet | EfficientNet,
        card: ModelCard,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """A runtime with a folded copy of a model.

        Args:
            model: a detector or a classifier.
            card: of the model.
            device: where to compute.
            dtype: of weights and arithmetic; results are float32.
        """
        self.card, self.device, self.image_size = card, device, model.spec.image_size
        self._network = fold(model).to(device, dtype)

    def detections(self, images: Tensor, options: PostprocessOptions) -> list[Detections]:
        """See `Runtime`."""
        outputs = self._outputs(images)
        assert isinstance(outputs, Outputs)
        return postprocess(outputs, options)

    def logits(self, images: Tensor) -> Tensor:
        """See `Runtime`."""
        outputs = self._outputs(images)
        assert isinstance(outputs, Tensor)
        return outputs.float().cpu()

    @torch.inference_mode()
    def _outputs(self, images: Tensor) -> Outputs | Tensor:
        outputs: Outputs | Tensor = self._network(images.to(self.device, non_blocking=True))
        return outputs
