"""How much memory a training step takes, measured by running one, and what fits into the memory that there is.

Steps are run on images without content, so that no data set is needed; the command line of it is in `cli/plan.py`. What
a training says that has run out of memory is in `shortage.py`.
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
from torch import Tensor

from effdet.config import ClassificationConfig, DetectionConfig
from effdet.data.sampling import SIDE_STEP
from effdet.devices import autocast_dtype, keep_freed_memory, move_to_device, pick_device
from effdet.distributed import SINGLE
from effdet.errors import ConfigError, EffdetError
from effdet.losses import ClassificationLoss, DetectionLoss, Losses
from effdet.models import EfficientDet, EfficientNet, make_spec
from effdet.models.anchors import level_sizes
from effdet.models.efficientdet import EfficientDetSpec
from effdet.structures import Target
from effdet.training.batch_norm import apply_norms, choose_norms
from effdet.training.debug.checks import check_parts
from effdet.training.debug.out_of_memory import is_out_of_memory
from effdet.training.ema import WeightAverage
from effdet.training.optim import freeze, make_optimizer, train_mode
from effdet.training.parallel import ParallelModel
from effdet.weights.create import options_of

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}
MARGIN = 0.1  # of the memory is left for what a measured step does not show: other batches, evaluation, fragments
OBJECTS = 100  # in each image
USUAL_CLASSES = {"detection": 80, "classification": 1000}


@dataclass(frozen=True)
class Measured:
    """What a step took.

    Attributes:
        images: computed at once.
        checkpointing: whether activations were computed again.
        memory: the process's largest memory in bytes, on CUDA that of the device; None where it was not enough.
        seconds: per image.
    """

    images: int
    checkpointing: bool
    memory: int | None
    seconds: float


@dataclass(frozen=True)
class Plan:
    """What fits into a memory.

    Attributes:
        precision: in which the network computes.
        best: the fastest of the steps that fit, with as many images as it can have; None where nothing fits.
        accumulation_steps: parts of a batch that `best` stands for.
        smaller_side: where nothing fits, about the side of the images that would; None where none would.
    """

    precision: str
    best: Measured | None
    accumulation_steps: int
    smaller_side: int | None


def parse_size(text: str) -> int:
    """Bytes of a size such as 11GB, 11GiB or 8000MB.

    Raises:
        ConfigError: it is no size.
    """
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMG]I?)?B?", text.strip().upper())
    size = int(float(match[1]) * UNITS[match[2] or ""]) if match else 0
    if size < 2**20:
        raise ConfigError(f"'{text}' is no size of a memory; expected one such as 11GB, 11GiB or 8000MB")
    return size


def plan(
    config: DetectionConfig | ClassificationConfig,
    memory: int,
    device_name: str | None,
    show: Callable[[Measured], None],
) -> Plan:
    """Finds how a recipe's batch fits into a memory: in how many parts, with or without checkpointing.

    Per image the memory grows along a line, which steps of one and of two images tell; the largest part that fits by
    it is then measured itself.

    Args:
        config: the recipe; of its data nothing is read.
        memory: bytes there are; a tenth of it is left free.
        device_name: where to measure, None for the best device.
        show: is told of each step once it is measured.

    Raises:
        ConfigError: the network cannot be built, or the device's memory cannot be measured.
    """
    device = pick_device(device_name)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"the memory of a step cannot be measured on {device.type}; use --device cpu or cuda")
    size, batch_size, spec = largest_image(config), config.train.batch_size, make_spec(options_of(config.model))
    coarsest = level_sizes(size, 3, spec.max_level if isinstance(spec, EfficientDetSpec) else 5)[-1]
    smallest = 1
    if config.train.batch_norm != "frozen":
        check_parts(config.train.model_copy(update={"accumulation_steps": 1}), batch_size, size, coarsest)
        smallest = 2 if coarsest == (1, 1) else 1

    def measure(checkpointing: bool, images: int) -> Measured:
        step = measure_step(config, images, checkpointing, device)
        show(step)
        return step

    best, share = largest_parts(measure, batch_size, memory * (1 - MARGIN), smallest)
    return Plan(
        precision=str(autocast_dtype(config.train.precision, device) or torch.float32).removeprefix("torch."),
        best=best,
        accumulation_steps=math.ceil(batch_size / best.images) if best else batch_size,
        smaller_side=None if best else int(min(size) * math.sqrt(share)) // 32 * 32 or None,
    )


def largest_parts(
    measure: Callable[[bool, int], Measured], batch_size: int, limit: float, smallest: int = 1
) -> tuple[Measured | None, float]:
    """The largest part of a batch that fits, without or with checkpointing, whichever is faster.

    Args:
        measure: runs a step with or without checkpointing, on so many images.
        batch_size: images of the batch.
        limit: bytes that a step may take.
        smallest: images of the smallest part that can be computed.

    Returns:
        The step, or None where none fits, and about the share of an image's pixels that would.
    """
    fitting: list[Measured] = []
    share = 0.0
    for checkpointing in (False, True):
        found, share = _largest_part(partial(measure, checkpointing), batch_size, limit, smallest)
        fitting += [found] if found else []
        if found and found.images == batch_size:
            break  # to compute again what could be kept would only be slower
    return min(fitting, key=lambda step: step.seconds, default=None), share


def _largest_part(
    measure: Callable[[int], Measured], batch_size: int, limit: float, smallest: int
) -> tuple[Measured | None, float]:
    """The largest part that fits, found along a line through two measured ones, and the share of an image that would.

    A part of n images stands for ceil(batch_size / n) of them, so that only sizes that lessen that count are tried.
    """
    first = measure(smallest)
    if first.memory is None:
        return None, 0.0
    if not _fits(first, limit):
        return None, limit / first.memory
    if batch_size == smallest:
        return first, 1.0
    second = measure(smallest + 1)
    each = max((second.memory or math.inf) - first.memory, 1.0)
    best = second if _fits(second, limit) else first
    images = min(smallest + int((limit - first.memory) / each), batch_size)
    while images > best.images:
        images = math.ceil(batch_size / math.ceil(batch_size / images))  # equal parts
        if images <= best.images:
            break
        found = measure(images)
        if _fits(found, limit):
            return found, 1.0
        images -= 1
    return best, 1.0


def _fits(step: Measured, limit: float) -> bool:
    return step.memory is not None and step.memory <= limit


def measure_step(
    config: DetectionConfig | ClassificationConfig, images: int, checkpointing: bool, device: torch.device
) -> Measured:
    """Runs a step in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report_step, args=(sender, config, images, checkpointing, device), daemon=True)
    process.start()
    sender.close()
    try:
        memory, seconds, message = receiver.recv()
    except EOFError:  # killed, as systems do with a process that takes more memory than there is
        memory, seconds, message = None, math.nan, None
    process.join()
    if memory is None and message is None and (process.exitcode or 0) > 0:  # by an error, which it has printed
        raise ConfigError("a step could not be measured, for the reason above")
    if message is not None:
        raise ConfigError(message)
    return Measured(images, checkpointing, memory, seconds)


def _report_step(
    sender: Connection,
    config: DetectionConfig | ClassificationConfig,
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


def run_step(
    config: DetectionConfig | ClassificationConfig, images: int, checkpointing: bool, device: torch.device
) -> float:
    """Two parts of a batch and a step of the optimiser, with all that a training keeps; seconds per image of the second
    part.
    """
    if device.type == "cpu":
        keep_freed_memory()
    train, size = config.train, largest_image(config)
    model = move_to_device(make_spec(options_of(config.model)).build(num_classes(config)), device, train.channels_last)
    model.checkpoint_activations(checkpointing)
    frozen = freeze(model, train.freeze)
    frozen += apply_norms(model, choose_norms(train.batch_norm, images, 1, device.type == "cuda", frozenset()))
    train_mode(model, frozen)
    optimizer = make_optimizer(model, config.optim)
    average = None if train.ema_decay is None else WeightAverage(model, train.ema_decay)
    network = ParallelModel(model, device, autocast_dtype(train.precision, device), SINGLE, train.compile)
    channels = len(model.backbone.mean if isinstance(model, EfficientDet) else model.mean)
    batch = torch.zeros(max(train.batch_size, images), channels, *size, dtype=torch.uint8).to(device)
    seconds = math.nan
    for _ in range(2 if images <= 2 else 1):  # the second finds the gradients of the first, small beside many images
        start = time.perf_counter()
        torch.autograd.backward(_loss(config, network, model, batch[:images]))
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = (time.perf_counter() - start) / images
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.optim.grad_clip_norm or math.inf)
    optimizer.step()
    if average is not None:
        average.update(model, 0)
    return seconds


def _loss(
    config: DetectionConfig | ClassificationConfig,
    network: ParallelModel,
    model: EfficientDet | EfficientNet,
    images: Tensor,
) -> Tensor:
    """Loss of images [B, C, H, W] with made-up targets, `OBJECTS` in each."""
    outputs = network(images)
    losses: Losses
    if isinstance(config, ClassificationConfig):
        losses = ClassificationLoss(0.0)(outputs, torch.full_like(outputs, 1 / outputs.shape[1]), 1)
        return losses["loss"]
    assert isinstance(model, EfficientDet)
    height, width = images.shape[-2:]
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(OBJECTS, 2, generator=generator) * 0.8
    sides = torch.rand(OBJECTS, 2, generator=generator) * 0.19 + 0.01
    boxes = torch.cat([corners, corners + sides], 1) * torch.tensor([width, height, width, height])
    labels = torch.randint(model.num_classes, (OBJECTS,), generator=generator)
    target = Target(boxes, labels, 0, (height, width), (1.0, 1.0)).to(images.device)
    criterion = DetectionLoss(**config.loss.model_dump(exclude={"class_weights"}))
    assignment = criterion.assign(outputs.anchors, [target] * len(images))
    losses = criterion(outputs, assignment, len(assignment))
    return losses["loss"]


def num_classes(config: DetectionConfig | ClassificationConfig) -> int:
    """Classes of the recipe; where it leaves them to the data set, as many as COCO or ImageNet has."""
    return config.model.num_classes or USUAL_CLASSES[config.task]


def largest_image(config: DetectionConfig | ClassificationConfig) -> tuple[int, int]:
    """(H, W) of the largest training images of a recipe."""
    height, width = make_spec(options_of(config.model)).image_size
    if isinstance(config, DetectionConfig):
        factor = 1.0 if config.augment.multi_scale is None else config.augment.multi_scale[1]
        return math.ceil(height * factor / SIDE_STEP) * SIDE_STEP, math.ceil(width * factor / SIDE_STEP) * SIDE_STEP
    if config.progressive is None or config.progressive.image_size is None:
        return height, width
    side = max(config.progressive.image_size)
    return side, side


def peak_memory(device: torch.device) -> int:
    """Largest memory so far in bytes: of the device on CUDA, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells of a young process may be its parent's
        match = re.search(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))
        if match:
            return int(match[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
