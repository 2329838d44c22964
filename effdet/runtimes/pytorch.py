"""Runs a network in PyTorch: folded, in channels-last memory, without gradients, on CUDA as a graph.

Exported files are run in `exported.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from effdet.devices import keep_freed_memory
from effdet.models import EfficientDet, EfficientNet
from effdet.models.folding import fold
from effdet.postprocess import postprocess
from effdet.postprocess.packed import pack_detections, unpack_detections
from effdet.runtimes.cuda_graph import CudaGraphs
from effdet.structures import Detections, Outputs
from effdet.types import PostprocessOptions
from effdet.weights.card import ModelCard


class TorchRuntime:
    """A network in PyTorch; see `Runtime`. Images may have any size.

    On the CPU the process keeps freed memory from then on. Else a fifth of the time goes into new pages of memory.
    """

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
        self._network = network = fold(model).to(device, dtype)
        anchors_at = network.anchors_at if isinstance(network, EfficientDet) else None
        if device.type == "cpu":
            keep_freed_memory()
        self._graphs = CudaGraphs(self._packed, device, anchors_at) if device.type == "cuda" else None

    def detections(self, images: Tensor, options: PostprocessOptions) -> list[Detections]:
        """See `Runtime`."""
        if self._graphs is not None:
            with torch.inference_mode():
                packed = self._graphs.run(images, options)
            return unpack_detections(packed)
        outputs = self.outputs(images)
        assert isinstance(outputs, Outputs)
        return postprocess(outputs, options)

    def logits(self, images: Tensor) -> Tensor:
        """See `Runtime`."""
        if self._graphs is not None:
            with torch.inference_mode():
                return self._graphs.run(images, None)
        outputs = self.outputs(images)
        assert isinstance(outputs, Tensor)
        return outputs.float().cpu()

    @torch.inference_mode()
    def outputs(self, images: Tensor) -> Outputs | Tensor:
        """What the network gives for images [B, 3, H, W] uint8 RGB, on the device and in its type."""
        outputs: Outputs | Tensor = self._network(images.to(self.device))
        return outputs

    def _packed(self, images: Tensor, options: PostprocessOptions | None) -> Tensor:
        """On the device: all detections as one tensor, or logits [B, K] float32."""
        outputs = self.outputs(images)
        if isinstance(outputs, Tensor):
            return outputs.float()
        assert options is not None
        return pack_detections(outputs, options)
