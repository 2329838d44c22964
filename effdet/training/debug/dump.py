"""The debug dump of a step with a loss or gradient of NaN or Inf, and its replay.

A dump is a folder that needs neither the data set nor the recipe: dump.pt, tensors and plain containers with
everything that the step was computed from; report.json for people; batch.png, the images with their targets. How a
step is observed is decided in `nan_trace.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from effdet.config import make_config
from effdet.devices import move_to_device, use_deterministic_algorithms
from effdet.errors import WeightsError
from effdet.files import atomic_folder, write_json
from effdet.models import EfficientDet, EfficientNet
from effdet.plain_data import check_keys
from effdet.report.pictures import write_image
from effdet.structures import Target
from effdet.text import reason_of
from effdet.training.debug.nan_trace import NanTrace, ValueRange, trace
from effdet.training.debug.out_of_memory import is_out_of_memory
from effdet.training.state import TrainState
from effdet.training.tasks import TASKS, MicroBatch
from effdet.types import Precision
from effdet.weights.card import ModelCard, read_card
from effdet.weights.checkpoint import read_tensors

if TYPE_CHECKING:
    from effdet.training.setup import Run

FORMAT = 3  # raised when the layout of dump.pt changes
TENSORS, REPORT, PICTURE = "dump.pt", "report.json", "batch.png"
PRECISIONS: dict[torch.dtype | None, Precision] = {None: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class DebugDump:
    """A step with a loss or gradient of NaN or Inf, with everything that it was computed from.

    Attributes:
        card: the network, its classes and the recipe.
        weights: of the model before the step; its BatchNorm statistics have seen the forward pass.
        criterion: state of the criterion.
        evaluating: names of the modules that were in evaluation mode, such as frozen BatchNorm layers.
        fixed: names of the parameters that are not trained.
        dropout: rate of each dropout layer by name.
        images: [B, C, H, W] uint8, augmented and mixed; of several processes, those of this one.
        targets: of the images, as plain containers.
        sizes: images of each micro-batch.
        normalizer: the losses are divided by it.
        files: names of the images' files.
        ids: ids of the images in the data set.
        rows: rows of the images in the training table.
        precision: of the network.
        loss_scale: factor of the loss before backward().
        seed: of torch's generators before the forward pass.
        step: steps done before this one.
        epoch: counted from 0.
        metrics: learning rate, losses, gradient norm and settings of the step.
        process: rank of the process and number of processes.
        device: type of the device.
    """

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)

    card: ModelCard
    weights: dict[str, Tensor]
    criterion: dict[str, Tensor]
    evaluating: tuple[str, ...]
    fixed: tuple[str, ...]
    dropout: dict[str, float]
    images: Tensor
    targets: Any
    sizes: tuple[int, ...]
    normalizer: float
    files: tuple[str, ...]
    ids: tuple[int | str, ...]
    rows: tuple[int, ...]
    precision: Precision
    loss_scale: float
    seed: int
    step: int
    epoch: int
    metrics: dict[str, float]
    process: tuple[int, int]
    device: str

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain containers, which load with `weights_only=True`."""
        return {"dump": FORMAT, **vars(self), "card": self.card.to_dict()}


def read_dump(path: Path) -> DebugDump:
    """The dump in a folder, or of its dump.pt.

    Raises:
        WeightsError: there is none, or it is damaged or of another version of this package.
    """
    file = path / TENSORS if path.is_dir() else path
    if not file.is_file():
        raise WeightsError(f"{path}: no debug dump; expected a folder such as runs/NAME/debug-12")
    content = read_tensors(file)
    version = content.pop("dump", None)
    if version is None:
        raise WeightsError(f"{path}: not a debug dump; expected a folder such as runs/NAME/debug-12, or its {TENSORS}")
    if version != FORMAT:
        raise WeightsError(f"{path}: a debug dump of another version of this package; replay it with that version")
    try:
        check_keys(content, DebugDump)
        dump = DebugDump(**{**content, "card": read_card(content["card"])})
        TypeAdapter(DebugDump).validate_python(vars(dump))
        _check_lengths(dump)
        _check_targets(dump.targets, len(dump.card.class_names))
        _model_of(dump)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(name) for name in fault["loc"])
        raise WeightsError(f"{path}: the debug dump is damaged: '{key}': {fault['msg']}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise WeightsError(f"{path}: the debug dump is damaged: {reason_of(error)}") from None
    return dump


def _check_lengths(dump: DebugDump) -> None:
    """Raises ValueError if the columns of a dump do not belong together."""
    if dump.images.ndim != 4 or dump.images.dtype != torch.uint8:
        raise ValueError(f"images have the type {dump.images.dtype} and the shape {list(dump.images.shape)}")
    lengths = {name: len(getattr(dump, name)) for name in ("images", "files", "ids", "rows", "targets")}
    lengths["sizes"] = sum(dump.sizes)
    if len(set(lengths.values())) > 1:
        raise ValueError(f"it has {', '.join(f'{length} {name}' for name, length in lengths.items())}")


def _check_targets(targets: Any, classes: int) -> None:
    """Raises ValueError if targets are not what `plain_targets` of a task gives."""
    if isinstance(targets, Tensor):
        if targets.ndim != 2 or targets.shape[1] != classes:
            raise ValueError(f"targets have the shape {list(targets.shape)}, but there are {classes} classes")
        return
    for target in targets:
        check_keys(target, Target)
        boxes, labels = target["boxes"], target["labels"]
        if not (isinstance(boxes, Tensor) and isinstance(labels, Tensor) and boxes.shape == (labels.numel(), 4)):
            raise ValueError("boxes and labels of a target are no tensors of one length")
        if labels.dtype != torch.int64 or labels.ndim != 1 or not ((labels >= 0) & (labels < classes)).all():
            raise ValueError(f"labels of a target are not from 0 to {classes - 1}")


def dump_step(
    run: Run, state: TrainState, micro_batches: Sequence[MicroBatch], metrics: dict[str, float], seed: int
) -> str:
    """Writes the dump of a step, debug-STEP in the run's folder, and says where the NaN or Inf begins.

    Over several processes each writes its own micro-batches.

    Args:
        run: the run.
        state: as it was before the step; its gradients are dropped.
        micro_batches: of this process.
        metrics: of the step.
        seed: of torch's generators before the forward pass.
    """
    state.optimizer.zero_grad()  # the replay needs their memory
    dump = make_dump(run, state, micro_batches, metrics, seed)
    rank = run.processes.rank
    path = run.folder / f"debug-{state.step + 1}{f'-process-{rank}' if rank else ''}"
    try:
        traced = replay(dump, run.network.device, run.network.dtype)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traced = None
    try:
        write_dump(path, dump, traced)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError to torch
        advice = f"no debug dump could be written to {path} ({str(error).splitlines()[0]})"
    else:
        advice = f"see {path / REPORT}, and rerun the step with `effdet replay {path}`"
    return f"{_source_in_words(traced)}; {advice}"


def make_dump(
    run: Run, state: TrainState, micro_batches: Sequence[MicroBatch], metrics: dict[str, float], seed: int
) -> DebugDump:
    """The dump of a step, see `dump_step`."""
    model, task = state.model, run.task
    rows = tuple(row for micro_batch in micro_batches for row in micro_batch.rows)
    return DebugDump(
        card=run.card,
        weights={name: value.cpu() for name, value in model.state_dict().items()},
        criterion={name: value.cpu() for name, value in state.criterion.state_dict().items()},
        evaluating=tuple(name for name, module in model.named_modules() if not module.training),
        fixed=tuple(name for name, value in model.named_parameters() if not value.requires_grad),
        dropout={name: module.p for name, module in model.named_modules() if isinstance(module, nn.Dropout)},
        images=torch.cat([micro_batch.images for micro_batch in micro_batches]).cpu().contiguous(),
        targets=task.plain_targets([micro_batch.targets for micro_batch in micro_batches]),
        sizes=tuple(len(micro_batch.images) for micro_batch in micro_batches),
        normalizer=float(micro_batches[0].normalizer),
        files=tuple(task.data.file_name(row) for row in rows),
        ids=tuple(task.data.train_table.image_id(row) for row in rows),
        rows=rows,
        precision=PRECISIONS[run.network.dtype],
        loss_scale=state.scaler.get_scale(),
        seed=seed,
        step=state.step,
        epoch=state.step // run.schedule.steps_per_epoch,
        metrics=metrics,
        process=(run.processes.rank, run.processes.size),
        device=run.network.device.type,
    )


def write_dump(path: Path, dump: DebugDump, traced: NanTrace | None) -> None:
    """Writes the folder of a dump, all of it or nothing; an older one is replaced."""
    task = TASKS[dump.card.task]
    targets = task.restore_targets(dump.targets, torch.device("cpu"))
    with atomic_folder(path) as folder:
        torch.save(dump.to_dict(), folder / TENSORS)
        write_json(folder / REPORT, _readable(report_of(dump, traced)))
        write_image(folder / PICTURE, task.draw(dump.images, targets, dump.card.class_names))


def replay(dump: DebugDump, device: torch.device, dtype: torch.dtype | None) -> NanTrace:
    """Repeats the step of a dump under observation.

    On the device and in the precision of the dump it gives the losses of the step; of several processes, those of this
    one.

    Args:
        dump: the step.
        device: where to compute.
        dtype: precision under autocast; None for float32.

    Raises:
        ConfigError, WeightsError: the dump is of another version of this package.
    """
    card, task = dump.card, TASKS[dump.card.task]
    config = make_config(card.config, source="the recipe of the debug dump")
    model = _model_of(dump)
    model.checkpoint_activations(config.train.activation_checkpointing)
    use_deterministic_algorithms(config.train.deterministic)
    move_to_device(model, device, config.train.channels_last)
    criterion = task.make_criterion(config.loss, card.class_names)
    try:
        criterion.load_state_dict(dump.criterion)
    except RuntimeError as error:
        raise WeightsError(f"the state of the criterion does not fit its recipe: {_last_line(error)}") from None
    images = dump.images.to(device).contiguous(memory_format=torch.channels_last)
    targets = task.restore_targets(dump.targets, device)
    normalizer = torch.tensor(dump.normalizer, device=device)
    micro_batches, start = [], 0
    for size in dump.sizes:
        chunk = slice(start, start + size)
        micro_batch = task.micro_batch(model, images[chunk], targets[chunk], dump.rows[chunk])
        micro_batches.append(replace(micro_batch, normalizer=normalizer))
        start += size
    scale = dump.loss_scale if PRECISIONS[dtype] == dump.precision else 1.0
    torch.manual_seed(dump.seed)
    return trace(model, criterion, task, micro_batches, dtype, scale)


def report_of(dump: DebugDump, traced: NanTrace | None) -> dict[str, Any]:
    """What a person wants to know of a step, without tensors; `traced` is its replay."""
    task, names = TASKS[dump.card.task], dump.card.class_names
    size = (dump.images.shape[-2], dump.images.shape[-1])
    pixels = ValueRange()
    pixels.add(dump.images.float())
    targets = task.restore_targets(dump.targets, torch.device("cpu"))
    boxes, lines = task.describe_targets(targets, size, names)
    images = zip(dump.files, dump.ids, dump.rows, lines, strict=True)
    return {
        "step": dump.step + 1,
        "epoch": dump.epoch + 1,
        "metrics": dump.metrics,
        "precision": dump.precision,
        "device": dump.device,
        "process": {"rank": dump.process[0], "of": dump.process[1]},
        "replayed": {"losses": traced.losses, "gradient_norm": traced.gradient_norm} if traced else None,
        "first_not_finite": vars(traced.source) if traced and traced.source else None,
        "outputs": {name: values.to_dict() for name, values in traced.outputs.items()} if traced else None,
        "images": {"size": list(size), **pixels.to_dict()},
        "boxes": boxes,
        "batch": [{"file": file, "image_id": own, "row": row, **line} for file, own, row, line in images],
        "gradient_norms": traced.gradients if traced else None,
        "versions": dump.card.versions,
    }


def _model_of(dump: DebugDump) -> EfficientDet | EfficientNet:
    """The model as it was before the step, in host memory."""
    model = dump.card.spec.build(len(dump.card.class_names))
    try:
        model.load_state_dict(dump.weights)
    except RuntimeError as error:
        raise WeightsError(f"the weights of the dump do not fit its network: {_last_line(error)}") from None
    model.train()
    for name in dump.evaluating:
        model.get_submodule(name).training = False
    for name in dump.fixed:
        model.get_parameter(name).requires_grad_(False)
    for name, rate in dump.dropout.items():
        dropout = model.get_submodule(name)
        if not isinstance(dropout, nn.Dropout):
            raise WeightsError(f"{name} is no dropout layer")
        dropout.p = rate
    return model


def _last_line(error: RuntimeError) -> str:
    """The last line of an error of torch, which says what does not fit."""
    return str(error).strip().splitlines()[-1].strip()


def _source_in_words(traced: NanTrace | None) -> str:
    if traced is None:
        return "there is not enough memory to look for the layer"
    if traced.source is None:
        return "repeated, the step of this process is finite"
    return f"it begins in {traced.source}"


def _readable(value: Any) -> Any:
    """Plain containers as JSON has them: numbers in six digits, NaN and Inf as words."""
    if isinstance(value, Mapping):
        return {key: _readable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_readable(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    return value
