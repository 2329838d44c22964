"""The training loop: the run from its first step to its last.

One optimizer step is in `step.py`, the end of an epoch in `epoch.py`; what the loop works with is built in `setup.py`.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from effdet.config import Config
from effdet.data.damage import all_damaged_named
from effdet.data.loader import Prefetch
from effdet.data.validation_list import with_saved_list, write_validation_list
from effdet.distributed import SINGLE, Processes
from effdet.errors import ConfigError, DataError, EffdetError
from effdet.evaluation.run_report import ANALYSIS, write_run_report
from effdet.files import write_text
from effdet.text import count_of
from effdet.training.debug.out_of_memory import is_out_of_memory, out_of_memory_error
from effdet.training.ending import Start, ending_lines, saved_line
from effdet.training.epoch import (
    end_epoch,
    ends_epoch,
    epoch_of,
    evaluation_is_due,
    evaluations_left,
    is_last,
    out_of_patience,
    save_last,
)
from effdet.training.optim import train_mode
from effdet.training.records.logs import Meter, data_wait_advice, usable_cores
from effdet.training.records.manifest import write_manifest
from effdet.training.records.progress import ProgressBar
from effdet.training.records.trackers import open_trackers
from effdet.training.resume import resume
from effdet.training.setup import Run, set_up
from effdet.training.state import TrainState
from effdet.training.step import finish_step, prepare, reduce_losses, start_step
from effdet.training.stopping import Ending, StopRequest, stop_request
from effdet.training.tasks import MicroBatch

SCAN_SECONDS = 20.0  # for naming all damaged images, before torchrun kills a process because another has ended


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
    started = time.perf_counter()
    if resume_from is not None:
        config = with_saved_list(config, folder)
    run, state = set_up(config, folder, device, console, processes)
    if resume_from is not None:
        resume(resume_from, run, state)
    start = Start(started, state.step, state.seconds)
    if processes.is_main:
        start_log(run, state, resumed=resume_from is not None)
    to = config.log.trackers if processes.is_main else ()
    try:
        with open_trackers(to, config.log.project, folder, config.to_dict(), state.step, console) as run.log.trackers:
            ending = go_on(run, state)
    except (EffdetError, OSError, RuntimeError, MemoryError, KeyboardInterrupt) as error:
        line = saved_line(run, state, is_fault=not isinstance(error, KeyboardInterrupt))
        if line is not None:
            console.print(line)
        raise
    if processes.is_main:
        if ending == "finished" and (run.folder / ANALYSIS).exists():
            write_run_report(run.folder, run.task.data.val_table)
        for line in ending_lines(run, state, ending, start):
            console.print(line)
    return ending


def start_log(run: Run, state: TrainState, resumed: bool) -> None:
    """Writes the recipe, brings the log to the state of the run, and adds an entry to the manifest.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        write_text(run.folder / "config.yaml", run.config.to_yaml())
        if run.task.data.tables.split_off:
            write_validation_list(run.folder, run.task.data.val_table)
        # What a killed run had logged after its last checkpoint is logged again.
        run.log.rewind(state.step, evaluated=not state.evaluation_due)
        write_manifest(
            run.folder,
            device=run.network.device,
            processes=run.processes.size,
            seed=run.config.seed,
            resumed_after=state.step if resumed else None,
            fingerprints=state.data["fingerprints"],
        )
    except OSError as error:
        raise ConfigError(f"{run.folder}: cannot be written ({error.strerror}); set another output_dir") from None


def go_on(run: Run, state: TrainState) -> Ending:
    """Does what is left of a run, starting with an evaluation that is still due, and gives how it ended."""
    if state.evaluation_due:
        with damage_named(run):
            # The recipe may have dropped the validation.
            end_epoch(run, state, evaluating=run.task.data.num_validation > 0)
    if is_last(run, state) or out_of_patience(run, state):
        return "finished"
    # torchrun sends SIGTERM while the main process still saves, or while another looks for damaged images.
    with stop_request(run.config.train.max_hours) as stop, damage_named(run):
        try:
            return train_steps(run, state, stop)
        except DataError:  # the user can fix a file or a disk: what was learned so far is kept
            if state.saved_step != state.step > 0:
                with contextlib.suppress(OSError):  # the disk may be the cause
                    save_last(run, state, run.card)
            raise


def damage_named(run: Run) -> contextlib.AbstractContextManager[None]:
    """A context whose error about a damaged image names all damaged images of the data set."""
    data = run.task.data
    tables = [data.train_table, *([data.val_table] if data.num_validation else [])]
    limit = None if run.processes.size == 1 else SCAN_SECONDS
    return all_damaged_named(tables, run.config.data.root, run.folder, run.console.print, limit)


def train_steps(run: Run, state: TrainState, stop: StopRequest) -> Ending:
    """Computes the steps that are left, unless something stops them, and gives how they ended."""
    train, device = run.config.train, run.network.device
    loaded = run.task.data.batches(state.step, run.schedule.total_steps, device.type == "cuda")
    batches = Prefetch(stop.batches(loaded), device, run.task.prepare, state.step)
    train_mode(state.model, run.frozen)
    with (
        contextlib.closing(batches),
        make_progress_bar(run, state) as progress,
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
            if computed and state.recent and progress.is_due():  # all processes know the losses of the step before
                progress.show(mean_record(run, state, *meter.peek()))
            with memory_explained(run, micro_batches):
                started = start_step(run, state, micro_batches)
                waited = batches.fetch()
                meter.add_wait(min(waited, started.results.idle_seconds()))
                state.recent.append(finish_step(run, state, started))
            state.unreduced = run.processes.size > 1
            computed = True
            state.seconds = meter.count(sum(len(one.images) for one in micro_batches) * run.processes.size)
            progress.advance(state.step, epoch_of(run, state), state.seconds)
            if state.step % train.log_every == 0 or is_last(run, state):
                reduce_losses(run, state)
                progress.show_record(log_steps(run, state, meter))
            if ends_epoch(run, state):
                with meter.paused():
                    ending = finish_epoch(run, state, stop)
                if ending is not None:
                    return ending
                saved = time.monotonic()
    return "finished"


def make_progress_bar(run: Run, state: TrainState) -> ProgressBar:
    """The progress bar of a run, from its newest step on."""
    cores, data = max(usable_cores() // run.processes.local_size, 1), run.config.data
    return ProgressBar(
        run.console,
        run.task.criterion.term_weights,
        run.schedule.total_steps,
        math.ceil(run.schedule.total_steps / run.schedule.steps_per_epoch),
        state.step,
        run.evaluation_seconds,
        functools.partial(evaluations_left, run),
        functools.partial(data_wait_advice, workers=data.workers, cores=cores, cache=data.cache),
    )


def with_error_as_last(batches: Iterator[Any]) -> Iterator[Any]:
    """The batches; a DataError that ends them comes as their last item, so that all processes hear of it in a step."""
    try:
        yield from batches
    except DataError as error:
        yield error


@contextlib.contextmanager
def memory_explained(run: Run, micro_batches: list[MicroBatch]) -> Iterator[None]:
    """A context of a step; if memory runs out, the error says how large the forward pass was and what to change."""
    try:
        yield
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
    if run.graph is not None:
        run.graph.make_space()
    end_epoch(run, state, evaluating=evaluation_is_due(run, state) and reason is None)
    reason = stop.agreed(run.processes)
    patience = run.config.train.patience
    if patience is not None and out_of_patience(run, state):
        run.console.print(f"early stopping: {run.task.metric} did not improve in {count_of(patience, 'evaluation')}")
        return "finished"
    if reason and not (is_last(run, state) and not state.evaluation_due):
        return reason
    return None


def log_steps(run: Run, state: TrainState, meter: Meter) -> dict[str, float]:
    """Writes the mean losses of the steps since the last record, and their speed, to the log files."""
    record = mean_record(run, state, *meter.read())
    if run.processes.is_main:
        run.log.write(record)
    state.recent = []
    return record


def mean_record(run: Run, state: TrainState, images_per_second: float, data_wait: float) -> dict[str, float]:
    """The mean losses of the steps since the last record of the log, with the newest settings."""
    recent = state.recent
    names = (*run.task.criterion.names, "gradient_norm")
    return {
        "step": state.step,
        "epoch": epoch_of(run, state),
        "seconds": round(state.seconds, 2),
        **recent[-1],
        **{name: sum(metrics[name] for metrics in recent) / len(recent) for name in names},
        "images_per_second": round(images_per_second, 3),
        "data_wait": round(data_wait, 4),
    }
