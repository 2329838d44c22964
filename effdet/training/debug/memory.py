"""How a recipe fits into a memory: gradient accumulation steps and activation checkpointing, from measured steps.

The steps use blank images, so no data set is needed. The command line is in `cli/plan.py`; the errors of a training
that runs out of memory are in `out_of_memory.py`.
"""

from __future__ import annotations

import math
import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from effdet.config import Config
from effdet.devices import autocast_dtype, keep_freed_memory, move_to_device, pick_device
from effdet.distributed import SINGLE
from effdet.errors import ConfigError, EffdetError
from effdet.models import make_spec
from effdet.models.anchors import level_sizes
from effdet.training.batch_norm import apply_batch_norm, plan_batch_norm
from effdet.training.debug.checks import check_micro_batches
from effdet.training.debug.out_of_memory import is_out_of_memory
from effdet.training.ema import ExponentialMovingAverage
from effdet.training.optim import freeze, make_optimizer, train_mode
from effdet.training.parallel import ParallelModel
from effdet.training.tasks import TASKS
from effdet.weights.create import options_of

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
MARGIN = 0.1  # fraction of the memory that stays free: evaluation, fragmentation and other batches are not measured
DEFAULT_NUM_CLASSES = {"detection": 80, "classification": 1000}  # of COCO and ImageNet


@dataclass(frozen=True)
class MeasuredStep:
    """Memory and time of a training step.

    Attributes:
        images: images per forward pass.
        checkpointing: whether activation checkpointing was on.
        memory: peak memory in bytes, of the device on CUDA, else of the process; None if it ran out of memory.
        seconds: time per image.
    """

    images: int
    checkpointing: bool
    memory: int | None
    seconds: float


@dataclass(frozen=True)
class MemoryPlan:
    """The settings with which a recipe fits into a memory.

    Attributes:
        precision: type of the model under autocast, such as bfloat16.
        best: the fastest step that fits, with the largest micro-batch that fits; None if nothing fits.
        accumulation_steps: gradient accumulation steps of a batch with the micro-batch of `best`.
        smaller_side: if nothing fits, the estimated image side in pixels that would fit; None if there is none.
    """

    precision: str
    best: MeasuredStep | None
    accumulation_steps: int
    smaller_side: int | None


def parse_memory_size(text: str) -> int:
    """The bytes of a memory size such as 11GB, 11GiB or 8000MB.

    Raises:
        ConfigError: the text is not a memory size, or it is below 1 MiB.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMG]I?)?B?", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2] or ""]) if match else 0
    if size < 2**20:
        raise ConfigError(f"'{text}' is not a memory size; expected a size such as 11GB, 11GiB or 8000MB")
    return size


def plan_memory(
    config: Config,
    memory: int,
    device_name: str | None,
    show: Callable[[MeasuredStep], None],
) -> MemoryPlan:
    """Finds the gradient accumulation steps and activation checkpointing with which a batch fits into a memory.

    Memory grows linearly with the micro-batch. Steps of one and two images give the line; the largest micro-batch that
    fits according to the line is then measured itself.

    Args:
        config: the recipe; its data is not read.
        memory: available bytes; a tenth of them is kept free.
        device_name: device to measure on; None for the best one.
        show: is called with each step after it was measured.

    Raises:
        ConfigError: the model cannot be built, or the memory of the device cannot be measured.
    """
    device = pick_device(device_name)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"the memory of a step cannot be measured on {device.type}; use --device cpu or cuda")
    batch_size, spec = config.train.batch_size, make_spec(options_of(config.model))
    size = TASKS[config.task].largest_image(config, spec.image_size)
    (coarsest,) = level_sizes(size, spec.max_level, spec.max_level)
    smallest = 1
    if config.train.batch_norm != "frozen":
        check_micro_batches(config.train.model_copy(update={"accumulation_steps": 1}), batch_size, size, coarsest)
        smallest = 2 if coarsest == (1, 1) else 1

    def measure(checkpointing: bool, images: int) -> MeasuredStep:
        step = measure_step(config, images, checkpointing, device)
        show(step)
        return step

    best, fraction = largest_micro_batch(measure, batch_size, memory * (1 - MARGIN), smallest)
    return MemoryPlan(
        precision=str(autocast_dtype(config.train.precision, device) or torch.float32).removeprefix("torch."),
        best=best,
        accumulation_steps=math.ceil(batch_size / best.images) if best else batch_size,
        smaller_side=None if best else int(min(size) * math.sqrt(fraction)) // 32 * 32 or None,
    )


def largest_micro_batch(
    measure: Callable[[bool, int], MeasuredStep], batch_size: int, limit: float, smallest: int = 1
) -> tuple[MeasuredStep | None, float]:
    """The largest micro-batch that fits, with or without activation checkpointing, whichever is faster.

    Args:
        measure: measures a step, given whether activations are checkpointed and the images per forward pass.
        batch_size: images of the batch.
        limit: largest allowed peak memory of a step in bytes.
        smallest: images of the smallest micro-batch that can be computed.

    Returns:
        The measured step, or None if none fits; and the estimated fraction of the pixels of an image that would fit.
    """
    fitting: list[MeasuredStep] = []
    fraction = 0.0
    for checkpointing in (False, True):
        largest, fraction = _largest_that_fits(partial(measure, checkpointing), batch_size, limit, smallest)
        fitting += [largest] if largest else []
        if largest and largest.images == batch_size:
            break  # the whole batch fits: activation checkpointing would only be slower
    return min(fitting, key=lambda step: step.seconds, default=None), fraction


def _largest_that_fits(
    measure: Callable[[int], MeasuredStep], batch_size: int, limit: float, smallest: int
) -> tuple[MeasuredStep | None, float]:
    """The largest micro-batch that fits, from a line through two measured ones; and the fraction of an image that fits.

    A micro-batch of n images needs ceil(batch_size / n) accumulation steps. Only the smallest n for each number of
    accumulation steps is tried.
    """
    first = measure(smallest)
    if first.memory is None:
        return None, 0.0
    if not _fits(first, limit):
        return None, limit / first.memory
    if batch_size == smallest:
        return first, 1.0
    second = measure(smallest + 1)
    per_image = max((second.memory or math.inf) - first.memory, 1.0)
    best = second if _fits(second, limit) else first
    images = min(smallest + int((limit - first.memory) / per_image), batch_size)
    while images > best.images:
        images = math.ceil(batch_size / math.ceil(batch_size / images))  # micro-batches of equal size
        if images <= best.images:
            break
        step = measure(images)
        if _fits(step, limit):
            return step, 1.0
        images -= 1
    return best, 1.0


def _fits(step: MeasuredStep, limit: float) -> bool:
    return step.memory is not None and step.memory <= limit


def measure_step(config: Config, images: int, checkpointing: bool, device: torch.device) -> MeasuredStep:
    """Measures a step in a new process, so that the peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_step, args=(sender, config, images, checkpointing, device), daemon=True)
    process.start()
    sender.close()
    try:
        memory, seconds, message = receiver.recv()
    except EOFError:  # killed: the system kills a process that uses too much memory
        memory, seconds, message = None, math.nan, None
    process.join()
    if memory is None and message is None and (process.exitcode or 0) > 0:  # ended by an error, which it has printed
        raise ConfigError("a training step failed while it was measured; see the error above")
    if message is not None:
        raise ConfigError(message)
    return MeasuredStep(images, checkpointing, memory, seconds)


def _report_step(
    sender: Connection,
    config: Config,
    images: int,
    checkpointing: bool,
    device: torch.device,
) -> None:
    try:
        seconds = run_step(config, images, checkpointing, device)
    except EffdetError as error:
        sender.send((None, math.nan, str(error)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        sender.send((None, math.nan, None))
    else:
        sender.send((peak_memory(device), seconds, None))


def run_step(config: Config, images: int, checkpointing: bool, device: torch.device) -> float:
    """Runs two micro-batches and one optimizer step, with everything in memory that a training keeps.

    Returns:
        Seconds per image of the last micro-batch.
    """
    if device.type == "cpu":
        keep_freed_memory()
    train, task, spec = config.train, TASKS[config.task], make_spec(options_of(config.model))
    size = task.largest_image(config, spec.image_size)
    model = move_to_device(spec.build(assumed_num_classes(config)), device, train.channels_last)
    model.checkpoint_activations(checkpointing)
    frozen = freeze(model, train.freeze)
    batch_norm = plan_batch_norm(train.batch_norm, images, 1, device.type == "cuda", frozenset())
    frozen += apply_batch_norm(model, batch_norm)
    train_mode(model, frozen)
    optimizer = make_optimizer(model, config.optim)
    ema = None if train.ema_decay is None else ExponentialMovingAverage(model, train.ema_decay)
    network = ParallelModel(model, device, autocast_dtype(train.precision, device), SINGLE, train.compile)
    criterion = task.make_criterion(config.loss.model_copy(update={"class_weights": {}}), ())
    batch = torch.zeros(max(train.batch_size, images), spec.in_channels, *size, dtype=torch.uint8).to(device)
    seconds = math.nan
    # The second micro-batch runs while the gradients of the first are in memory. With many images they hardly matter.
    for _ in range(2 if images <= 2 else 1):
        start = time.perf_counter()
        targets = task.random_targets(batch[:images], model.num_classes)
        micro_batch = task.micro_batch(model, batch[:images], targets, range(images))
        torch.autograd.backward(task.compute_loss(criterion, network(batch[:images]), micro_batch)["loss"])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - start) / images
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip_norm or math.inf)
    optimizer.step()
    if ema is not None:
        ema.update(model, 0)
    return seconds


def assumed_num_classes(config: Config) -> int:
    """The number of classes of the recipe; that of COCO or ImageNet if the recipe leaves it to the data set."""
    return config.model.num_classes or DEFAULT_NUM_CLASSES[config.task]


def peak_memory(device: torch.device) -> int:
    """Peak memory so far in bytes: of the device on CUDA, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():  # getrusage may report the peak of the parent for a new process
        match = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))
        if match:
            return int(match[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
