"""What happens when an epoch ends: last.pt, the evaluation, and best.pt; and where in its epochs a run is.

The loop over the steps is in `engine.py`.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

from effdet.devices import give_back_freed_memory
from effdet.errors import TrainingError, WeightsError
from effdet.evaluation.tables import metrics_table
from effdet.report.curves import draw_curves
from effdet.text import count_of
from effdet.training.debug.out_of_memory import evaluation_out_of_memory_error, is_out_of_memory
from effdet.training.optim import train_mode
from effdet.training.records.progress import duration_text
from effdet.training.setup import Run
from effdet.training.state import TrainState
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint


def check_folder(folder: Path) -> None:
    """Does nothing if the folder of a run is where it was; else a second one would be begun in its place.

    Raises:
        TrainingError: it was moved or removed.
    """
    if not folder.is_dir():
        raise TrainingError(
            f"{folder}: the folder of the run was moved or removed; move it back, and leave it there until the run ends"
        )


def end_epoch(run: Run, state: TrainState, evaluating: bool) -> None:
    """Saves last.pt, evaluates if asked to, and keeps best.pt; an evaluation that is skipped is made after a resume."""
    state.evaluation_due = evaluation_is_due(run, state)
    if run.processes.is_main and not run.task.data.num_validation:  # nothing says which weights are best
        check_folder(run.folder)
        save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), run.card)
    save_last(run, state, run.card)
    if evaluating:
        card = evaluate_and_keep(run, state)
        state.evaluation_due = False
        save_last(run, state, card, again=True)


def save_last(run: Run, state: TrainState, card: ModelCard, again: bool = False) -> None:
    """Saves last.pt. The one before becomes previous.pt, for the case that a disk damages the new one.

    Args:
        run: the run.
        state: what is saved.
        card: describes the weights.
        again: whether last.pt is of the same step already and previous.pt stays.

    Raises:
        TrainingError: the folder of the run is gone.
    """
    if not run.processes.is_main:
        return
    check_folder(run.folder)
    last, following = run.folder / "last.pt", run.folder / "next.pt"
    save_checkpoint(following, state.evaluated.state_dict(), card, state.state_dict())
    if last.exists() and not again:
        os.replace(last, run.folder / "previous.pt")
    os.replace(following, last)
    state.saved_step = state.step


def evaluate_and_keep(run: Run, state: TrainState) -> ModelCard:
    """The card of the weights that would be deployed now, with their metrics, which are logged and printed.

    best.pt gets these weights if none were better. In other processes than the main one the card has only metrics.
    """
    processes, epoch = run.processes, epoch_of(run, state)
    before = f", about {duration_text(run.evaluation_seconds[-1], rough=True)}" if run.evaluation_seconds else ""
    run.console.print(f"evaluating {count_of(run.task.data.num_validation, 'image')} after epoch {epoch}{before}")
    started = time.perf_counter()
    processes.broadcast_buffers(state.evaluated)
    try:
        evaluator = run.task.evaluate(state.evaluated)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise evaluation_out_of_memory_error(run.config.eval.batch_size) from None
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
    card = replace(run.card, metrics=metrics)
    if processes.is_main:
        check_folder(run.folder)
        card = replace(card, **evaluator.card_values())
        run.log.write({"step": state.step, "epoch": epoch, "seconds": round(state.seconds, 2), **metrics})
        run.console.print(f"after epoch {epoch}:", metrics_table(metrics, evaluator.settings))
        for note in evaluator.notes(metrics):
            run.console.print(note, style="yellow")
        if best:
            save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), card)
            evaluator.write(run.folder, metrics, str(run.folder / "best.pt"))
        draw_curves(run.folder)
    give_back_freed_memory()
    run.evaluation_seconds.append(time.perf_counter() - started)
    return card


def is_last(run: Run, state: TrainState) -> bool:
    """Whether all steps are done."""
    return state.step >= run.schedule.total_steps


def ends_epoch(run: Run, state: TrainState) -> bool:
    """Whether the newest step was the last of its epoch or of the run."""
    return state.step % run.schedule.steps_per_epoch == 0 or is_last(run, state)


def epoch_of(run: Run, state: TrainState) -> int:
    """The epoch of the newest step, counted from 1."""
    return (state.step - 1) // run.schedule.steps_per_epoch + 1


def evaluations_left(run: Run, step: int) -> int:
    """How many evaluations follow after a step, if no early stopping ends the run before."""
    if not run.task.data.num_validation:
        return 0
    every, last = run.config.eval.every_epochs * run.schedule.steps_per_epoch, run.schedule.total_steps
    before_last = (last - 1) // every - step // every if every else 0
    return max(before_last, 0) + (step < last)


def evaluation_is_due(run: Run, state: TrainState) -> bool:
    """Whether the recipe wants an evaluation after the newest step, which ended an epoch."""
    every = run.config.eval.every_epochs
    due = is_last(run, state) or (every > 0 and epoch_of(run, state) % every == 0)
    return due and run.task.data.num_validation > 0


def out_of_patience(run: Run, state: TrainState) -> bool:
    """Whether the metric has not improved for as many evaluations as the recipe allows."""
    patience = run.config.train.patience
    return patience is not None and state.stale >= patience
