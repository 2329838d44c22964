"""Whose statistics the batch norms of a training take: of the images computed together, of all processes, or their own.

Their decay and the freezing of whole modules are in `optim.py`; nothing here touches their scales and shifts.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from effdet.errors import ConfigError
from effdet.models import EfficientDet

ENOUGH = 8  # images whose statistics can be trusted

NormPolicy = Literal["auto", "batch", "sync", "frozen"]


@dataclass(frozen=True)
class NormPlan:
    """What is to become of the norms.

    Attributes:
        frozen: names of those that keep the statistics they have, None for all; their scales and shifts are trained.
        others: whether the rest takes its statistics in each process alone or over all of them.
        reason: why, in words.
    """

    frozen: frozenset[str] | None
    others: Literal["batch", "sync"]
    reason: str


def choose_norms(policy: NormPolicy, part_size: int, processes: int, on_gpu: bool, loaded: Collection[str]) -> NormPlan:
    """What `train.batch_norm` means in a run.

    `auto` takes the statistics of the images, over all GPUs where there are several, if that is of at least 8 images;
    of fewer it trusts those that came with the weights more, while a norm that starts at random has none to keep and
    goes on with the images. `frozen` is all norms, those too, which do not normalise then.

    Args:
        policy: what the recipe says.
        part_size: images that a process computes together.
        processes: how many processes train.
        on_gpu: whether they compute on GPUs, which torch needs for statistics over processes.
        loaded: names of the norms whose statistics came with the weights.

    Raises:
        ConfigError: the policy is impossible here.
    """
    if policy == "sync" and processes > 1 and not on_gpu:
        raise ConfigError(
            "train.batch_norm is sync, but torch takes statistics over several processes on GPUs alone; set it to "
            "batch, frozen or auto"
        )
    if policy == "frozen":
        return NormPlan(None, "batch", "as train.batch_norm says")
    synced = processes > 1 and on_gpu and policy != "batch"
    count = f"{part_size} image{'s' if part_size > 1 else ''} at a time"
    if synced:
        count += f" in each of {processes} processes"
    few = (part_size * processes if synced else part_size) < ENOUGH
    frozen = loaded if policy == "auto" and few else ()
    if policy == "auto" and few:
        count += f", under {ENOUGH}" if loaded else ", and no statistics came with the weights"
    return NormPlan(frozenset(frozen), "sync" if synced else "batch", count)


def takes_parts(model: nn.Module, plan: NormPlan) -> bool:
    """Whether some norm takes the statistics of the images that a process computes together."""
    moving = _trained_norms(model).keys() - plan.frozen if plan.frozen is not None else set()
    return plan.others == "batch" and bool(moving)


def apply_norms(model: nn.Module, plan: NormPlan) -> list[nn.Module]:
    """The norms that keep their statistics, for `train_mode`; the others take them over all processes if so planned.

    Norms that are frozen with their module stay as they are. Parameters remain the same objects, but a norm over all
    processes is a new module: the model is to be wrapped after this.
    """
    norms = _trained_norms(model)
    if plan.others == "sync":
        for name in norms.keys() - (plan.frozen or ()):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _over_processes(norms[name]))
    return [norm for name, norm in norms.items() if plan.frozen is None or name in plan.frozen]


def describe_norms(model: nn.Module, plan: NormPlan) -> str:
    """The plan in one line, by the parts of the model."""
    parts: dict[bool, list[str]] = {True: [], False: []}
    for name in _trained_norms(model):
        part, names = _part(model, name), parts[plan.frozen is None or name in plan.frozen]
        if part not in names:
            names.append(part)
    kept, others = parts[True], parts[False]
    whose = "of the batch" if plan.others == "batch" else "over all processes"
    if not kept and not others:
        return "norms: none is trained"
    if not kept:
        return f"norms: {whose} ({plan.reason})"
    if not others:
        return f"batch_norm: frozen ({plan.reason})"
    return f"norms: {' and '.join(kept)} frozen ({plan.reason}), {' and '.join(others)} {whose}"


def _trained_norms(model: nn.Module) -> dict[str, nn.BatchNorm2d | nn.SyncBatchNorm]:
    """Norms by name, without those that train.freeze keeps as they are."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))
        and all(parameter.requires_grad for parameter in module.parameters())
    }


def _over_processes(norm: nn.Module) -> nn.Module:
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    if type(norm) not in (nn.BatchNorm2d, nn.SyncBatchNorm):  # timm's own kind, which has an activation inside
        from timm.layers.norm_act import convert_sync_batchnorm

        convert = convert_sync_batchnorm
    synced: nn.Module = convert(norm)
    return synced


def _part(model: nn.Module, name: str) -> str:
    if isinstance(model, EfficientDet):
        part = name.split(".")[0]
        return part if part in ("backbone", "neck") else "heads"
    return "head" if name == "bn2" else "backbone"
