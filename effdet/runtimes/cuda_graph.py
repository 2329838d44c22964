"""Replays what a function computes on a GPU as CUDA graphs, which start all kernels of a batch at once.

What is computed is the caller's. Launching the several hundred kernels of a small network one by one takes longer than
running them.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from effdet.text import reason_of
from effdet.types import PostprocessOptions

log = logging.getLogger("effdet")

KEPT_GRAPHS = 8  # of the shapes and options used last
WARM_UP_CALLS = 2  # before a capture, so that libraries have chosen their algorithms and workspaces

# Images on the device to a result on the device; None for a classifier.
Function = Callable[[Tensor, PostprocessOptions | None], Tensor]


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    images: Tensor
    result: Tensor
    anchors: Tensor | None  # kept in memory, since the graph reads them


class CudaGraphs:
    """Runs a function on a GPU, from the second batch of a shape on as a CUDA graph.

    The first batch of a shape runs without a graph, so that a single last batch of another size costs no capture. If
    a capture fails, for example for lack of memory, a warning says so and no other is tried.
    """

    def __init__(
        self,
        function: Function,
        device: torch.device,
        anchors_at: Callable[[tuple[int, int]], Tensor] | None,
    ) -> None:
        """Nothing is captured yet.

        Args:
            function: must not wait for the device, and must have shapes that do not depend on values.
            device: a CUDA device.
            anchors_at: makes and keeps the anchors that the function reads, of an image size; None if it reads none.
        """
        self._function, self._device, self._anchors_at = function, device, anchors_at
        self._graphs: OrderedDict[tuple[tuple[int, ...], PostprocessOptions | None], _Graph | None] = OrderedDict()
        self._enabled, self._lock = True, threading.Lock()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, images: Tensor, options: PostprocessOptions | None) -> Tensor:
        """The function's result, in host memory.

        Args:
            images: [B, C, H, W] in host memory or on the device.
            options: passed to the function.
        """
        with self._lock, torch.cuda.device(self._device):  # the graphs write to the same memory, one after the other
            graph = self._graph(images, options)
            if graph is None:
                return self._function(images.to(self._device, non_blocking=True), options).cpu()
            graph.images.copy_(images, non_blocking=True)
            graph.graph.replay()
            return graph.result.cpu()

    def _graph(self, images: Tensor, options: PostprocessOptions | None) -> _Graph | None:
        """The graph for images of a shape; None for the first of them, and if graphs do not work."""
        key = (tuple(images.shape), options)
        if not self._enabled:
            return None
        if key not in self._graphs:
            self._graphs[key] = None
        elif self._graphs[key] is None:
            try:
                self._graphs[key] = self._captured(images, options)
            except RuntimeError as error:  # CUDA's errors, running out of memory too
                log.warning("CUDA graphs: not used, which is slower; capturing failed (%s)", reason_of(error))
                self._enabled = False
                self._graphs.clear()
                return None
        self._graphs.move_to_end(key)
        while len(self._graphs) > KEPT_GRAPHS:
            self._graphs.popitem(last=False)
        return self._graphs[key]

    def _captured(self, images: Tensor, options: PostprocessOptions | None) -> _Graph:
        static = torch.empty_like(images, device=self._device)
        static.copy_(images)
        anchors = None if self._anchors_at is None else self._anchors_at((images.shape[-2], images.shape[-1]))
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP_CALLS):
                self._function(static, options)
            # Threads that read images may allocate pinned memory meanwhile; "thread_local" lets them.
            with torch.cuda.graph(graph, self._pool, self._stream, "thread_local"):
                result = self._function(static, options)
        torch.cuda.current_stream().wait_stream(self._stream)
        return _Graph(graph, static, result, anchors)
