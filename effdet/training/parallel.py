"""The model as the training step calls it: under autocast, compiled if asked, in DDP if there are several processes.

The model itself knows nothing of this; it is what is evaluated and saved.
"""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from effdet.distributed import Processes, explain_lost_process
from effdet.errors import TrainingError


class ParallelModel:
    """Calls a model; over several processes backward() averages the gradients over all of them (DDP).

    Attributes:
        device: where it computes.
        dtype: precision under autocast; None for float32.
    """

    def __init__(
        self, model: nn.Module, device: torch.device, dtype: torch.dtype | None, processes: Processes, compiled: bool
    ) -> None:
        self.device, self.dtype = device, dtype
        self._shared: DistributedDataParallel | None = None
        self._called: Any = model
        if processes.size > 1:
            with explain_lost_process():
                self._called = self._shared = DistributedDataParallel(model, gradient_as_bucket_view=True)
            # Each process keeps its own buffers: SyncBatchNorm layers synchronize themselves.
            self._shared.broadcast_buffers = False
        self._failures: tuple[type[Exception], ...] = ()
        if compiled:
            from torch._dynamo.exc import (
                TorchDynamoException,
            )  # imported late: it takes as long as all other imports together

            self._failures = (TorchDynamoException,)
            self._called = torch.compile(self._called)

    def __call__(self, images: Tensor, last: bool = True) -> Any:
        """Outputs of images; only the `last` micro-batch of a step exchanges gradients in backward()."""
        alone = contextlib.nullcontext() if self._shared is None or last else self._shared.no_sync()
        with alone, torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None):
            try:
                return self._called(images)
            except self._failures as error:
                raise TrainingError(
                    f"train.compile: the network cannot be compiled here ({str(error).splitlines()[0]}); "
                    "set it to false"
                ) from None
