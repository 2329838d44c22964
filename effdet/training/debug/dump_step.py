"""Writes the debug dump of a step: dump.pt, report.json for people, and batch.png, the images with their targets.

What dump.pt holds is in `dump.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from effdet.files import atomic_folder, write_json
from effdet.report.pictures import write_image
from effdet.training.debug.dump import PRECISIONS, TENSORS, DebugDump
from effdet.training.debug.nan_trace import NanTrace, ValueRange
from effdet.training.debug.out_of_memory import is_out_of_memory
from effdet.training.debug.replay import replay
from effdet.training.state import TrainState
from effdet.training.tasks import TASKS, MicroBatch

if TYPE_CHECKING:
    from effdet.training.setup import Run

REPORT, PICTURE = "report.json", "batch.png"


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
