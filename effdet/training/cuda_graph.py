"""Forward and backward pass of a micro-batch as one CUDA graph, whose thousands of kernels start with one call.

What is computed is in `step.py`; clipping, the optimizer step and the EMA stay outside the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from effdet.config import TrainConfig
from effdet.losses import Assignment
from effdet.text import reason_of
from effdet.training.tasks import MicroBatch

PLAIN_MICRO_BATCHES = 3  # of one shape in a row before a graph is captured: libraries choose their kernels in them

Compute = Callable[[MicroBatch], Tensor]


def reason_for_no_graph(train: TrainConfig, processes: int, varies_by: str | None) -> str | None:
    """Why a training on a GPU does not use CUDA graphs; None if it does.

    Args:
        train: section `train` of the recipe.
        processes: how many processes train.
        varies_by: key because of which steps differ, see `TrainingTask`.
    """
    if not train.cuda_graphs:
        return "train.cuda_graphs=false"
    if processes > 1:
        return f"{processes} processes"
    if train.compile or train.activation_checkpointing:
        return "train.compile" if train.compile else "train.activation_checkpointing"
    return varies_by


@dataclass(frozen=True)
class Captured:
    """A captured graph with the tensors that it reads and writes.

    Attributes:
        graph: the graph.
        signature: of the micro-batches that it computes.
        inputs: the micro-batch that it reads.
        losses: the losses that it writes.
        parameters: those that get a gradient.
        gradients: which it writes.
        memory: bytes that it holds.
    """

    graph: torch.cuda.CUDAGraph
    signature: tuple[Any, ...]
    inputs: MicroBatch
    losses: Tensor
    parameters: list[nn.Parameter]
    gradients: list[Tensor]
    memory: int

    def replay(self, micro_batch: MicroBatch) -> Tensor:
        """Computes a micro-batch: adds its gradients to those of the parameters and gives its losses."""
        for own, value in zip(tensors_of(self.inputs), tensors_of(micro_batch), strict=True):
            own.copy_(value)
        sums: list[Any] = [parameter.grad for parameter in self.parameters]
        if sums[0] is self.gradients[0]:  # of the micro-batch before, which the graph will overwrite
            sums = [gradient.clone() for gradient in self.gradients]
        self.graph.replay()
        if sums[0] is None:
            sums = self.gradients
        else:
            torch._foreach_add_(sums, self.gradients)
        for parameter, gradient in zip(self.parameters, sums, strict=True):
            parameter.grad = gradient
        return self.losses


class BackwardGraph:
    """Computes micro-batches, from the fourth of the same shape in a row on as a CUDA graph.

    The graph holds the same kernels in the same order, so the numbers are those of a plain step. Random numbers too:
    the graph reads seed and offset of torch's generator when it is replayed. Capturing computes nothing, and no warm-up
    runs: BatchNorm statistics, gradients and random numbers are not touched. A micro-batch of another shape, and all of
    them if the step cannot be captured, are computed without a graph.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device, console: Console) -> None:
        self._parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self._device, self._console = device, console
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._captured: Captured | None = None
        self._given_up = False
        self._signature: tuple[Any, ...] = ()
        self._seen = 0  # micro-batches of that signature in a row

    @property
    def is_captured(self) -> bool:
        """Whether there is a graph."""
        return self._captured is not None

    def backward(self, compute: Compute, micro_batch: MicroBatch) -> Tensor:
        """Adds the gradients of a micro-batch to those of the parameters and gives its losses.

        Args:
            compute: does the same without a graph, the same way for every micro-batch of one shape.
            micro_batch: what is computed.
        """
        signature = signature_of(micro_batch)
        self._seen = self._seen + 1 if signature == self._signature else 1
        self._signature = signature
        if self._captured is None and not self._given_up and self._seen > PLAIN_MICRO_BATCHES:
            self._captured = self._capture(compute, micro_batch, signature)
        if self._captured is not None and self._captured.signature == signature:
            return self._captured.replay(micro_batch)
        self.make_space()
        return compute(micro_batch)

    def make_space(self) -> None:
        """Frees the graph if other work of its size would not fit beside it; it is captured again afterwards."""
        if self._captured is None:
            return
        held = self._captured.memory
        reserved, used = torch.cuda.memory_reserved(self._device), torch.cuda.memory_allocated(self._device)
        if torch.cuda.mem_get_info(self._device)[0] + reserved - used - held < held:
            self._captured = None
            torch.cuda.empty_cache()

    def _capture(self, compute: Compute, micro_batch: MicroBatch, signature: tuple[Any, ...]) -> Captured | None:
        """The graph; None, with a line that says so, if this step cannot be captured."""
        before = [parameter.grad for parameter in self._parameters]
        for parameter in self._parameters:
            parameter.grad = None
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        free = torch.cuda.memory_reserved(self._device)
        try:
            inputs = copy_of(micro_batch)
            with torch.cuda.device(self._device), _repaired_if_it_fails(self._device) as pool:
                graph = torch.cuda.CUDAGraph()
                # Other threads, such as the one that pins memory, go on.
                with torch.cuda.graph(graph, pool, self._stream, capture_error_mode="thread_local"):
                    losses = compute(inputs)
            parameters = [parameter for parameter in self._parameters if parameter.grad is not None]
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            memory = torch.cuda.memory_reserved(self._device) - free
            return Captured(graph, signature, inputs, losses, parameters, gradients, memory)
        except RuntimeError as error:
            self._given_up = True
            self._console.print(
                f"CUDA graphs: not used, this step cannot be captured ({_first_line(error)}); training goes on without",
                style="yellow",
            )
            return None
        finally:
            for parameter, gradient in zip(self._parameters, before, strict=True):
                parameter.grad = gradient


def tensors_of(micro_batch: MicroBatch) -> list[Tensor]:
    """The tensors that a forward pass and its loss read: on a GPU the normalizer is one too."""
    targets = micro_batch.assignment or [micro_batch.targets]
    normalizer = micro_batch.normalizer
    return [micro_batch.images, *targets, *([normalizer] if isinstance(normalizer, Tensor) else [])]


def signature_of(micro_batch: MicroBatch) -> tuple[Any, ...]:
    """What two micro-batches that run the same kernels have in common."""
    return tuple((tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors_of(micro_batch))


def copy_of(micro_batch: MicroBatch) -> MicroBatch:
    """A micro-batch with tensors of its own."""
    images, *targets, normalizer = [tensor.clone() for tensor in tensors_of(micro_batch)]
    if micro_batch.assignment is None:
        return replace(micro_batch, images=images, targets=targets[0], normalizer=normalizer)
    return replace(micro_batch, images=images, targets=(), assignment=Assignment(*targets), normalizer=normalizer)


@contextlib.contextmanager
def _repaired_if_it_fails(device: torch.device) -> Any:
    """Gives a memory pool for a capture. If the capture fails, torch's stream, generator and allocator work again.

    torch itself leaves them as they are within a capture.
    """
    index = torch.cuda.current_device() if device.index is None else device.index
    stream, generator = torch.cuda.current_stream(device), torch.cuda.default_generators[index]
    random_state, pool = generator.clone_state(), torch.cuda.graph_pool_handle()
    try:
        yield pool
    except BaseException:
        torch.cuda.set_stream(stream)
        generator.graphsafe_set_state(random_state)
        with contextlib.suppress(RuntimeError, AttributeError):
            torch._C._cuda_endAllocateToPool(index, pool)
        with contextlib.suppress(RuntimeError):
            torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        raise


def _first_line(error: BaseException) -> str:
    """Why a capture failed: the message of the first error, to which others are due."""
    while error.__context__ is not None:
        error = error.__context__
    return reason_of(error)
