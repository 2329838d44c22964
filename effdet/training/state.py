"""All that must survive a restart, in one object."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from effdet.models import EfficientDet, EfficientNet
from effdet.training.ema import WeightAverage

Figures = dict[str, float]  # what one optimiser step tells


@dataclass
class TrainState:
    """The moving parts of a run.

    The order of the images and their augmentation are functions of the seed and the step, so that there is no sampler
    and no generator of theirs to save; what else is random (drop path) draws from torch's generators, saved here.

    Attributes:
        model: the model that is trained.
        average: its average, or None.
        optimizer: its optimiser.
        step: steps done.
        best: the task's metric of best.pt, or None before the first evaluation.
        seconds: length of the training so far, without evaluations.
        stale: evaluations since the best one.
        evaluation_due: whether the newest epoch has ended without its evaluation, because the run was stopped.
        recent: figures of the steps since the last record of the log.
    """

    model: EfficientDet | EfficientNet
    average: WeightAverage | None
    optimizer: torch.optim.Optimizer
    step: int = 0
    best: float | None = None
    seconds: float = 0.0
    stale: int = 0
    evaluation_due: bool = False
    recent: list[Figures] = field(default_factory=list)

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
            "step": self.step,
            "best": self.best,
            "seconds": self.seconds,
            "stale": self.stale,
            "evaluation_due": self.evaluation_due,
            "recent": list(self.recent),
            "generators": [torch.get_rng_state(), *torch.cuda.get_rng_state_all()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back; the recipe must be the one that it was saved under."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.model.load_state_dict(state["average"] or state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.best, self.seconds = state["step"], state["best"], state["seconds"]
        self.stale, self.evaluation_due, self.recent = state["stale"], state["evaluation_due"], list(state["recent"])
        on_cpu, *on_gpus = state["generators"]
        torch.set_rng_state(on_cpu)
        torch.cuda.set_rng_state_all(on_gpus[: torch.cuda.device_count()])
