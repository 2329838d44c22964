"""Rows of the last layer, one per class: a selection of them, or copied by class name from other weights.

All other layers are loaded in `loading.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

CLASS_LAYERS = ("class_head.predict.pointwise", "classifier")  # of detectors and of classifiers
WORDS = str.maketrans("_-", "  ")


def class_layer(state: Mapping[str, Tensor]) -> str | None:
    """Name of the layer with a row per class; None for a backbone without a head."""
    return next((layer for layer in CLASS_LAYERS if f"{layer}.weight" in state), None)


def choose_rows(state: Mapping[str, Tensor], num_classes: int, labels: Sequence[int]) -> dict[str, Tensor]:
    """The state with only the rows of some classes, in the given order.

    Args:
        state: weights under our names.
        num_classes: number K of classes in the state.
        labels: the classes to keep, 0..K-1.
    """
    layer = class_layer(state)
    assert layer is not None
    chosen = dict(state)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        chosen[name] = _by_anchor(state[name], num_classes)[:, list(labels)].flatten(0, 1)
    return chosen


def carry_rows(
    state: Mapping[str, Tensor], names: Sequence[str], own: Mapping[str, Tensor], own_names: Sequence[str]
) -> tuple[dict[str, Tensor], list[str]]:
    """The state with a row for each class of `own_names`: by name from `state`, else as in `own`.

    Args:
        state: weights under our names, with a row for each class in `names`.
        names: classes of the state.
        own: a model's weights, with a row for each class in `own_names`.
        own_names: classes of the model.

    Returns:
        The new state, and the classes whose rows come from the given one.
    """
    layer = class_layer(state)
    assert layer is not None
    known = {_plain(name): label for label, name in enumerate(names)}
    pairs = [(label, known[_plain(name)]) for label, name in enumerate(own_names) if _plain(name) in known]
    carried = dict(state)
    to, source = (torch.tensor([pair[side] for pair in pairs], dtype=torch.int64) for side in (0, 1))
    for name in (f"{layer}.weight", f"{layer}.bias"):
        rows = _by_anchor(own[name].detach().clone(), len(own_names))
        rows[:, to] = _by_anchor(state[name], len(names))[:, source].to(rows.dtype)
        carried[name] = rows.flatten(0, 1)
    return carried, [own_names[label] for label, _ in pairs]


def _by_anchor(rows: Tensor, num_classes: int) -> Tensor:
    """Rows [A * K, ...] as [A, K, ...]."""
    return rows.reshape(-1, num_classes, *rows.shape[1:])


def _plain(name: str) -> str:
    """A class name for comparison, without differences of case, underscores and hyphens."""
    return " ".join(name.translate(WORDS).casefold().split())
