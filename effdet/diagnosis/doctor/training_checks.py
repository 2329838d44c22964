"""Checks of a training: training images against validation images, one batch learned by heart, recipe, log and classes.

The weights of the run are never changed: the batch is learned by a copy.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from effdet.data.annotations import Annotations
from effdet.data.check.boxes import input_sides
from effdet.diagnosis.doctor.patient import Patient, evenly
from effdet.errors import EffdetError
from effdet.plain_data import parse_json
from effdet.text import count_of
from effdet.training.tasks import TASKS

OVERFIT_STEPS, OVERFIT_IMAGES, OVERFIT_RATE = 20, 4, 3e-3
LEARNS = 0.7  # a model learns if the loss of one batch falls to this fraction
FEW_STEPS = 500  # fewer steps are named as such where a model has learned little
FINEST_STRIDE = 8
_LARGEST = 2**53  # integer of a log
SMALL = 0.5  # sides below this fraction of the smallest anchor get few positive anchors
MOST = 0.5  # fraction of the objects from which on a fact is about the data set


def overfit(patient: Patient, train: Any) -> tuple[float, float]:
    """The loss of a few training images before and after 20 steps on them, of a copy of the network.

    BatchNorm uses the statistics of the batch, and there is no dropout. AdamW with a learning rate of its own is used,
    so that a wrong one in the recipe does not hide whether the network can learn.
    """
    task: Any = TASKS[patient.card.task]
    device = patient.runtime.device
    raw = patient.training.get("model")
    network = patient.network(state=raw).to(device)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    criterion = task.make_criterion(patient.config.loss, patient.card.class_names).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=OVERFIT_RATE, weight_decay=0.0)
    batch = next(patient.batches(train, OVERFIT_IMAGES)).to(device)
    micro_batch = task.micro_batch(network, batch.images, _targets(patient, batch), batch.indices)
    losses: list[float] = []
    for _ in range(OVERFIT_STEPS + 1):
        loss = task.compute_loss(criterion, network(micro_batch.images), micro_batch)["loss"]
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            break
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 10.0)
        optimizer.step()
    return losses[0], losses[-1]


def _targets(patient: Patient, batch: Any) -> Any:
    """What the outputs are compared with: the boxes, or class probabilities [B, K]."""
    if patient.card.task == "detection":
        return batch.targets
    return torch.nn.functional.one_hot(batch.labels, len(patient.card.class_names)).float()


def training_images(train: Any, count: int) -> Any:
    """At most `count` training images, evenly spaced, those with objects if there are some."""
    rows = np.flatnonzero(np.diff(train.offsets) > 0) if isinstance(train, Annotations) else None
    return evenly(train, count, rows if rows is not None and len(rows) else None)


def train_table(patient: Patient) -> tuple[Any, str | None]:
    """The training split, or None and why there is none."""
    try:
        return patient.table("train"), None
    except EffdetError as error:
        return None, f"training images cannot be read: {error}"


def untrained_classes(train: Any, val: Any) -> NDArray[np.bool_]:
    """The classes, [K], that have validation objects but no training objects."""
    classes = len(val.label_map)
    counts = [np.bincount(table.labels[_plain(table)], minlength=classes) for table in (train, val)]
    untrained: NDArray[np.bool_] = (counts[0] == 0) & (counts[1] > 0)
    return untrained


def _plain(table: Any) -> Any:
    """Which labels are not of crowds."""
    return ~table.crowd if isinstance(table, Annotations) else np.ones(len(table.labels), np.bool_)


def small_objects(patient: Patient, table: Annotations) -> str | None:
    """A line if most objects are far below the smallest anchor; None if they are not."""
    spec: Any = patient.card.spec
    size = patient.config.model.image_size or patient.runtime.image_size
    sizes = np.repeat(table.sizes, np.diff(table.offsets), axis=0)
    sides = np.sqrt(input_sides(table.boxes, sizes, size, spec.letterbox).prod(axis=1))
    known = np.isfinite(sides) & ~table.crowd
    smallest = spec.anchor_scale * FINEST_STRIDE
    fraction = float((sides[known] < SMALL * smallest).mean()) if known.any() else 0.0
    if fraction <= MOST:
        return None
    return (
        f"{fraction:.0%} of the objects are smaller than half of the smallest anchor ({smallest:.0f} pixels of the "
        f"input of {size[0]} x {size[1]}); raise model.image_size or lower model.anchor_scale"
    )


def log_facts(patient: Patient) -> list[str]:
    """What recipe and log say against the training, one line each: no learning rate, NaN."""
    optim: Any = patient.config.optim
    facts = []
    if optim.learning_rate <= 0:
        facts.append("optim.learning_rate is 0, so nothing was learned; set it above 0")
    records = _records(patient.folder)
    losses = [record["loss"] for record in records if "loss" in record]
    if losses and not math.isfinite(losses[-1]):
        facts.append("the loss of the last step in the log is NaN or Inf; lower optim.learning_rate")
    rates = [record["learning_rate"] for record in records if "learning_rate" in record]
    if rates and max(rates) <= 0 < optim.learning_rate:
        facts.append("the learning rate in the log is 0 in every step; check optim.warmup_epochs and optim.schedule")
    return facts


def steps_done(patient: Patient) -> int | None:
    """Steps of the training; None if neither last.pt nor the log says."""
    step = patient.training.get("step")
    if isinstance(step, int):
        return step
    return max((int(record.get("step", 0)) for record in _records(patient.folder)), default=None)


def _records(folder: Path | None) -> list[dict[str, float]]:
    """The finite numbers of the records of log.jsonl, and its losses of NaN or Inf.

    Lines that are incomplete are skipped, as the last one of a run that was killed.
    """
    file = folder / "log.jsonl" if folder else None
    if file is None or not file.is_file():
        return []
    records = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append({name: value for name, value in record.items() if _is_logged(name, value)})
    return records


def _is_logged(name: str, value: object) -> bool:
    """Whether a value of a record is a number that is used; an integer may not be too large for a float."""
    if type(value) is int:
        return abs(value) < _LARGEST
    return type(value) is float and (name == "loss" or math.isfinite(value))


def steps_text(steps: int | None) -> str:
    """Such as " after 120 steps"; empty if unknown."""
    return "" if steps is None else f" after {count_of(steps, 'step')}"
