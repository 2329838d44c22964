"""The log of a run in TensorBoard, Weights & Biases and MLflow, as `log.to` asks.

What is logged, and the files that every run has, are in `logs.py`. Each package is imported where it is used.
"""

from __future__ import annotations

import json
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import yaml
from rich.console import Console

from effdet.errors import ConfigError
from effdet.files import write_json

Tree = Mapping[str, Any]  # the recipe as plain containers
_MLFLOW_URI = "MLFLOW_TRACKING_URI"  # variable of the environment
_MLFLOW_DATABASE = ("sqlalchemy", "alembic")
_UPLOAD_SECONDS = 600.0  # most that the end of a run waits for a connection; W&B keeps the rest on disk


class Tracker(Protocol):
    """Where figures go besides the log files."""

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Takes the figures of a step; they are named train/... or val/...."""

    def close(self, failed: bool) -> None:
        """Ends the part of the run that this process made; `failed` if by an error."""


class Trackers:
    """The trackers of a run: a context that closes them.

    One that fails, say for want of a connection, is reported once and left out from then on; the training goes on.
    """

    def __init__(self, trackers: Mapping[str, Tracker], console: Console) -> None:
        self.trackers, self.console = dict(trackers), console

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for name in list(self.trackers):
            self._try(name, lambda tracker: tracker.close(failed=kind is not None))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Gives the figures of a step to every tracker."""
        for name in list(self.trackers):
            self._try(name, lambda tracker: tracker.write(step, figures))

    def _try(self, name: str, action: Callable[[Tracker], None]) -> None:
        try:
            action(self.trackers[name])
        except Exception as error:  # a tool's own errors, whatever they are: a run must not end by them
            del self.trackers[name]
            _report(self.console, name, error)


def _report(console: Console, name: str, error: Exception) -> None:
    console.print(
        f"{name} fails ({_reason(error)}); the run goes on without it, log.jsonl has everything", style="yellow"
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def check_trackers(to: Sequence[str]) -> None:
    """Refuses trackers whose packages are not installed; imports nothing.

    Raises:
        ConfigError: says what to install.
    """
    for name in to:
        local = name == "mlflow" and not os.environ.get(_MLFLOW_URI)
        if any(find_spec(module) is None for module in (name, *(_MLFLOW_DATABASE if local else ()))):
            raise ConfigError(
                f'log.to: {name} is not installed; pip install "efficientdet-torch[{name}]", or leave {name} out'
            )


def open_trackers(to: Sequence[str], project: str, folder: Path, recipe: Tree, step: int, console: Console) -> Trackers:
    """The trackers of a run, which go on with what they have of it.

    Args:
        to: their names: tensorboard, wandb, mlflow.
        project: project of W&B, experiment of MLflow.
        folder: the run's; its name is that of the run.
        recipe: the recipe.
        step: steps that are done; what trackers have of later ones is logged anew.
        console: where failures are told.

    Raises:
        ConfigError: a tracker of a new run cannot be started. That of a run that goes on is left out instead.
    """
    check_trackers(to)
    makers: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder, recipe, step),
        "wandb": lambda: WandB(folder, project, recipe),
        "mlflow": lambda: MLflow(folder, project, recipe),
    }
    trackers = Trackers({}, console)
    for name in to:
        try:
            trackers.trackers[name] = makers[name]()
        except Exception as error:
            if step == 0:
                trackers.__exit__(type(error), error, None)
                raise ConfigError(
                    f"log.to: {name} cannot be started ({_reason(error)}); mend that, or leave {name} out"
                ) from error
            _report(console, name, error)
    return trackers


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder; steps that are logged again replace the earlier ones."""

    def __init__(self, folder: Path, recipe: Tree, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        self.writer.add_text("recipe", f"```\n{text}```", step)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self.writer.close()


class WandB:
    """A run of Weights & Biases, with its files in `wandb/` of the run's folder; WANDB_MODE=offline uploads nothing.

    The service itself leaves out steps that it already has. Offline each start writes a folder of its own, in which
    they stand again.
    """

    def __init__(self, folder: Path, project: str, recipe: Tree) -> None:
        import wandb

        known = _read_id(folder, "wandb")
        self.run = wandb.init(
            project=project,
            name=folder.resolve().name,
            id=known or uuid.uuid4().hex[:12],
            dir=folder,
            config=dict(recipe),
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", finish_timeout=_UPLOAD_SECONDS),
        )
        if known is None:
            _write_id(folder, "wandb", self.run.id)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.run.log(dict(figures), step=step)

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self.run.finish(exit_code=int(failed))


class MLflow:
    """A run of MLflow, in `mlflow.db` of the run's folder or where MLFLOW_TRACKING_URI says.

    MLflow keeps every value that it is given, so those of steps that it already has are left out here.
    """

    def __init__(self, folder: Path, project: str, recipe: Tree) -> None:
        from mlflow import MlflowClient

        where = os.environ.get(_MLFLOW_URI)
        local = f"sqlite:///{(folder / 'mlflow.db').resolve().as_posix()}"
        self.client = MlflowClient(where or local)
        known = _read_id(folder, "mlflow")
        self.known: dict[str, int] = {}  # last step of train and of val
        if known is None:
            artifacts = None if where else (folder / "mlartifacts").resolve().as_uri()
            self.id = self._new_run(folder.resolve().name, project, recipe, artifacts)
            _write_id(folder, "mlflow", self.id)
        else:
            self.id = known
            names = {name.partition("/")[0]: name for name in self.client.get_run(self.id).data.metrics}
            for group, name in names.items():
                history = self.client.get_metric_history(self.id, name)
                self.known[group] = max(metric.step for metric in history)
            self.client.update_run(self.id, status="RUNNING")

    def _new_run(self, name: str, project: str, recipe: Tree, artifacts: str | None) -> str:
        from mlflow.entities import Param

        experiment = self.client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self.client.create_experiment(project, artifacts)
        run: str = self.client.create_run(number, run_name=name).info.run_id
        parameters = [Param(re.sub(r"[^\w.\- :/]", "_", key), str(value)[:500]) for key, value in _flat(recipe).items()]
        for first in range(0, len(parameters), 100):  # the most that MLflow takes at once
            self.client.log_batch(run, params=parameters[first : first + 100])
        return run

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        new = {name: value for name, value in figures.items() if step > self.known.get(name.partition("/")[0], -1)}
        if new:
            self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in new.items()])

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


def _flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Values of a tree by dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _read_ids(folder: Path) -> dict[str, str]:
    path = folder / "trackers.json"
    if not path.exists():
        return {}
    ids: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    return ids


def _read_id(folder: Path, name: str) -> str | None:
    """What a tracker calls the run of this folder, or None if it does not know it yet."""
    return _read_ids(folder).get(name)


def _write_id(folder: Path, name: str, run_id: str) -> None:
    write_json(folder / "trackers.json", {**_read_ids(folder), name: run_id})
