"""All that must survive a restart, in one object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from effdet.models import EfficientDet, EfficientNet
from effdet.training.ema import WeightAverage

Figures = dict[str, float]  # what one optimiser step tells


@dataclass
class TrainState:
    """The moving parts of a run.

    All that is random - the order of the images, their augmentation, drop path - is a function of the seed and the
    step, so that there is neither a sampler nor a generator to save.

    Attributes:
        model: the model that is trained.
        average: its average, or None.
        optimizer: its optimiser.
        loss: what its losses are made by.
        scaler: factor of the loss that keeps float16 gradients from vanishing; idle in other precisions.
        step: steps done.
        best: the task's metric of best.pt, or None before the first evaluation.
        seconds: length of the training so far, without evaluations.
        stale: evaluations since the best one.
        evaluation_due: whether the newest epoch has ended without its evaluation, because the run was stopped.
        recent: figures of the steps since the last record of the log.
        data: hash of each part of the data set, and counts of the training set.
    """

    model: EfficientDet | EfficientNet
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    loss: nn.Module = field(default_factory=nn.Module)
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    step: int = 0
    best: float | None = None
    seconds: float = 0.0
    stale: int = 0
    evaluation_due: bool = False
    recent: list[Figures] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluated(self) -> EfficientDet | EfficientNet:
        """The model to evaluate and to deploy: the average where there is one."""
        if self.average is None:
            return self.model
        assert isinstance(self.average.model, (EfficientDet, EfficientNet))
        return self.average.model

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain containers."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "loss": self.loss.state_dict(),
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
        """Takes a state back, of the same model and optimiser; data and settings of the optimiser stay as they are."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"] or state["model"])
        own = [{key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)  # such as the weight decay: the recipe of now counts
        self.loss.load_state_dict(state["loss"])
        if self.scaler.is_enabled() and state["scaler"]:  # empty where the precision was another one
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.stale, self.evaluation_due, self.recent = state["stale"], state["evaluation_due"], list(state["recent"])
