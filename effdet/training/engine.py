"""The training loop: one optimiser step, what happens when an epoch ends, and the run from first step to last.

What the loop works with is made in `run.py`; the command line is in `cli/train.py`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from effdet.config import ClassificationConfig, DetectionConfig
from effdet.data.loader import prefetch_to_device
from effdet.devices import give_back_freed_memory
from effdet.distributed import SINGLE, Processes, lost_processes
from effdet.errors import ConfigError, DataError, TrainingError, WeightsError
from effdet.evaluation.tables import metrics_table
from effdet.files import write_text
from effdet.report.curves import draw_curves
from effdet.training.debug.checks import check_first_loss, untrained_loss
from effdet.training.debug.dump import leave_bundle
from effdet.training.debug.out_of_memory import is_out_of_memory, out_of_memory, out_of_memory_in_evaluation
from effdet.training.optim import set_rate, train_mode
from effdet.training.records.logs import Meter, ProgressLine, advice, usable_cores
from effdet.training.records.manifest import write_manifest
from effdet.training.records.trackers import open_trackers
from effdet.training.setup import Run, resume, set_up
from effdet.training.state import Figures, TrainState
from effdet.training.stopping import Ending, StopRequest, stop_request
from effdet.training.tasks.task import AnyBatch
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint


def train(
    config: DetectionConfig | ClassificationConfig,
    folder: Path,
    device: str | None,
    resume_from: Path | None,
    console: Console,
    processes: Processes = SINGLE,
) -> Ending:
    """Trains by a recipe; leaves config.yaml, logs, last.pt, best.pt, metrics.json and predictions.json in `folder`.

    Args:
        config: the recipe.
        folder: the run's folder.
        device: name of the device, None for the best one.
        resume_from: last.pt of an earlier run to go on from, or its folder.
        console: where progress is shown.
        processes: those that train together; the main one writes.

    Returns:
        How the run ended; if it did not come to its end, last.pt is saved to go on from.

    Raises:
        EffdetError: something that the user can mend: recipe, data, weights, or a loss that is not finite.
    """
    run, state = set_up(config, folder, device, console, processes)
    if resume_from is not None:
        resume(resume_from, run, state)
    if processes.is_main:
        try:
            write_text(folder / "config.yaml", config.to_yaml())
            # What a killed run had logged after its last checkpoint is logged again.
            run.log.rewind(state.step, evaluated=not state.evaluation_due)
            write_manifest(
                folder,
                device=run.network.device,
                processes=processes.size,
                seed=config.seed,
                resumed_after=None if resume_from is None else state.step,
                fingerprints=state.data["fingerprints"],
            )
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written ({error.strerror}); set another output_dir") from None
    to = config.log.to if processes.is_main else ()
    with open_trackers(to, config.log.project, folder, config.to_dict(), state.step, console) as run.log.trackers:
        return go_on(run, state)


def go_on(run: Run, state: TrainState) -> Ending:
    """What is left of a run, from an evaluation that it still owes on, and how it ended."""
    if state.evaluation_due:
        end_epoch(run, state, evaluating=run.task.num_validation > 0)  # unless the recipe of now has none
    if is_last(run, state) or out_of_patience(run, state):
        run.console.print(f"nothing is left to do: {state.step} of {run.schedule.total_steps} steps are done")
        return "finished"
    with stop_request(run.config.train.max_hours) as stop:  # torchrun sends SIGTERM while the main process still saves
        try:
            return train_steps(run, state, stop)
        except DataError:  # a file that can be mended: what was learned up to here is kept
            if state.step > 0:
                save_last(run, state, run.card)
                run.console.print(
                    f"saved after step {state.step}; once the data is mended, go on with --resume {run.folder}"
                )
            raise


def train_steps(run: Run, state: TrainState, stop: StopRequest) -> Ending:
    """All steps that are left, unless something stops them, and how they ended."""
    train, processes = run.config.train, run.processes
    device = run.network.device
    batches = prefetch_to_device(run.task.batches(state.step, run.schedule.total_steps, device.type == "cuda"), device)
    train_mode(state.model, run.frozen)
    cores = max(usable_cores() // processes.local_size, 1)
    advise = functools.partial(advice, workers=run.config.data.workers, cores=cores, cache=run.config.data.cache)
    with (
        contextlib.closing(batches),
        ProgressLine(run.console, run.task.loss.names, run.schedule.total_steps, state.step, advise) as progress,
    ):
        meter = Meter(state.seconds)
        saved = time.monotonic()
        for batch in meter.waiting(in_all(processes, batches)):
            try:
                state.recent.append(train_step(run, state, batch))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                height, width = batch.images.shape[-2:]
                raise out_of_memory(train, len(batch.images), (height, width), run.network.dtype) from None
            state.seconds = meter.count(len(batch.images) * processes.size)
            progress.advance(state.step)
            if state.step % train.log_every == 0 or is_last(run, state):
                progress.show(log_steps(run, state, meter))
            reason = stop.agreed(processes)
            if ends_epoch(run, state):
                with meter.paused():
                    end_epoch(run, state, evaluating=evaluation_is_due(run, state) and reason is None)
                reason = stop.agreed(processes)
                saved = time.monotonic()
                if out_of_patience(run, state):
                    run.console.print(f"no better {run.task.metric} in {train.patience} evaluations; stopped early")
                    return "finished"
            elif reason or (train.save_minutes and time.monotonic() - saved >= 60 * train.save_minutes):
                with meter.paused():
                    save_last(run, state, run.card)
                saved = time.monotonic()
            if reason and not (is_last(run, state) and not state.evaluation_due):
                return reason
    return "finished"


def in_all(processes: Processes, batches: Iterator[AnyBatch]) -> Iterator[AnyBatch]:
    """The batches of this process, as long as all processes have one.

    Raises:
        DataError: this process or another cannot read its data; all stop then, and none waits for another.
    """
    error: DataError | None = None
    while True:
        try:
            batch = next(batches, None)
        except DataError as raised:
            batch, error = None, raised
        if processes.all_reduce_max(int(error is not None)):
            raise error or DataError("another process cannot read its images; its own message tells why")
        if batch is None:
            return
        yield batch


def train_step(run: Run, state: TrainState, batch: AnyBatch) -> Figures:
    """One optimiser step on a batch; over several processes each has its share of the batch.

    Raises:
        TrainingError: the loss or its gradient is not finite, or the first loss is not that of a network that knows
            nothing yet; the weights are as before the step then.
    """
    learning_rate = run.schedule.learning_rate(state.step)
    set_rate(state.optimizer, learning_rate)
    settings = run.task.settings(state.step // run.schedule.steps_per_epoch)
    losses, gradient_norm = backward(run, state, batch)
    while overflows(state, losses, gradient_norm):
        state.scaler.update()
        state.optimizer.zero_grad()
        losses, gradient_norm = backward(run, state, batch)
    figures = {"learning_rate": learning_rate, **losses, "gradient_norm": gradient_norm, **settings}
    if not all(map(math.isfinite, figures.values())):
        raise TrainingError(not_finite(run, state, batch, figures))
    if state.step == 0 and run.task.first_loss is not None:
        expected = untrained_loss(run.task, batch.to(run.network.device), run.processes)
        check_first_loss(run.task.first_loss, losses[run.task.first_loss], expected)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    if state.average is not None:
        state.average.update(state.model, state.step)
    state.step += 1
    return figures


def backward(run: Run, state: TrainState, batch: AnyBatch) -> tuple[Figures, float]:
    """Puts the gradients of a batch, clipped, into the model, and gives its losses and the norm of the gradients.

    The batch is computed in as many parts as the recipe says, which add up to it, as do the shares of the processes.
    """
    task, processes, network = run.task, run.processes, run.network
    parts = min(run.config.train.accumulation_steps, len(batch.images))
    remaining = parts

    def forward(images: Tensor) -> Any:
        nonlocal remaining
        remaining -= 1
        return network(images, last=remaining == 0)

    # What is drawn in the network is a function of the step: nothing to save, and the same after any restart.
    torch.manual_seed(seed_of_step(run.config.seed, state.step, processes.rank))
    sums = torch.zeros(len(task.loss.names), device=network.device)
    epoch = state.step // run.schedule.steps_per_epoch
    with lost_processes():
        for losses in task.losses(forward, batch.to(network.device), parts, epoch, state.step):
            # The processes' gradients are averaged, but the shares of the batch are to be added up.
            torch.autograd.backward(state.scaler.scale(losses["loss"] * processes.size))
            sums += torch.stack([*losses.values()]).detach()
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), run.config.optim.grad_clip_norm or math.inf)
    *values, gradient_norm = torch.cat([processes.all_reduce_sum(sums), norm[None]]).tolist()
    return dict(zip(task.loss.names, values, strict=True)), gradient_norm


def overflows(state: TrainState, losses: Figures, gradient_norm: float) -> bool:
    """Whether it is the factor of the loss that makes float16 gradients infinite; the step is to be done again then."""
    cause_is_scale = all(map(math.isfinite, losses.values())) and not math.isfinite(gradient_norm)
    return state.scaler.is_enabled() and cause_is_scale and state.scaler.get_scale() > 1


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generators in a step of a process, apart from those of samples, order and mixing."""
    return int(np.random.SeedSequence([seed, step, rank], spawn_key=(5,)).generate_state(1, np.uint64)[0])


def not_finite(run: Run, state: TrainState, batch: AnyBatch, figures: Figures) -> str:
    """Message about a step that cannot be taken: which, with what figures, on which images; leaves its bundle."""
    names = [run.task.file_name(index) for index in batch.indices]
    shown = ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
    told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
    advice = "lower optim.learning_rate or lengthen optim.warmup_epochs"
    if run.network.dtype is not None:
        advice += ", or set train.precision=fp32"
    seed = seed_of_step(run.config.seed, state.step, run.processes.rank)
    left = leave_bundle(run, state, batch, figures, seed)
    return f"step {state.step + 1}: the loss is no longer finite ({told}); images: {shown}; {left}; {advice}"


def end_epoch(run: Run, state: TrainState, evaluating: bool) -> None:
    """Saves last.pt, evaluates if asked to, and keeps best.pt; an evaluation that is cut off is made up for later."""
    state.evaluation_due = evaluation_is_due(run, state)
    if run.processes.is_main and not run.task.num_validation:  # nothing tells which is best: the newest is
        save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), run.card)
    save_last(run, state, run.card)
    if evaluating:
        card = replace(run.card, metrics=evaluate_and_keep(run, state))
        state.evaluation_due = False
        save_last(run, state, card, again=True)


def save_last(run: Run, state: TrainState, card: ModelCard, again: bool = False) -> None:
    """Saves last.pt; unless it is `again` of the same step, the one before becomes previous.pt, in case a disk damages
    the new one.
    """
    if not run.processes.is_main:
        return
    last, following = run.folder / "last.pt", run.folder / "next.pt"
    save_checkpoint(following, state.evaluated.state_dict(), card, state.state_dict())
    if last.exists() and not again:
        os.replace(last, run.folder / "previous.pt")
    os.replace(following, last)


def evaluate_and_keep(run: Run, state: TrainState) -> dict[str, float]:
    """Metrics of the weights that would be deployed now, logged and shown; best.pt is theirs if none were better."""
    processes, epoch = run.processes, epoch_of(run, state)
    processes.broadcast_buffers(state.evaluated)
    try:
        evaluator = run.task.evaluate(state.evaluated)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_in_evaluation(run.config.eval.batch_size) from None
    except WeightsError as error:
        raise TrainingError(
            f"after step {state.step}: {error}; lower optim.learning_rate or lengthen optim.warmup_epochs"
        ) from None
    train_mode(state.model, run.frozen)
    metrics = processes.broadcast(evaluator.metrics() if processes.is_main else {})
    value = metrics[run.task.metric]
    best = state.best is None or value >= state.best
    state.stale = 0 if state.best is None or value > state.best else state.stale + 1
    state.best = value if best else state.best
    if processes.is_main:
        run.log.write({"step": state.step, "epoch": epoch, "seconds": round(state.seconds, 2), **metrics})
        run.console.print(f"after epoch {epoch}:", metrics_table(metrics))
        if best:
            save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), replace(run.card, metrics=metrics))
            evaluator.write(run.folder, metrics)
        draw_curves(run.folder)
    give_back_freed_memory()
    return metrics


def log_steps(run: Run, state: TrainState, meter: Meter) -> Figures:
    """Writes the mean losses of the steps since the last record, and their speed, to the log files."""
    recent = state.recent
    images_per_second, data_wait = meter.read()
    means = {
        name: sum(figures[name] for figures in recent) / len(recent) for name in (*run.task.loss.names, "gradient_norm")
    }
    record = {
        "step": state.step,
        "epoch": epoch_of(run, state),
        "seconds": round(state.seconds, 2),
        **recent[-1],
        **means,
        "images_per_second": round(images_per_second, 3),
        "data_wait": round(data_wait, 4),
    }
    if run.processes.is_main:
        run.log.write(record)
    state.recent = []
    return record


def is_last(run: Run, state: TrainState) -> bool:
    """Whether all steps are done."""
    return state.step >= run.schedule.total_steps


def ends_epoch(run: Run, state: TrainState) -> bool:
    """Whether the newest step was the last of its epoch or of the run."""
    return state.step % run.schedule.steps_per_epoch == 0 or is_last(run, state)


def epoch_of(run: Run, state: TrainState) -> int:
    """The epoch, counted from 1, that the newest step belongs to."""
    return (state.step - 1) // run.schedule.steps_per_epoch + 1


def evaluation_is_due(run: Run, state: TrainState) -> bool:
    """Whether the recipe wants an evaluation after the newest step, which ended an epoch."""
    every = run.config.eval.every_epochs
    due = is_last(run, state) or (every > 0 and epoch_of(run, state) % every == 0)
    return due and run.task.num_validation > 0


def out_of_patience(run: Run, state: TrainState) -> bool:
    """Whether the last evaluations brought nothing better for as long as the recipe bears."""
    patience = run.config.train.patience
    return patience is not None and state.stale >= patience
