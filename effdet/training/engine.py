"""The training loop: one optimiser step, what happens when an epoch ends, and the run from first step to last.

What the loop works with is made in `run.py`; the command line is in `cli/train.py`.
"""

from __future__ import annotations

import contextlib
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
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
from effdet.training.state import TrainState
from effdet.training.tasks import AnyBatch
from effdet.weights.checkpoint import save_checkpoint

Figures = dict[str, float]  # what one optimiser step tells


def train(
    config: DetectionConfig | ClassificationConfig,
    folder: Path,
    device: str | None,
    resume_from: Path | None,
    console: Console,
) -> bool:
    """Trains by a recipe; leaves config.yaml, logs, last.pt, best.pt, metrics.json and predictions.json in `folder`.

    Args:
        config: the recipe.
        folder: the run's folder.
        device: name of the device, None for the best one.
        resume_from: last.pt of an earlier run to go on from, or its folder.
        console: where progress is shown.

    Returns:
        Whether the run came to its end; False after Ctrl-C, with last.pt saved.

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
    if is_last(run, state):  # resumed after the last step: all that may lack is its evaluation
        end_epoch(run, state, evaluation_is_due(run, state))
        return True
    try:
        return train_steps(run, state)
    except DataError:  # a file that can be mended: what was learned up to here is kept
        if state.step > 0:
            end_epoch(run, state, evaluating=False)
            console.print(f"saved after step {state.step}; once the data is mended, go on with --resume {folder}")
        raise


def train_steps(run: Run, state: TrainState) -> bool:
    """All steps that are left; whether the run came to its end, or was stopped by Ctrl-C and saved."""
    train = run.config.train
    batches = run.task.batches(state.step, run.schedule.total_steps, pin_memory=run.device.type == "cuda")
    train_mode(state.model, run.frozen)
    with (
        contextlib.closing(batches),
        stop_request() as stop,
        ProgressLine(run.console, run.task.loss_names, run.schedule.total_steps, state.step) as progress,
    ):
        meter = Meter(state.seconds)
        recent: list[Figures] = []
        for batch in meter.waiting(batches):
            recent.append(train_step(run, state, batch))
            state.seconds = meter.count(len(batch.images))
            progress.advance(state.step)
            if state.step % train.log_every == 0 or is_last(run, state):
                progress.show(log_steps(run, state, recent, meter))
                recent.clear()
            if stop.is_set() or ends_epoch(run, state):
                evaluating = evaluation_is_due(run, state) and not stop.is_set()
                with meter.paused():
                    end_epoch(run, state, evaluating)
                if stop.is_set():
                    return is_last(run, state) and (evaluating or not run.task.num_validation)
    return True


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
    try:
        if evaluating:
            card = replace(card, metrics=evaluate_and_keep(run, state))
        elif not run.task.num_validation:  # nothing tells which is best: the newest is
            save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), card)
    finally:
        save_checkpoint(run.folder / "last.pt", state.evaluated.state_dict(), card, state.state_dict())


def evaluate_and_keep(run: Run, state: TrainState) -> dict[str, float]:
    """Metrics of the weights that would be deployed now, logged and shown; best.pt is theirs if none were better."""
    evaluator = run.task.evaluate(state.evaluated)
    train_mode(state.model, run.frozen)
    metrics = evaluator.metrics()
    epoch = epoch_of(run, state)
    run.log.write({"step": state.step, "epoch": epoch, "seconds": round(state.seconds, 2), **metrics})
    run.console.print(f"after epoch {epoch}:", metrics_table(metrics))
    if state.best is None or metrics[run.task.metric] >= state.best:
        state.best = metrics[run.task.metric]
        save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), replace(run.card, metrics=metrics))
        evaluator.write(run.folder, metrics)
    return metrics


def log_steps(run: Run, state: TrainState, recent: Sequence[Figures], meter: Meter) -> Figures:
    """Writes the mean losses of the steps since the last record, and their speed, to the log files."""
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


class StopRequest:
    """Whether Ctrl-C was pressed."""

    def __init__(self) -> None:
        self._pressed = False

    def is_set(self) -> bool:
        """True once Ctrl-C was pressed."""
        return self._pressed

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Notes the first Ctrl-C, so that the step in hand is finished and saved; the second one interrupts at once."""
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True


@contextlib.contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turns Ctrl-C into a request for as long as the context lasts."""
    request = StopRequest()
    before = signal.signal(signal.SIGINT, request.handle)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, before)
