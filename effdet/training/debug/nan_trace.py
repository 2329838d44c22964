"""A training step taken once more under watch: its losses and gradients, and where the first value that is not finite
arises.

What is kept of a step that failed is told in `forensics.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effdet.losses import Losses
from effdet.models import EfficientDet, EfficientNet
from effdet.models.anchors import anchors_per_cell, level_sizes
from effdet.models.efficientdet import MIN_LEVEL
from effdet.structures import Outputs
from effdet.training.tasks.task import Forward

LossesOf = Callable[[Forward], Iterator[Losses]]  # the losses of a batch, part by part


@dataclass(frozen=True)
class Origin:
    """Where the first value that is not finite arises.

    Attributes:
        kind: in the output of a layer, in a part of the loss of finite outputs, or in a gradient of a finite loss.
        name: the layer, the part of the loss, or the parameter that is the first in backward order.
        detail: what else is known, in words.
    """

    kind: Literal["layer", "loss", "gradient"]
    name: str
    detail: str

    def __str__(self) -> str:
        what = {"layer": "layer", "loss": "the loss part", "gradient": "the gradient of"}[self.kind]
        return f"{what} {self.name} ({self.detail})"


@dataclass
class Spread:
    """Range of the finite values among some, and how many are not finite."""

    smallest: float = math.inf
    largest: float = -math.inf
    total: float = 0.0
    count: int = 0
    not_finite: int = 0

    def add(self, values: Tensor) -> None:
        """Takes in more values."""
        values = values.detach()
        finite = values[values.isfinite()].double()
        self.not_finite += values.numel() - finite.numel()
        if finite.numel():
            self.smallest = min(self.smallest, float(finite.min()))
            self.largest = max(self.largest, float(finite.max()))
            self.total += float(finite.sum())
            self.count += finite.numel()

    def to_dict(self) -> dict[str, float | None]:
        """Smallest, largest, mean and the count of those that are not finite; None where no value is finite."""
        some = self.count > 0
        return {
            "min": self.smallest if some else None,
            "max": self.largest if some else None,
            "mean": self.total / self.count if some else None,
            "not_finite": self.not_finite,
        }


@dataclass(frozen=True)
class Findings:
    """What a step gave.

    Attributes:
        losses: the total and its parts.
        gradient_norm: of all gradients together, before clipping.
        gradients: norm of each parameter's gradient: those that are not finite first, then by falling norm.
        origin: where the first value that is not finite arises; None where all are finite.
        outputs: of the network, by output and level.
    """

    losses: dict[str, float]
    gradient_norm: float
    gradients: dict[str, float]
    origin: Origin | None
    outputs: dict[str, Spread]

    @property
    def finite(self) -> bool:
        """Whether the step could be taken."""
        return all(map(math.isfinite, [*self.losses.values(), self.gradient_norm]))


def examine(
    model: EfficientDet | EfficientNet,
    losses: LossesOf,
    device: torch.device,
    dtype: torch.dtype | None,
    loss_scale: float = 1.0,
) -> Findings:
    """A step forward and backward; the weights stay as they are, but for the norms' statistics.

    Args:
        model: in the mode in which it is trained.
        losses: of the batch.
        device: where model and batch are.
        dtype: type under autocast, or None for float32.
        loss_scale: factor of the loss in the backward pass, of float16.
    """
    outputs: dict[str, Spread] = {}
    layers, gradients = _LayerWatch(model), _GradientWatch(model)

    def forward(images: Tensor) -> Any:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            given = model(images)
        for name, values in _named_outputs(model, given, (images.shape[-2], images.shape[-1])):
            outputs.setdefault(name, Spread()).add(values)
        return given

    model.zero_grad()
    sums: dict[str, Tensor] = {}
    with layers, gradients:
        for part in losses(forward):
            torch.autograd.backward(part["loss"] * loss_scale)
            sums = {name: value.detach() + sums.get(name, 0) for name, value in part.items()}
    figures = {name: value.item() for name, value in sums.items()}
    norms, norm = _gradient_norms(model, loss_scale)
    model.zero_grad()
    origin = layers.found or _faulty_part(figures) or gradients.found or _too_large(norms, norm)
    return Findings(figures, norm, norms, origin, outputs)


class _LayerWatch:
    """Notes the first module, in the order of execution, whose output is not finite.

    A module inside another ends before it, so that the innermost is the first.
    """

    def __init__(self, model: nn.Module) -> None:
        self.found: Origin | None = None
        self._model = model
        self._inputs: dict[nn.Module, float] = {}  # largest absolute value that a module was given
        self._handles: list[Any] = []

    def __enter__(self) -> None:
        for name, module in self._model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._before))
            self._handles.append(module.register_forward_hook(self._after(name or "the network")))

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.no_grad()  # nothing is saved for the backward pass: with checkpointing that is compared
    def _before(self, module: nn.Module, given: Any) -> None:
        if self.found is None:  # before the module runs, since it may work in place
            self._inputs[module] = max((float(values.abs().max()) for values in _tensors(given)), default=0.0)

    def _after(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        @torch.no_grad()
        def look(module: nn.Module, given: Any, output: Any) -> None:
            if self.found is None and not all(bool(values.isfinite().all()) for values in _tensors(output)):
                self.found = Origin("layer", name, self._detail(module))

        return look

    def _detail(self, module: nn.Module) -> str:
        own: list[tuple[str, Tensor]] = [*module.named_parameters(recurse=False)]
        if isinstance(module, nn.BatchNorm2d) and not module.training:
            own += [
                (name, values) for name, values in module.named_buffers(recurse=False) if values.is_floating_point()
            ]
        faulty = [name for name, values in own if not bool(values.isfinite().all())]
        largest = self._inputs[module]
        inputs = f"inputs up to {largest:.3g}" if math.isfinite(largest) else "its inputs are not finite either"
        if faulty:
            return f"{type(module).__name__}, {inputs}, {' and '.join(faulty)} not finite"
        weights = max((float(values.abs().max()) for _, values in own), default=None)
        return f"{type(module).__name__}, {inputs}" + (f", weights up to {weights:.3g}" if own else "")


class _GradientWatch:
    """Notes the first parameter, in backward order, whose gradient is not finite."""

    def __init__(self, model: nn.Module) -> None:
        self.found: Origin | None = None
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
            if self.found is None and not bool(parameter.grad.isfinite().all()):
                self.found = Origin("gradient", name, "the first in backward order, of a loss that is finite")

        return look


def _faulty_part(figures: dict[str, float]) -> Origin | None:
    """The part of the loss that is not finite though the outputs are; the total last."""
    for name in [*list(figures)[1:], *list(figures)[:1]]:
        if not math.isfinite(figures[name]):
            return Origin("loss", name, "the outputs of the network are finite")
    return None


def _too_large(norms: dict[str, float], norm: float) -> Origin | None:
    """The largest gradient, if all are finite but too large for their common norm."""
    if math.isfinite(norm):
        return None
    name = next(iter(norms))
    return Origin("gradient", name, f"of norm {norms[name]:.3g}, too large for the norm of all")


def _gradient_norms(model: nn.Module, loss_scale: float) -> tuple[dict[str, float], float]:
    """Norms of the gradients by parameter, sorted, and of all together; the gradients are gone afterwards."""
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    for gradient in gradients.values():
        gradient.div_(loss_scale)
    single = torch.stack([gradient.double().norm() for gradient in gradients.values()]).tolist()
    total = float(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf))
    norms = dict(zip(gradients, single, strict=True))
    return {name: norms[name] for name in sorted(norms, key=lambda name: _rank(norms[name]))}, total


def _rank(norm: float) -> tuple[bool, float]:
    """Sorts norms: not finite first, then falling."""
    return math.isfinite(norm), -norm if math.isfinite(norm) else 0.0


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of floating-point numbers in nested containers that have values."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _named_outputs(
    model: EfficientDet | EfficientNet, outputs: Outputs | Tensor, image_size: tuple[int, int]
) -> Iterator[tuple[str, Tensor]]:
    """The outputs of the network by name, a detector's by level."""
    if isinstance(outputs, Tensor):
        yield "logits", outputs
        return
    assert isinstance(model, EfficientDet)
    spec = model.spec
    sizes = level_sizes(image_size, MIN_LEVEL, spec.max_level)
    counts = [height * width * anchors_per_cell(spec.anchor_aspects) for height, width in sizes]
    for name, values in (("class_logits", outputs.class_logits), ("box_deltas", outputs.box_deltas)):
        for level, part in enumerate(torch.split(values, counts, dim=1), MIN_LEVEL):
            yield f"{name} P{level}", part
