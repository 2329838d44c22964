"""From a recipe to all that a training needs: task, optimiser, schedule, and where to write.

What is done with them is in `engine.py`; data, model and loss are the task's, see `tasks.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from effdet.config import ClassificationConfig, DetectionConfig
from effdet.devices import autocast_dtype, compute_deterministically, keep_freed_memory, move_to_device, pick_device
from effdet.distributed import SINGLE, Processes
from effdet.errors import WeightsError
from effdet.training.batch_norm import apply_norms, choose_norms, describe_norms, takes_parts
from effdet.training.debug.checks import check_parts
from effdet.training.ema import WeightAverage
from effdet.training.optim import Schedule, freeze, make_optimizer, make_schedule
from effdet.training.parallel import ParallelModel
from effdet.training.records.logs import RunLog
from effdet.training.records.trackers import check_trackers
from effdet.training.resume import MINOR_CHANGES, data_changes, differences
from effdet.training.state import TrainState
from effdet.training.tasks.classification import ClassificationTask
from effdet.training.tasks.detection import DetectionTask
from effdet.training.tasks.task import Task
from effdet.version import __version__
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import card_in, is_checkpoint, read_tensors

# Keys without which a state means something else: those for which that of the optimiser was made, and that in which
# the steps are counted.
KEPT = (
    *(("optim", "name"), ("optim", "lr_multipliers"), ("optim", "layer_decay")),
    *(("train", "freeze"), ("train", "batch_size")),
)
VERSIONS = {"efficientdet-torch": __version__, "torch": str(torch.__version__)}


@dataclass(frozen=True)
class Run:
    """What stays as it is during a training.

    Attributes:
        config: the recipe.
        folder: where everything is written.
        processes: the processes that train together; the main one writes and prints.
        network: the model as it is called in a step.
        task: data, losses and evaluation.
        schedule: learning rate of each step.
        frozen: modules that are not trained.
        card: describes the weights that are saved.
        log: the log files.
        console: the terminal.
    """

    config: DetectionConfig | ClassificationConfig
    folder: Path
    processes: Processes
    network: ParallelModel
    task: Task
    schedule: Schedule
    frozen: Sequence[nn.Module]
    card: ModelCard
    log: RunLog
    console: Console


def set_up(
    config: DetectionConfig | ClassificationConfig,
    folder: Path,
    device_name: str | None,
    console: Console,
    processes: Processes = SINGLE,
) -> tuple[Run, TrainState]:
    """The run of a recipe and its state before the first step; tells the console what it found.

    Raises:
        EffdetError: data, weights or recipe cannot be used; nothing has been written then.
    """
    check_trackers(config.log.to)
    device = pick_device(device_name)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    compute_deterministically(config.train.deterministic)
    task: Task = make_task(config, console, processes)
    dtype = autocast_dtype(config.train.precision, device)
    model = move_to_device(task.model, device, config.train.channels_last)
    model.checkpoint_activations(config.train.checkpoint_activations)
    frozen = freeze(model, config.train.freeze)
    part = math.ceil(min(config.train.batch_size, task.num_images) / processes.size / config.train.accumulation_steps)
    norms = choose_norms(config.train.batch_norm, part, processes.size, device.type == "cuda", task.loaded_norms)
    if takes_parts(model, norms):
        check_parts(config.train, task.num_images, *task.smallest_features(), processes.size)
    frozen += apply_norms(model, norms)
    state = TrainState(
        model=model,
        average=None if config.train.ema_decay is None else WeightAverage(model, config.train.ema_decay),
        optimizer=make_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        loss=task.loss,
        data={"fingerprints": dict(task.fingerprints()), **task.counts()},
    )
    run = Run(
        config=config,
        folder=folder,
        processes=processes,
        network=ParallelModel(model, device, dtype, processes, config.train.compile),
        task=task,
        schedule=make_schedule(config.optim, config.train, task.num_images),
        frozen=frozen,
        card=replace(task.card(), config=config.to_dict(), versions=VERSIONS),
        log=RunLog(folder, task.loss.names, task.setting_names, task.metric_names),
        console=console,
    )
    _describe(run, console)
    console.print(describe_norms(model, norms))
    return run, state


def make_task(
    config: DetectionConfig | ClassificationConfig, console: Console, processes: Processes = SINGLE
) -> DetectionTask | ClassificationTask:
    """The task of a recipe; tells the console what it found in data and weights.

    Raises:
        EffdetError: data, weights or recipe cannot be used.
    """
    if isinstance(config, DetectionConfig):
        return DetectionTask(config, console, processes)
    return ClassificationTask(config, console, processes)


def resume(checkpoint: Path, run: Run, state: TrainState) -> None:
    """Puts the state of an earlier run's last.pt (or of the folder that holds it) into `state`.

    Where last.pt is damaged or missing, the previous.pt beside it is taken.

    Raises:
        WeightsError: the file has no training state, or its model or optimiser is another one.
    """
    path, content = newest_state(checkpoint, run.console)
    if not is_checkpoint(content) or not content["training"]:
        raise WeightsError(f"{path}: holds no state of a training; resume from the last.pt of a run")
    card = card_in(content, path)
    changes = differences(card.config, run.config.to_dict())
    others = [change for change in changes if not change.startswith(MINOR_CHANGES)]
    told = "; resume with the recipe of the run"
    if len(others) > 1:
        told += f" (this one differs in {'; '.join(others[:6])}{'; ...' if len(others) > 6 else ''})"
    difference = _difference(card, run.card)
    if difference:
        raise WeightsError(f"{path}: {difference}{told}")
    try:
        state.load_state_dict(content["training"])
    except (RuntimeError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: does not fit this recipe ({reason}){told}") from None
    if not all(record.keys() >= set(run.task.loss.names) for record in state.recent):
        state.recent = []  # of another loss than that of now: the next record is of the steps from here on
    run.processes.all_reduce_max(0)  # waits for all, none of which reads the file from here on
    run.console.print(f"resumed from {path} after step {state.step}")
    for line in [*data_changes(content["training"].get("data", {}), state.data), *changes]:
        run.console.print(line, style="yellow")


def newest_state(checkpoint: Path, console: Console) -> tuple[Path, dict[str, Any]]:
    """The file to resume from, and its content, of the last.pt of a run or of the folder that holds it.

    Raises:
        WeightsError: neither it nor the previous.pt beside it can be read.
    """
    path = checkpoint / "last.pt" if checkpoint.is_dir() else checkpoint
    previous = path.with_name("previous.pt")
    try:
        return path, read_tensors(path)
    except WeightsError as error:
        if path.name != "last.pt" or not previous.exists():
            raise
        console.print(f"{error}; taking {previous}", style="yellow")
        return previous, read_tensors(previous)


def _difference(saved: ModelCard, made: ModelCard) -> str | None:
    """In what a saved network, or how it was optimised, is another than in the recipe, in words; None for the same."""
    if (saved.spec.name, saved.class_names) != (made.spec.name, made.class_names):
        return (
            f"is of an {saved.spec.name} with classes {', '.join(saved.class_names)}, but the recipe makes an "
            f"{made.spec.name} with classes {', '.join(made.class_names)}"
        )
    before, now = vars(saved.spec), vars(made.spec)
    changed = [f"{key} {before[key]} and now {now[key]}" for key in before if before[key] != now[key]]
    if changed:
        return f"is of an {saved.spec.name} with {'; '.join(changed)}"
    changed = []
    for section, key in KEPT:
        before, now = (card.config.get(section, {}) for card in (saved, made))
        if before.get(key, now.get(key)) != now.get(key):
            changed.append(f"{section}.{key} {before[key]} and now {now[key]}")
    return f"is of a run with {'; '.join(changed)}" if changed else None


def _describe(run: Run, console: Console) -> None:
    """One line on what is about to be trained."""
    validation = f", {run.task.num_validation} to evaluate" if run.task.num_validation else ", none to evaluate"
    network = run.network
    together = f" by {run.processes.size} processes" if run.processes.size > 1 else ""
    console.print(
        f"{run.task.describe()} to train{validation}; {run.schedule.total_steps} steps of "
        f"{run.config.train.batch_size} images{together} on {network.device.type} in "
        f"{str(network.dtype or torch.float32).removeprefix('torch.')}; writing to {run.folder}"
    )
