"""All that must survive a restart, in one object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from effdet.models import EfficientDet, EfficientNet
from effdet.plain_data import first_fault
from effdet.training.ema import ExponentialMovingAverage

_Count = Annotated[int, Field(ge=0)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _SavedState(BaseModel):
    """The types of what `TrainState.state_dict` gives."""

    model_config = ConfigDict(arbitrary_types_allowed=True, strict=True)

    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    optimizer: dict[str, Any]
    loss: dict[str, Tensor]
    scaler: dict[str, Any]
    step: _Count
    best: Annotated[float, Field(allow_inf_nan=False)] | None
    seconds: _Seconds
    stale: _Count
    evaluation_due: bool
    recent: list[dict[str, float]]


@dataclass
class TrainState:
    """What changes during a run.

    All random numbers (order of the images, augmentation, drop path) are functions of the seed and the step, so there
    is neither a sampler nor a generator to save.

    Attributes:
        model: the model that is trained.
        ema: the EMA of its weights, or None.
        optimizer: the optimizer.
        criterion: makes losses from outputs.
        scaler: loss scale, which keeps float16 gradients from vanishing; disabled in other precisions.
        step: steps done.
        best: metric of best.pt; None before the first evaluation.
        seconds: training time so far, without evaluations.
        stale: evaluations since the best one.
        evaluation_due: whether the newest epoch still has to be evaluated, because the run was stopped before.
        recent: metrics of the steps since the last record of the log.
        unreduced: whether the losses of the newest step are of this process alone; never while a checkpoint is saved.
        data: hash of each split, and counts of the training set.
        saved_step: steps that last.pt has; None if there is none yet. It is not saved.
    """

    model: EfficientDet | EfficientNet
    ema: ExponentialMovingAverage | None
    optimizer: torch.optim.Optimizer
    criterion: nn.Module = field(default_factory=nn.Module)
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    step: int = 0
    best: float | None = None
    seconds: float = 0.0
    stale: int = 0
    evaluation_due: bool = False
    recent: list[dict[str, float]] = field(default_factory=list)
    unreduced: bool = False
    data: dict[str, Any] = field(default_factory=dict)
    saved_step: int | None = None

    @property
    def evaluated(self) -> EfficientDet | EfficientNet:
        """The model to evaluate and to deploy: the EMA if there is one."""
        if self.ema is None:
            return self.model
        evaluated: EfficientDet | EfficientNet = self.ema.model  # type: ignore[assignment]
        return evaluated

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain containers."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.ema is None else self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.criterion.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "stale": self.stale,
            "evaluation_due": self.evaluation_due,
            "recent": list(self.recent),
            "data": dict(self.data),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads a state of the same model and optimizer; data and hyperparameters of the optimizer stay as they are.

        Raises:
            ValueError, RuntimeError: it is none, or that of another model or optimizer.
        """
        _check_types(state)
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.model.load_state_dict(state["average"] or state["model"])
        own = [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        _check_shapes(self.optimizer)
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)  # such as the weight decay: the current recipe decides
        self.criterion.load_state_dict(state["loss"])
        if self.scaler.is_enabled() and state["scaler"]:  # empty if the precision was another one
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.stale, self.evaluation_due, self.recent = state["stale"], state["evaluation_due"], list(state["recent"])
        self.saved_step = self.step


def _check_types(state: Any) -> None:
    """Raises ValueError if a state is not what `TrainState.state_dict` gives."""
    try:
        _SavedState.model_validate(state)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def _check_shapes(optimizer: torch.optim.Optimizer) -> None:
    """Raises ValueError if an average of the optimizer has another shape than its parameter.

    PyTorch does not check that, and its fused kernels would write beyond the memory of such a tensor.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"'{name}' of the optimizer has shape {list(value.shape)}, expected {list(parameter.shape)}"
                )
