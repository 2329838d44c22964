"""Logs a run to TensorBoard, Weights & Biases and MLflow, as `log.trackers` selects.

What is logged is decided in `logs.py`, which also writes the log files. Each package is imported where it is used.
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

_MLFLOW_URI = "MLFLOW_TRACKING_URI"  # environment variable
_MLFLOW_DATABASE = ("sqlalchemy", "alembic")
_UPLOAD_SECONDS = 600.0  # longest wait for the upload at the end of a run; W&B keeps the rest on disk


class Tracker(Protocol):
    """A tool that stores the metrics of a run, besides the log files."""

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs the metrics of a step, named train/... or val/...."""

    def close(self, failed: bool) -> None:
        """Closes the run in the tool; `failed` says that an error ended the training."""


class Trackers:
    """The trackers of a run: a context manager that closes them.

    A tracker that fails, for example without a connection, is reported once and not used again. The training continues.
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

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends the metrics of a step to every tracker."""
        for name in list(self.trackers):
            self._try(name, lambda tracker: tracker.write(step, metrics))

    def _try(self, name: str, action: Callable[[Tracker], None]) -> None:
        try:
            action(self.trackers[name])
        except Exception as error:  # tools raise errors of many types, and none of them may end a training
            del self.trackers[name]
            _warn(self.console, name, error)


def _warn(console: Console, name: str, error: Exception) -> None:
    console.print(
        f"{name} failed ({_reason(error)}); the run continues without it, and log.jsonl has all metrics", style="yellow"
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def check_trackers(to: Sequence[str]) -> None:
    """Checks that the packages of the trackers are installed, without importing them.

    Raises:
        ConfigError: a package is missing; the message says what to install.
    """
    for name in to:
        local = name == "mlflow" and not os.environ.get(_MLFLOW_URI)
        if any(find_spec(module) is None for module in (name, *(_MLFLOW_DATABASE if local else ()))):
            raise ConfigError(
                f'log.trackers: {name} is not installed; run pip install "efficientdet-torch[{name}]", or remove '
                f"{name} from log.trackers"
            )


def open_trackers(
    to: Sequence[str], project: str, folder: Path, recipe: Mapping[str, Any], step: int, console: Console
) -> Trackers:
    """The trackers of a run. A resumed run continues the runs that the trackers already have.

    Args:
        to: names of the trackers: tensorboard, wandb, mlflow.
        project: project in W&B, experiment in MLflow.
        folder: folder of the run; its name is the name of the run.
        recipe: the recipe as plain containers.
        step: completed steps; later steps that a tracker already has are logged again.
        console: where failures are printed.

    Raises:
        ConfigError: a tracker cannot be started. A resumed run prints this instead and continues without the tracker.
    """
    check_trackers(to)
    constructors: dict[str, Callable[[], Tracker]] = {
        "tensorboard": lambda: TensorBoard(folder, recipe, step),
        "wandb": lambda: WandB(folder, project, recipe),
        "mlflow": lambda: MLflow(folder, project, recipe),
    }
    trackers = Trackers({}, console)
    for name in to:
        try:
            trackers.trackers[name] = constructors[name]()
        except Exception as error:
            if step == 0:
                trackers.__exit__(type(error), error, None)
                raise ConfigError(
                    f"log.trackers: {name} cannot be started ({_reason(error)}); fix this, or remove {name} from "
                    "log.trackers"
                ) from error
            _warn(console, name, error)
    return trackers


class TensorBoard:
    """Event files in `tensorboard/` of the run's folder. Steps that are logged again replace the earlier values."""

    def __init__(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        self.writer.add_text("recipe", f"```\n{text}```", step)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self.writer.close()


class WandB:
    """A run in Weights & Biases, with its files in `wandb/` of the run's folder. WANDB_MODE=offline uploads nothing.

    The service ignores steps that it already has. Offline, every start of the run writes a new folder, which contains
    the repeated steps again.
    """

    def __init__(self, folder: Path, project: str, recipe: Mapping[str, Any]) -> None:
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

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        self.run.log(dict(metrics), step=step)

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self.run.finish(exit_code=int(failed))


class MLflow:
    """A run in MLflow, stored in `mlflow.db` of the run's folder or at MLFLOW_TRACKING_URI.

    MLflow stores repeated values twice, so steps that it already has are skipped here.
    """

    def __init__(self, folder: Path, project: str, recipe: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient

        uri = os.environ.get(_MLFLOW_URI)
        local = f"sqlite:///{(folder / 'mlflow.db').resolve().as_posix()}"
        self.client = MlflowClient(uri or local)
        known = _read_id(folder, "mlflow")
        self.last_steps: dict[str, int] = {}  # last logged step of "train" and of "val"
        if known is None:
            artifacts = None if uri else (folder / "mlartifacts").resolve().as_uri()
            self.id = self._new_run(folder.resolve().name, project, recipe, artifacts)
            _write_id(folder, "mlflow", self.id)
        else:
            self.id = known
            names = {name.partition("/")[0]: name for name in self.client.get_run(self.id).data.metrics}
            for group, name in names.items():
                history = self.client.get_metric_history(self.id, name)
                self.last_steps[group] = max(metric.step for metric in history)
            self.client.update_run(self.id, status="RUNNING")

    def _new_run(self, name: str, project: str, recipe: Mapping[str, Any], artifacts: str | None) -> str:
        from mlflow.entities import Param

        experiment = self.client.get_experiment_by_name(project)
        number = experiment.experiment_id if experiment else self.client.create_experiment(project, artifacts)
        run: str = self.client.create_run(number, run_name=name).info.run_id
        parameters = [Param(re.sub(r"[^\w.\- :/]", "_", key), str(value)[:500]) for key, value in _flat(recipe).items()]
        for first in range(0, len(parameters), 100):  # MLflow accepts up to 100 at once
            self.client.log_batch(run, params=parameters[first : first + 100])
        return run

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """See `Tracker`."""
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        new = {name: value for name, value in metrics.items() if step > self.last_steps.get(name.partition("/")[0], -1)}
        if new:
            self.client.log_batch(self.id, metrics=[Metric(name, value, now, step) for name, value in new.items()])

    def close(self, failed: bool) -> None:
        """See `Tracker`."""
        self.client.set_terminated(self.id, "FAILED" if failed else "FINISHED")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values of nested mappings by dotted keys."""
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
    """Id of the run of this folder in a tracker, or None for a new run."""
    return _read_ids(folder).get(name)


def _write_id(folder: Path, name: str, run_id: str) -> None:
    write_json(folder / "trackers.json", {**_read_ids(folder), name: run_id})
