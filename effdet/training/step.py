"""One optimizer step: prepare micro-batches, forward, loss, backward, clip, step, average.

The loop over the steps, with logging, saving and evaluating, is in `engine.py`. What a batch means is the task's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effdet.distributed import explain_lost_process
from effdet.errors import DataError, TrainingError
from effdet.training.debug.checks import check_first_loss
from effdet.training.debug.dump_step import dump_step
from effdet.training.optim import set_learning_rate
from effdet.training.results import Results
from effdet.training.setup import Run
from effdet.training.state import TrainState
from effdet.training.stopping import REASONS, Ending
from effdet.training.tasks import MicroBatch

SHOWN_FILES = 16  # in the message about a loss of NaN or Inf


def prepare(
    run: Run, state: TrainState, batch: Any, asked: Ending | None = None
) -> tuple[list[MicroBatch], Ending | None]:
    """The micro-batches of this process for the next step, normalized over all processes.

    Everything that a step must know globally goes through one all-reduce of a few numbers in host memory: the count for
    the normalizer, whether a process cannot read its data, whether one was asked to stop, and the losses of the step
    before, for the log.

    Args:
        run: the run.
        state: before the step.
        batch: the batch of this process, its micro-batches if the task has prepared them already, or the DataError
            because of which there is none.
        asked: why this process was asked to stop; None if it was not.

    Returns:
        The micro-batches, and why all processes should stop instead of computing them; None if they should not.

    Raises:
        DataError: this process or another cannot read its images; no process waits for another then.
    """
    failed = isinstance(batch, DataError)
    prepared = failed or isinstance(batch, list)
    micro_batches = ([] if failed else batch) if prepared else run.task.prepare(batch, state.step)
    count = sum(micro_batch.count for micro_batch in micro_batches)
    votes = [asked == reason for reason in REASONS]
    numbers = torch.tensor([count, failed, *votes, *local_losses(run, state)], dtype=torch.float64)
    count, failures, *sums = run.processes.all_reduce_sum(numbers).tolist()
    store_losses(run, state, sums[len(votes) :])
    if failures:
        raise batch if failed else DataError("another process cannot read its images; its own message says why")
    reason = next((reason for reason, number in zip(REASONS, sums, strict=False) if number), None)
    normalizer = run.task.normalizer(int(count), state.step)
    return [replace(micro_batch, normalizer=normalizer) for micro_batch in micro_batches], reason


@dataclass(frozen=True)
class StartedStep:
    """A step whose losses are not known yet. A GPU may still compute it.

    Attributes:
        micro_batches: of this process.
        learning_rate: of the step.
        settings: what else holds in the epoch.
        results: its losses and gradient norm, on their way to host memory.
        stepped: whether the optimizer step is queued too; it does nothing if a result is NaN or Inf.
        averaged: whether the update of the EMA is queued too; training stops if a result is NaN or Inf.
    """

    micro_batches: Sequence[MicroBatch]
    learning_rate: float
    settings: Mapping[str, float]
    results: Results
    stepped: bool
    averaged: bool


def train_step(run: Run, state: TrainState, micro_batches: Sequence[MicroBatch]) -> dict[str, float]:
    """One optimizer step: `start_step` and `finish_step`, whose results and errors it has."""
    return finish_step(run, state, start_step(run, state, micro_batches))


def start_step(run: Run, state: TrainState, micro_batches: Sequence[MicroBatch]) -> StartedStep:
    """Begins an optimizer step; over several processes each computes its own micro-batches.

    A GPU is not waited for: it computes while the next batch is loaded.
    """
    learning_rate = run.schedule.learning_rate(state.step)
    set_learning_rate(state.optimizer, learning_rate)
    settings = run.task.settings(state.step // run.schedule.steps_per_epoch)
    results = Results(run.network.device)
    numbers = queue_gradients(run, state, micro_batches)
    results.send(numbers)  # while they are read and the next step is prepared, a GPU still does what follows here
    stepped = checks_on_device(run, state)
    averaged = stepped and not state.scaler.is_enabled()  # else the step may be repeated
    if stepped:
        step_if_finite(state.optimizer, numbers)
    if averaged and state.ema is not None:
        state.ema.update(state.model, state.step)
    return StartedStep(micro_batches, learning_rate, settings, results, stepped, averaged)


def finish_step(run: Run, state: TrainState, started: StartedStep) -> dict[str, float]:
    """Waits for a step, checks it, and completes it.

    Returns:
        Learning rate, losses of this process, gradient norm over all processes, and what else holds in the epoch.

    Raises:
        TrainingError: loss or gradient is NaN or Inf, or the first loss is not that of an untrained head. The weights
            are those before the step then.
    """
    micro_batches, learning_rate, settings = started.micro_batches, started.learning_rate, started.settings
    losses, gradient_norm = named_results(run, started.results)
    stepped = started.stepped
    while not all(map(math.isfinite, (*losses.values(), gradient_norm))):
        # The gradient norm is the same in all processes, so all of them get here and agree on what to do.
        sums = run.processes.all_reduce_sum(torch.tensor([*losses.values()], dtype=torch.float64)).tolist()
        losses = dict(zip(losses, sums, strict=True))
        if not loss_scale_overflows(state, losses, gradient_norm):
            metrics = {"learning_rate": learning_rate, **losses, "gradient_norm": gradient_norm, **settings}
            raise TrainingError(not_finite(run, state, micro_batches, metrics))
        state.scaler.update()
        state.optimizer.zero_grad()
        losses, gradient_norm = compute_gradients(run, state, micro_batches)
        stepped = False
    if state.step == 0:
        check_untrained(run, micro_batches, losses)
    if not stepped:
        state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    if state.ema is not None and not started.averaged:
        state.ema.update(state.model, state.step)
    state.step += 1
    return {"learning_rate": learning_rate, **losses, "gradient_norm": gradient_norm, **settings}


def compute_gradients(
    run: Run, state: TrainState, micro_batches: Sequence[MicroBatch]
) -> tuple[dict[str, float], float]:
    """Puts the clipped gradients of a step into the model; gives the losses of this process and the gradient norm."""
    results = Results(run.network.device)
    results.send(queue_gradients(run, state, micro_batches))
    return named_results(run, results)


def queue_gradients(run: Run, state: TrainState, micro_batches: Sequence[MicroBatch]) -> Tensor:
    """Puts the clipped gradients of a step into the model, without waiting for a GPU.

    The gradients of the micro-batches add up, as do those of the processes.

    Returns:
        The losses of this process in their order, and the gradient norm.
    """
    # The random numbers of the network are a function of the step: nothing to save, and the same after any restart.
    torch.manual_seed(seed_of_step(run.config.seed, state.step, run.processes.rank))
    sums = torch.zeros(len(run.task.criterion.names), device=run.network.device)
    with explain_lost_process():
        for number, micro_batch in enumerate(micro_batches, start=1):
            compute = functools.partial(backward, run, state, number == len(micro_batches))
            sums += compute(micro_batch) if run.graph is None else run.graph.backward(compute, micro_batch)
    state.scaler.unscale_(state.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), run.config.optim.grad_clip_norm or math.inf)
    return torch.cat([sums, norm[None]])


def backward(run: Run, state: TrainState, last: bool, micro_batch: MicroBatch) -> Tensor:
    """Adds the gradients of a micro-batch to those in the model; gives its losses in their order.

    Args:
        run: the run.
        state: before the step.
        last: whether it is the last micro-batch of the step.
        micro_batch: what is computed.
    """
    losses = run.task.loss(run.network(micro_batch.images, last=last), micro_batch)
    total = state.scaler.scale(losses["loss"] * run.processes.size)  # DDP averages over the processes
    torch.autograd.backward(total, 0 * total.detach() + 1)  # a NaN or Inf loss is NaN in all gradients
    return torch.stack([*losses.values()]).detach()


def named_results(run: Run, results: Results) -> tuple[dict[str, float], float]:
    """Losses by name, and the gradient norm; waits for a GPU."""
    *values, gradient_norm = results.read()
    return dict(zip(run.task.criterion.names, values, strict=True)), gradient_norm


def checks_on_device(run: Run, state: TrainState) -> bool:
    """Whether the optimizer step can be queued before the losses are known: a GPU skips it if one is NaN.

    The first step may not: its loss is checked against that of an untrained head, and a step that does nothing would
    leave the new momentum without values.
    """
    fused = getattr(state.optimizer, "_step_supports_amp_scaling", False)  # as GradScaler asks for it
    return run.network.device.type == "cuda" and fused and state.step > 0


def step_if_finite(optimizer: Any, results: Tensor) -> None:
    """An optimizer step with gradients that are not scaled; it changes nothing if a result is NaN or Inf."""
    optimizer.found_inf = (~results.isfinite().all()).float()
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf


def loss_scale_overflows(state: TrainState, losses: dict[str, float], gradient_norm: float) -> bool:
    """Whether float16 gradients are Inf because of the loss scale; the step is repeated with a smaller scale then."""
    finite_losses = all(map(math.isfinite, losses.values()))
    return (
        state.scaler.is_enabled()
        and finite_losses
        and not math.isfinite(gradient_norm)
        and state.scaler.get_scale() > 1
    )


@torch.no_grad()
def check_untrained(run: Run, micro_batches: Sequence[MicroBatch], losses: dict[str, float]) -> None:
    """Checks the loss of the first step against that of a head that has learned nothing, if the head is new.

    Raises:
        TrainingError: they differ by more than a factor.
    """
    task, name = run.task, run.task.first_loss
    if name is None:
        return
    expected = [float(task.loss(task.untrained(batch.images), batch)[name]) for batch in micro_batches]
    sums = torch.tensor([losses[name], sum(expected)], dtype=torch.float64)
    check_first_loss(name, *run.processes.all_reduce_sum(sums).tolist())


def seed_of_step(seed: int, step: int, rank: int) -> int:
    """Seed of torch's generators in a step of a process, independent of those of samples, order and mixing."""
    return int(np.random.SeedSequence([seed, step, rank], spawn_key=(5,)).generate_state(1, np.uint64)[0])


def not_finite(run: Run, state: TrainState, micro_batches: Sequence[MicroBatch], metrics: dict[str, float]) -> str:
    """Message about a step with a loss or gradient of NaN or Inf; writes its debug dump."""
    names = [run.task.data.file_name(row) for micro_batch in micro_batches for row in micro_batch.rows]
    more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
    values = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
    advice = "lower optim.learning_rate or lengthen optim.warmup_epochs"
    if run.network.dtype is not None:
        advice += ", or set train.precision=fp32"
    seed = seed_of_step(run.config.seed, state.step, run.processes.rank)
    dumped = dump_step(run, state, micro_batches, metrics, seed)
    return (
        f"step {state.step + 1}: the loss or its gradient is NaN or Inf ({values}); "
        f"images: {', '.join(names[:SHOWN_FILES])}{more}; {dumped}; {advice}"
    )


def local_losses(run: Run, state: TrainState) -> list[float]:
    """Losses of the newest step, if they are of this process alone so far."""
    return [state.recent[-1][name] for name in run.task.criterion.names] if state.unreduced else []


def store_losses(run: Run, state: TrainState, sums: Sequence[float]) -> None:
    """Replaces the `local_losses` by their sums over all processes."""
    if state.unreduced:
        state.recent[-1].update(zip(run.task.criterion.names, sums, strict=True))
        state.unreduced = False


def reduce_losses(run: Run, state: TrainState) -> None:
    """Sums up the losses of the newest step over all processes now, before they are logged or saved."""
    if state.unreduced:
        store_losses(
            run,
            state,
            run.processes.all_reduce_sum(torch.tensor(local_losses(run, state), dtype=torch.float64)).tolist(),
        )
