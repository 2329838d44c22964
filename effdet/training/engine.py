"""The training loop: one optimiser step, what happens when an epoch ends, and the run from first step to last.

What the loop works with is made in `run.py`; the command line is in `cli/train.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from effdet.config import ClassificationConfig, DetectionConfig
from effdet.errors import ConfigError, DataError, TrainingError
from effdet.evaluation.tables import metrics_table
from effdet.files import write_text
from effdet.training.logs import Meter, ProgressLine
from effdet.training.optim import train_mode
from effdet.training.run import Run, resume, set_up
from effdet.training.state import Figures, TrainState
from effdet.training.stopping import Ending, stop_request
from effdet.training.tasks import AnyBatch
from effdet.weights.checkpoint import ModelCard, save_checkpoint


def train(
    config: DetectionConfig | ClassificationConfig,
    folder: Path,
    device: str | None,
    resume_from: Path | None,
    console: Console,
) -> Ending:
    """Trains by a recipe; leaves config.yaml, logs, last.pt, best.pt, metrics.json and predictions.json in `folder`.

    Args:
        config: the recipe.
        folder: the run's folder.
        device: name of the device, None for the best one.
        resume_from: last.pt of an earlier run to go on from, or its folder.
        console: where progress is shown.

    Returns:
        How the run ended; if it did not come to its end, last.pt is saved to go on from.

    Raises:
        EffdetError: something that the user can mend: recipe, data, weights, or a loss that is not finite.
    """
    run, state = set_up(config, folder, device, console)
    if resume_from is not None:
        resume(resume_from, run, state)
    try:
        write_text(folder / "config.yaml", config.to_yaml())
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror}); set another output_dir") from None
    run.log.rewind(state.step)  # what a run that was killed had logged after its last checkpoint is logged again
    if state.evaluation_due:
        end_epoch(run, state, evaluating=True)
    if is_last(run, state) or out_of_patience(run, state):
        return "finished"
    try:
        return train_steps(run, state)
    except DataError:  # a file that can be mended: what was learned up to here is kept
        if state.step > 0:
            save_last(run, state, run.card)
            console.print(f"saved after step {state.step}; once the data is mended, go on with --resume {folder}")
        raise


def train_steps(run: Run, state: TrainState) -> Ending:
    """All steps that are left, unless something stops them, and how they ended."""
    train = run.config.train
    batches = run.task.batches(state.step, run.schedule.total_steps, pin_memory=run.device.type == "cuda")
    train_mode(state.model, run.frozen)
    with (
        contextlib.closing(batches),
        stop_request(train.max_hours) as stop,
        ProgressLine(run.console, run.task.loss_names, run.schedule.total_steps, state.step) as progress,
    ):
        meter = Meter(state.seconds)
        saved = time.monotonic()
        for batch in meter.waiting(batches):
            state.recent.append(train_step(run, state, batch))
            state.seconds = meter.count(len(batch.images))
            progress.advance(state.step)
            if state.step % train.log_every == 0 or is_last(run, state):
                progress.show(log_steps(run, state, meter))
            if ends_epoch(run, state):
                with meter.paused():
                    end_epoch(run, state, evaluating=evaluation_is_due(run, state) and stop.reason is None)
                saved = time.monotonic()
                if out_of_patience(run, state):
                    run.console.print(f"no better {run.task.metric} in {train.patience} evaluations; stopped early")
                    return "finished"
            elif stop.reason or (train.save_minutes and time.monotonic() - saved >= 60 * train.save_minutes):
                with meter.paused():
                    save_last(run, state, run.card)
                saved = time.monotonic()
            if stop.reason and not (is_last(run, state) and not state.evaluation_due):
                return stop.reason
    return "finished"


def train_step(run: Run, state: TrainState, batch: AnyBatch) -> Figures:
    """One optimiser step on a batch, computed in as many parts as the recipe says; the parts add up to the batch.

    Raises:
        TrainingError: the loss or its gradient is not finite; the weights are as before the step then.
    """
    task, epoch = run.task, state.step // run.schedule.steps_per_epoch
    learning_rate = run.schedule.learning_rate(state.step)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    settings = task.settings(epoch)

    def forward(images: Tensor) -> Any:
        with torch.autocast(run.device.type, run.dtype, enabled=run.dtype is not None):
            return state.model(images)

    sums = torch.zeros(len(task.loss_names), device=run.device)
    for losses in task.losses(forward, batch.to(run.device), run.config.train.accumulate, epoch, state.step):
        torch.autograd.backward(losses[0])
        sums += torch.stack(losses).detach()
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), run.config.optim.clip_norm or math.inf)
    *values, gradient_norm = torch.cat([sums, norm[None]]).tolist()
    figures = {
        "learning_rate": learning_rate,
        **dict(zip(task.loss_names, values, strict=True)),
        "gradient_norm": gradient_norm,
        **settings,
    }
    if not all(map(math.isfinite, figures.values())):
        raise TrainingError(not_finite(run, state, batch, figures))
    state.optimizer.step()
    state.optimizer.zero_grad()
    if state.average is not None:
        state.average.update(state.model, state.step)
    state.step += 1
    return figures


def not_finite(run: Run, state: TrainState, batch: AnyBatch, figures: Figures) -> str:
    """Message about a step that cannot be taken: which, with what figures, on which images."""
    names = [run.task.file_name(index) for index in batch.indices]
    shown = ", ".join(names[:16]) + (f" and {len(names) - 16} more" if len(names) > 16 else "")
    told = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
    return (
        f"step {state.step + 1}: the loss is no longer finite ({told}); images: {shown}; "
        "lower optim.learning_rate, lengthen optim.warmup_epochs or set train.precision=fp32"
    )


def end_epoch(run: Run, state: TrainState, evaluating: bool) -> None:
    """Evaluates if asked to, keeps best.pt, and saves last.pt, even if the evaluation is interrupted."""
    card = run.card
    state.evaluation_due = evaluation_is_due(run, state)
    try:
        if evaluating:
            card = replace(card, metrics=evaluate_and_keep(run, state))
            state.evaluation_due = False
        elif not run.task.num_validation:  # nothing tells which is best: the newest is
            save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), card)
    finally:
        save_last(run, state, card)


def save_last(run: Run, state: TrainState, card: ModelCard) -> None:
    """Saves last.pt; the one before it becomes previous.pt, in case a disk damages the new one."""
    last, following = run.folder / "last.pt", run.folder / "next.pt"
    save_checkpoint(following, state.evaluated.state_dict(), card, state.state_dict())
    if last.exists():
        os.replace(last, run.folder / "previous.pt")
    os.replace(following, last)


def evaluate_and_keep(run: Run, state: TrainState) -> dict[str, float]:
    """Metrics of the weights that would be deployed now, logged and shown; best.pt is theirs if none were better."""
    evaluator = run.task.evaluate(state.evaluated)
    train_mode(state.model, run.frozen)
    metrics = evaluator.metrics()
    epoch = epoch_of(run, state)
    run.log.write({"step": state.step, "epoch": epoch, "seconds": round(state.seconds, 2), **metrics})
    run.console.print(f"after epoch {epoch}:", metrics_table(metrics))
    better = state.best is None or metrics[run.task.metric] > state.best
    state.stale = 0 if better else state.stale + 1
    if state.best is None or metrics[run.task.metric] >= state.best:
        state.best = metrics[run.task.metric]
        save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), replace(run.card, metrics=metrics))
        evaluator.write(run.folder, metrics)
    return metrics


def log_steps(run: Run, state: TrainState, meter: Meter) -> Figures:
    """Writes the mean losses of the steps since the last record, and their speed, to the log files."""
    recent = state.recent
    images_per_second, data_wait = meter.read()
    means = {
        name: sum(figures[name] for figures in recent) / len(recent) for name in (*run.task.loss_names, "gradient_norm")
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
