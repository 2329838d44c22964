"""Which statistics the BatchNorm layers of a training use: of the batch, of all GPUs (SyncBatchNorm), or frozen ones.

Their momentum is a property of the model, and freezing whole modules is done in `optim.py`. Scales and shifts are
trained in every mode.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from effdet.errors import ConfigError
from effdet.models import EfficientDet, EfficientNet
from effdet.types import BatchNormMode

ENOUGH = 8  # images per forward pass from which batch statistics can be trusted


@dataclass(frozen=True)
class BatchNormPlan:
    """What the BatchNorm layers do in a run.

    Attributes:
        frozen: names of those that keep their running statistics; None for all.
        others: whether the rest uses the statistics of each process alone or of all processes.
        reason: why, in words.
    """

    frozen: frozenset[str] | None
    others: Literal["batch", "sync"]
    reason: str


def plan_batch_norm(
    mode: BatchNormMode,
    per_forward: int,
    processes: int,
    on_gpu: bool,
    loaded: Collection[str],
) -> BatchNormPlan:
    """What `train.batch_norm` means in a run.

    `auto` uses batch statistics (SyncBatchNorm on several GPUs) from 8 images per forward pass. Below 8, layers whose
    statistics were loaded with the weights stay frozen, and new ones use batch statistics. `frozen` freezes all layers,
    new ones too, which then do not normalize.

    Args:
        mode: what the recipe says.
        per_forward: images per forward pass of a process.
        processes: how many processes train.
        on_gpu: whether they compute on GPUs, which SyncBatchNorm needs.
        loaded: names of the layers whose statistics were loaded with the weights.

    Raises:
        ConfigError: the mode is impossible here.
    """
    if mode == "sync" and processes > 1 and not on_gpu:
        raise ConfigError(
            "train.batch_norm is sync, but SyncBatchNorm needs GPUs; set train.batch_norm to batch, frozen or auto"
        )
    if mode == "frozen":
        return BatchNormPlan(None, "batch", "train.batch_norm=frozen")
    synced = processes > 1 and on_gpu and mode != "batch"
    few = (per_forward * processes if synced else per_forward) < ENOUGH
    count = f"{per_forward} image{'s' if per_forward > 1 else ''} per forward pass"
    if synced:
        count += f" on each of {processes} GPUs"
    if mode == "auto" and few:
        count += f", fewer than {ENOUGH}" if loaded else ", and no statistics were loaded"
    frozen = loaded if mode == "auto" and few else ()
    return BatchNormPlan(frozenset(frozen), "sync" if synced else "batch", count)


def uses_batch_statistics(model: nn.Module, plan: BatchNormPlan) -> bool:
    """Whether some layer uses the statistics of the images that one process computes together."""
    trained = _trained_layers(model).keys() - plan.frozen if plan.frozen is not None else set()
    return plan.others == "batch" and bool(trained)


def apply_batch_norm(model: nn.Module, plan: BatchNormPlan) -> list[nn.Module]:
    """Gives the layers that keep their statistics, for `train_mode`; the others become SyncBatchNorm if planned.

    Layers that are frozen with their module stay as they are. Parameters remain the same objects, but a SyncBatchNorm
    is a new module: wrap the model in DDP after this.
    """
    layers = _trained_layers(model)
    if plan.others == "sync":
        for name in layers.keys() - (plan.frozen or ()):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _synchronized(layers[name]))
    return [layer for name, layer in layers.items() if plan.frozen is None or name in plan.frozen]


def describe_batch_norm(model: EfficientDet | EfficientNet, plan: BatchNormPlan) -> str:
    """The plan in one line, by the modules of the model."""
    modules: dict[bool, list[str]] = {True: [], False: []}
    for name in _trained_layers(model):
        module, names = _module_of(model, name), modules[plan.frozen is None or name in plan.frozen]
        if module not in names:
            names.append(module)
    frozen, others = modules[True], modules[False]
    statistics = "batch statistics" if plan.others == "batch" else "SyncBatchNorm"
    if not frozen and not others:
        return "BatchNorm: no layer is trained"
    if not frozen:
        return f"BatchNorm: {statistics} ({plan.reason})"
    if not others:
        return f"BatchNorm: frozen ({plan.reason})"
    return f"BatchNorm: {' and '.join(frozen)} frozen ({plan.reason}), {' and '.join(others)} with {statistics}"


def _trained_layers(model: nn.Module) -> dict[str, nn.BatchNorm2d | nn.SyncBatchNorm]:
    """BatchNorm layers by name, without those that train.freeze freezes."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm))
        and all(parameter.requires_grad for parameter in module.parameters())
    }


def _synchronized(layer: nn.Module) -> nn.Module:
    convert: Any = nn.SyncBatchNorm.convert_sync_batchnorm
    if type(layer) not in (nn.BatchNorm2d, nn.SyncBatchNorm):  # timm's own kind, which has an activation inside
        from timm.layers.norm_act import convert_sync_batchnorm

        convert = convert_sync_batchnorm
    synced: nn.Module = convert(layer)
    return synced


def _module_of(model: EfficientDet | EfficientNet, name: str) -> str:
    top = name.split(".")[0]
    if top in model.head_modules:
        return "heads" if len(model.head_modules) == 2 else "head"
    return "neck" if top == "neck" else "backbone"
