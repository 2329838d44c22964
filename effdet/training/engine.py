"""The training loop: the run from its first step to its last, and what happens when an epoch ends.

One optimizer step is in `step.py`; what the loop works with is built in `setup.py`; the command line is `cli/train.py`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from effdet.config import Config
from effdet.data.loader import prefetch_to_device
from effdet.devices import give_back_freed_memory
from effdet.distributed import SINGLE, Processes
from effdet.errors import ConfigError, DataError, TrainingError, WeightsError
from effdet.evaluation.tables import metrics_table
from effdet.files import write_text
from effdet.report.curves import draw_curves
from effdet.training.debug.out_of_memory import evaluation_out_of_memory_error, is_out_of_memory, out_of_memory_error
from effdet.training.optim import train_mode
from effdet.training.records.logs import Meter, ProgressBar, data_wait_advice, usable_cores
from effdet.training.records.manifest import write_manifest
from effdet.training.records.trackers import open_trackers
from effdet.training.resume import resume
from effdet.training.setup import Run, set_up
from effdet.training.state import TrainState
from effdet.training.step import prepare, reduce_losses, train_step
from effdet.training.stopping import Ending, StopRequest, stop_request
from effdet.training.tasks import MicroBatch
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint


def train(
    config: Config,
    folder: Path,
    device: str | None,
    resume_from: Path | None,
    console: Console,
    processes: Processes = SINGLE,
) -> Ending:
    """Trains by a recipe; writes config.yaml, logs, last.pt, best.pt, metrics.json and predictions.json to `folder`.

    Args:
        config: the recipe.
        folder: the run's folder.
        device: name of the device; None for the best one.
        resume_from: last.pt of an earlier run to continue, or its folder.
        console: where progress is printed.
        processes: the processes that train together; the main one writes.

    Returns:
        How the run ended; if not "finished", last.pt is there to continue from.

    Raises:
        EffdetError: something that the user can fix: recipe, data, weights, or a loss of NaN or Inf.
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
    to = config.log.trackers if processes.is_main else ()
    with open_trackers(to, config.log.project, folder, config.to_dict(), state.step, console) as run.log.trackers:
        return go_on(run, state)


def go_on(run: Run, state: TrainState) -> Ending:
    """Does what is left of a run, starting with an evaluation that is still due, and gives how it ended."""
    if state.evaluation_due:
        end_epoch(run, state, evaluating=run.task.data.num_validation > 0)  # the recipe may have dropped validation
    if is_last(run, state) or out_of_patience(run, state):
        run.console.print(f"nothing is left to do: {state.step} of {run.schedule.total_steps} steps are done")
        return "finished"
    with stop_request(run.config.train.max_hours) as stop:  # torchrun sends SIGTERM while the main process still saves
        try:
            return train_steps(run, state, stop)
        except DataError:  # the user can fix a file: what was learned so far is kept
            if state.step > 0:
                save_last(run, state, run.card)
                run.console.print(
                    f"saved after step {state.step}; fix the data, then continue with --resume {run.folder}"
                )
            raise


def train_steps(run: Run, state: TrainState, stop: StopRequest) -> Ending:
    """Computes the steps that are left, unless something stops them, and gives how they ended."""
    train, device = run.config.train, run.network.device
    batches = prefetch_to_device(
        run.task.data.batches(state.step, run.schedule.total_steps, device.type == "cuda"), device
    )
    train_mode(state.model, run.frozen)
    cores = max(usable_cores() // run.processes.local_size, 1)
    advise = functools.partial(
        data_wait_advice, workers=run.config.data.workers, cores=cores, cache=run.config.data.cache
    )
    with (
        contextlib.closing(batches),
        ProgressBar(run.console, run.task.criterion.names, run.schedule.total_steps, state.step, advise) as progress,
    ):
        meter = Meter(state.seconds)
        saved = time.monotonic()
        computed = False  # at least one step is, or a short time limit would never get anywhere
        for batch in meter.time_loading(with_error_as_last(batches)):
            micro_batches, reason = prepare(run, state, batch, stop.reason if computed else None)
            minutes = (time.monotonic() - saved) / 60
            if reason or (computed and train.save_every_minutes and minutes >= train.save_every_minutes):
                with meter.paused():
                    save_last(run, state, run.card)
                saved = time.monotonic()
            if reason:
                return reason
            state.recent.append(step_in_memory(run, state, micro_batches))
            state.unreduced = run.processes.size > 1
            computed = True
            state.seconds = meter.count(len(batch.images) * run.processes.size)
            progress.advance(state.step)
            if state.step % train.log_every == 0 or is_last(run, state):
                reduce_losses(run, state)
                progress.show(log_steps(run, state, meter))
            if ends_epoch(run, state):
                with meter.paused():
                    ending = finish_epoch(run, state, stop)
                if ending is not None:
                    return ending
                saved = time.monotonic()
    return "finished"


def with_error_as_last(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; a DataError that ends them comes as their last item, so that all processes hear of it in a step."""
    try:
        yield from batches
    except DataError as error:
        yield error


def step_in_memory(run: Run, state: TrainState, micro_batches: list[MicroBatch]) -> dict[str, float]:
    """A step; if memory runs out, the error says how large the forward pass was and what to change."""
    try:
        return train_step(run, state, micro_batches)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        images = micro_batches[0].images
        count = sum(len(micro_batch.images) for micro_batch in micro_batches)
        height, width = images.shape[-2:]
        raise out_of_memory_error(run.config.train, count, (height, width), run.network.dtype) from None


def finish_epoch(run: Run, state: TrainState, stop: StopRequest) -> Ending | None:
    """Ends an epoch, with an evaluation unless a process was asked to stop; gives how the run ends if it ends now."""
    reduce_losses(run, state)
    reason = stop.agreed(run.processes)
    end_epoch(run, state, evaluating=evaluation_is_due(run, state) and reason is None)
    reason = stop.agreed(run.processes)
    patience = run.config.train.patience
    if out_of_patience(run, state):
        run.console.print(f"early stopping: {run.task.metric} did not improve in {patience} evaluations")
        return "finished"
    if reason and not (is_last(run, state) and not state.evaluation_due):
        return reason
    return None


def end_epoch(run: Run, state: TrainState, evaluating: bool) -> None:
    """Saves last.pt, evaluates if asked to, and keeps best.pt; an evaluation that is skipped is made after a resume."""
    state.evaluation_due = evaluation_is_due(run, state)
    if run.processes.is_main and not run.task.data.num_validation:  # nothing says which weights are best
        save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), run.card)
    save_last(run, state, run.card)
    if evaluating:
        card = replace(run.card, metrics=evaluate_and_keep(run, state))
        state.evaluation_due = False
        save_last(run, state, card, again=True)


def save_last(run: Run, state: TrainState, card: ModelCard, again: bool = False) -> None:
    """Saves last.pt. The one before becomes previous.pt, for the case that a disk damages the new one.

    Args:
        run: the run.
        state: what is saved.
        card: describes the weights.
        again: whether last.pt is of the same step already and previous.pt stays.
    """
    if not run.processes.is_main:
        return
    last, following = run.folder / "last.pt", run.folder / "next.pt"
    save_checkpoint(following, state.evaluated.state_dict(), card, state.state_dict())
    if last.exists() and not again:
        os.replace(last, run.folder / "previous.pt")
    os.replace(following, last)


def evaluate_and_keep(run: Run, state: TrainState) -> dict[str, float]:
    """Metrics of the weights that would be deployed now, logged and printed; best.pt gets them if none were better."""
    processes, epoch = run.processes, epoch_of(run, state)
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
    if processes.is_main:
        run.log.write({"step": state.step, "epoch": epoch, "seconds": round(state.seconds, 2), **metrics})
        run.console.print(f"after epoch {epoch}:", metrics_table(metrics))
        if best:
            save_checkpoint(run.folder / "best.pt", state.evaluated.state_dict(), replace(run.card, metrics=metrics))
            evaluator.write(run.folder, metrics)
        draw_curves(run.folder)
    give_back_freed_memory()
    return metrics


def log_steps(run: Run, state: TrainState, meter: Meter) -> dict[str, float]:
    """Writes the mean losses of the steps since the last record, and their speed, to the log files."""
    recent = state.recent
    images_per_second, data_wait = meter.read()
    names = (*run.task.criterion.names, "gradient_norm")
    record = {
        "step": state.step,
        "epoch": epoch_of(run, state),
        "seconds": round(state.seconds, 2),
        **recent[-1],
        **{name: sum(metrics[name] for metrics in recent) / len(recent) for name in names},
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
    """The epoch of the newest step, counted from 1."""
    return (state.step - 1) // run.schedule.steps_per_epoch + 1


def evaluation_is_due(run: Run, state: TrainState) -> bool:
    """Whether the recipe wants an evaluation after the newest step, which ended an epoch."""
    every = run.config.eval.every_epochs
    due = is_last(run, state) or (every > 0 and epoch_of(run, state) % every == 0)
    return due and run.task.data.num_validation > 0


def out_of_patience(run: Run, state: TrainState) -> bool:
    """Whether the metric has not improved for as many evaluations as the recipe allows."""
    patience = run.config.train.patience
    return patience is not None and state.stale >= patience
