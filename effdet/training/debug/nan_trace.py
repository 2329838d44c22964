"""Repeats a training step under observation: its losses and gradients, and where the first NaN or Inf arises.

What is saved of a step that failed is decided in `dump.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effdet.models import EfficientDet, EfficientNet
from effdet.training.tasks import MicroBatch, TrainingTask


@dataclass(frozen=True)
class NanSource:
    """Where the first NaN or Inf arises.

    Attributes:
        kind: in the output of a layer, in a term of the loss of finite outputs, or in a gradient of a finite loss.
        name: the layer, the term of the loss, or the parameter that comes first in backward order.
        detail: what else is known, in words.
    """

    kind: Literal["layer", "loss", "gradient"]
    name: str
    detail: str

    def __str__(self) -> str:
        what = {"layer": "layer", "loss": "the loss term", "gradient": "the gradient of"}[self.kind]
        return f"{what} {self.name} ({self.detail})"


@dataclass
class ValueRange:
    """Range of the finite ones among some values, and how many are NaN or Inf."""

    smallest: float = math.inf
    largest: float = -math.inf
    total: float = 0.0
    count: int = 0
    not_finite: int = 0

    def add(self, values: Tensor) -> None:
        """Adds values."""
        values = values.detach()
        finite = values[values.isfinite()].double()
        self.not_finite += values.numel() - finite.numel()
        if finite.numel():
            self.smallest = min(self.smallest, float(finite.min()))
            self.largest = max(self.largest, float(finite.max()))
            self.total += float(finite.sum())
            self.count += finite.numel()

    def to_dict(self) -> dict[str, float | None]:
        """Minimum, maximum, mean, and the number of NaN and Inf; None where no value is finite."""
        some = self.count > 0
        return {
            "min": self.smallest if some else None,
            "max": self.largest if some else None,
            "mean": self.total / self.count if some else None,
            "not_finite": self.not_finite,
        }


@dataclass(frozen=True)
class NanTrace:
    """What a repeated step gave.

    Attributes:
        losses: the total and its terms.
        gradient_norm: of all gradients together, before clipping.
        gradients: norm of the gradient of each parameter: NaN and Inf first, then sorted by descending norm.
        source: where the first NaN or Inf arises; None if all values are finite.
        outputs: of the network, by output and level.
    """

    losses: dict[str, float]
    gradient_norm: float
    gradients: dict[str, float]
    source: NanSource | None
    outputs: dict[str, ValueRange]

    @property
    def finite(self) -> bool:
        """Whether losses and gradients are finite."""
        return all(map(math.isfinite, [*self.losses.values(), self.gradient_norm]))


def trace(
    model: EfficientDet | EfficientNet,
    criterion: nn.Module,
    task: type[TrainingTask],
    micro_batches: Sequence[MicroBatch],
    dtype: torch.dtype | None,
    loss_scale: float = 1.0,
) -> NanTrace:
    """Computes a step forward and backward; only the running statistics of BatchNorm change.

    Args:
        model: in the mode in which it is trained.
        criterion: makes losses from outputs.
        task: how it does.
        micro_batches: of the step, on the device of the model.
        dtype: precision under autocast; None for float32.
        loss_scale: factor of the loss before backward(), for float16.
    """
    outputs: dict[str, ValueRange] = {}
    layers, gradients = _LayerWatch(model), _GradientWatch(model)
    model.zero_grad()
    sums: dict[str, Tensor] = {}
    with layers, gradients:
        for micro_batch in micro_batches:
            images = micro_batch.images
            with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
                output = model(images)
            for name, of_level in task.named_outputs(model, output, (images.shape[-2], images.shape[-1])):
                outputs.setdefault(name, ValueRange()).add(of_level)
            losses = task.compute_loss(criterion, output, micro_batch)
            torch.autograd.backward(losses["loss"] * loss_scale)
            sums = {name: value.detach() + sums.get(name, 0) for name, value in losses.items()}
    values: dict[str, float] = {name: value.item() for name, value in sums.items()}
    norms, norm = _gradient_norms(model, loss_scale)
    model.zero_grad()
    source = layers.source or _faulty_term(values) or gradients.source or _too_large(norms, norm)
    return NanTrace(values, norm, norms, source, outputs)


class _LayerWatch:
    """Notes the first module, in order of execution, whose output has a NaN or Inf.

    A module inside another finishes before it, so the innermost comes first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.source: NanSource | None = None
        self._model = model
        self._inputs: dict[nn.Module, float] = {}  # largest absolute input of each module
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after(name or "the network")))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()  # saves nothing for backward: activation checkpointing compares that
    def _before(self, module: nn.Module, given: Any) -> None:
        if self.source is None:  # before the module runs, since it may work in place
            self._inputs[module] = max((float(values.abs().max()) for values in _tensors(given)), default=0.0)

    def _after(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        @torch.no_grad()
        def look(module: nn.Module, given: Any, output: Any) -> None:
            if self.source is None and not all(bool(values.isfinite().all()) for values in _tensors(output)):
                self.source = NanSource("layer", name, self._detail(module))

        return look

    def _detail(self, module: nn.Module) -> str:
        own: list[tuple[str, Tensor]] = [*module.named_parameters(recurse=False)]
        if isinstance(module, nn.BatchNorm2d) and not module.training:
            own += [
                (name, values) for name, values in module.named_buffers(recurse=False) if values.is_floating_point()
            ]
        faulty = [name for name, values in own if not bool(values.isfinite().all())]
        largest = self._inputs[module]
        inputs = f"inputs up to {largest:.3g}" if math.isfinite(largest) else "its inputs have NaN or Inf too"
        if faulty:
            return f"{type(module).__name__}, {inputs}, NaN or Inf in {' and '.join(faulty)}"
        weights = max((float(values.abs().max()) for _, values in own), default=None)
        return f"{type(module).__name__}, {inputs}" + (f", weights up to {weights:.3g}" if own else "")


class _GradientWatch:
    """Notes the first parameter, in backward order, whose gradient has a NaN or Inf."""

    def __init__(self, model: nn.Module) -> None:
        self.source: NanSource | None = None
        self._model = model
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, parameter in self._model.named_parameters():
            if parameter.requires_grad:
                handle = parameter.register_post_accumulate_grad_hook(self._after(name))  # type: ignore[no-untyped-call]
                self._handles.append(handle)

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _after(self, name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            assert parameter.grad is not None
            if self.source is None and not bool(parameter.grad.isfinite().all()):
                self.source = NanSource("gradient", name, "the first in backward order; the loss is finite")

        return look


def _faulty_term(losses: dict[str, float]) -> NanSource | None:
    """The term of the loss that is NaN or Inf though the outputs are finite; the total last."""
    for name in [*list(losses)[1:], *list(losses)[:1]]:
        if not math.isfinite(losses[name]):
            return NanSource("loss", name, "the outputs of the network are finite")
    return None


def _too_large(norms: dict[str, float], norm: float) -> NanSource | None:
    """The largest gradient, if all are finite but their common norm overflows."""
    if math.isfinite(norm):
        return None
    name = next(iter(norms))
    return NanSource("gradient", name, f"of norm {norms[name]:.3g}, with which the norm of all gradients overflows")


def _gradient_norms(model: nn.Module, loss_scale: float) -> tuple[dict[str, float], float]:
    """Norms of the gradients by parameter, sorted, and of all together; the gradients are changed."""
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    for gradient in gradients.values():
        gradient.div_(loss_scale)
    single = torch.stack([gradient.double().norm() for gradient in gradients.values()]).tolist()
    total = float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf))
    norms = dict(zip(gradients, single, strict=True))
    return {name: norms[name] for name in sorted(norms, key=lambda name: _rank(norms[name]))}, total


def _rank(norm: float) -> tuple[bool, float]:
    """Sorts norms: NaN and Inf first, then in descending order."""
    return math.isfinite(norm), -norm if math.isfinite(norm) else 0.0


def _tensors(value: Any) -> Iterator[Tensor]:
    """All non-empty tensors of floating-point numbers in nested containers."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
