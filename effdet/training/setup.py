"""Builds what a training needs from its recipe: task, optimizer, schedule, and where to write.

The loop that uses it is in `engine.py`; data, model and criterion are built by the tasks in `tasks/`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from effdet.config import Config, DataConfig
from effdet.data.validation_list import with_validation_list
from effdet.devices import autocast_dtype, keep_freed_memory, move_to_device, pick_device, use_deterministic_algorithms
from effdet.distributed import SINGLE, Processes
from effdet.text import count_of
from effdet.training.automatic import question_recipe
from effdet.training.batch_norm import apply_batch_norm, describe_batch_norm, plan_batch_norm, uses_batch_statistics
from effdet.training.cuda_graph import BackwardGraph, reason_for_no_graph
from effdet.training.debug.checks import check_micro_batches
from effdet.training.ema import ExponentialMovingAverage
from effdet.training.optim import Schedule, freeze, make_optimizer, make_schedule
from effdet.training.parallel import ParallelModel
from effdet.training.records.logs import RunLog
from effdet.training.records.trackers import check_trackers
from effdet.training.state import TrainState
from effdet.training.tasks import TrainingTask, make_task
from effdet.version import __version__
from effdet.weights.card import ModelCard

VERSIONS = {"efficientdet-torch": __version__, "torch": str(torch.__version__)}


@dataclass(frozen=True)
class Run:
    """What does not change during a training.

    Attributes:
        config: the recipe.
        folder: where everything is written.
        processes: the processes that train together; the main one writes and prints.
        network: the model as it is called in a step.
        task: data, losses and evaluation.
        schedule: learning rate of each step.
        frozen: modules that stay in evaluation mode.
        card: describes the weights that are saved.
        log: the log files.
        console: the terminal.
        graph: the CUDA graph of a step; None if none is used.
        evaluation_seconds: duration of each evaluation since this start; the list grows.
    """

    config: Config
    folder: Path
    processes: Processes
    network: ParallelModel
    task: TrainingTask
    schedule: Schedule
    frozen: Sequence[nn.Module]
    card: ModelCard
    log: RunLog
    console: Console
    graph: BackwardGraph | None = None
    evaluation_seconds: list[float] = field(default_factory=list)


def set_up(
    config: Config, folder: Path, device_name: str | None, console: Console, processes: Processes = SINGLE
) -> tuple[Run, TrainState]:
    """The run of a recipe and its state before the first step; prints what will be trained.

    Raises:
        EffdetError: data, weights or recipe cannot be used; nothing has been written then.
    """
    check_trackers(config.log.trackers)
    device = pick_device(device_name)
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(config.seed)
    use_deterministic_algorithms(config.train.deterministic)
    console.print(f"reading the data set {place_of(config.data)}")
    task = make_task(config, console, processes)
    question = question_recipe(config, task.data.num_images)
    if question is not None:
        console.print(question, style="yellow")
    if task.data.tables.split_off:
        config = with_validation_list(config, folder)
    dtype = autocast_dtype(config.train.precision, device)
    model = move_to_device(task.model, device, config.train.channels_last)
    model.checkpoint_activations(config.train.activation_checkpointing)
    frozen = freeze(model, config.train.freeze)
    num_images = task.data.num_images
    per_forward = math.ceil(min(config.train.batch_size, num_images) / processes.size / config.train.accumulation_steps)
    batch_norm = plan_batch_norm(
        config.train.batch_norm, per_forward, processes.size, device.type == "cuda", task.loaded_norms
    )
    if uses_batch_statistics(model, batch_norm):
        check_micro_batches(config.train, num_images, *task.smallest_features(), processes.size)
    frozen += apply_batch_norm(model, batch_norm)
    state = TrainState(
        model=model,
        ema=None if config.train.ema_decay is None else ExponentialMovingAverage(model, config.train.ema_decay),
        optimizer=make_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler(device.type, enabled=dtype == torch.float16),
        criterion=task.criterion,
        data={"fingerprints": task.data.fingerprints(), **task.data.train_table.counts()},
    )
    run = Run(
        config=config,
        folder=folder,
        processes=processes,
        network=ParallelModel(model, device, dtype, processes, config.train.compile),
        task=task,
        schedule=make_schedule(config.optim, config.train, num_images),
        frozen=frozen,
        card=replace(task.card(), config=config.to_dict(), versions=VERSIONS),
        log=RunLog(folder, task.criterion.names, task.setting_names, task.metric_names),
        console=console,
        graph=make_graph(config, model, device, processes, task, console),
    )
    console.print(describe_run(run))
    console.print(describe_batch_norm(model, batch_norm))
    return run, state


def make_graph(
    config: Config,
    model: nn.Module,
    device: torch.device,
    processes: Processes,
    task: TrainingTask,
    console: Console,
) -> BackwardGraph | None:
    """The CUDA graph of a step, if the run uses one; on a GPU a line says whether it does, and why not."""
    if device.type != "cuda":
        return None
    reason = reason_for_no_graph(config.train, processes.size, task.varies_by)
    console.print(f"CUDA graphs: {'used' if reason is None else f'not used ({reason})'}")
    return None if reason else BackwardGraph(list(model.parameters()), device, console)


def place_of(data: DataConfig) -> str:
    """Where a data set is, for messages."""
    return str(data.url or data.root or data.train.annotations or data.train.images or "")


def describe_run(run: Run) -> str:
    """What is about to be trained, in one line."""
    num_validation = run.task.data.num_validation
    validation = f"{num_validation} for validation" if num_validation else "no validation"
    processes = f" over {count_of(run.processes.size, 'process', 'processes')}" if run.processes.size > 1 else ""
    total = run.schedule.total_steps
    epochs = count_of(math.ceil(total / run.schedule.steps_per_epoch), "epoch")
    precision = str(run.network.dtype or torch.float32).removeprefix("torch.")
    return (
        f"{run.task.describe()} for training, {validation}; {epochs}, {count_of(total, 'step')} of "
        f"{count_of(run.config.train.batch_size, 'image')}{processes} on {run.network.device.type} in {precision}; "
        f"writing to {run.folder}"
    )
