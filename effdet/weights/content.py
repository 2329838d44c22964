"""Checks of what a weights file holds, before anything is made of it: plain tensors that have values, and containers.

The file is read in `checkpoint.py`; what its entries mean is checked in `card.py` and by the readers of states.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.errors import WeightsError
from effdet.plain_data import kind_of

MOST_VALUES = 20_000_000  # that containers may stand for, with what they hold several times
DEEPEST = 100  # containers in one another
_LEAST_REPEATED = 2**28  # values of a tensor from which on its values must be stored, and not repeated ones


def check_archive(path: Path) -> None:
    """Does nothing if a file is no zip archive, or one whose content is not larger than itself.

    Raises:
        ValueError: it is; torch writes archives that are not compressed.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        stored = sum(entry.file_size for entry in archive.infolist())
    if stored > path.stat().st_size:
        raise ValueError(f"it is compressed and would become {stored} bytes")


def check_content(content: Any) -> None:
    """Does nothing if tensors are plain ones, and containers neither hold themselves nor nest deeply.

    Raises:
        ValueError: they are not; the message says what is wrong.
    """
    if _size(content, {}, 0) > MOST_VALUES:
        raise ValueError(f"its containers stand for more than {MOST_VALUES:,} values")


def check_state(state: Mapping[Any, Any]) -> None:
    """Does nothing if weights are texts with a tensor each.

    Raises:
        ValueError: they are not.
    """
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ValueError(f"its weight {str(name)[:80]!r} is a {kind_of(value)}; expected a tensor")


def check_finite_weights(state: Mapping[str, Tensor], source: str | Path) -> None:
    """Does nothing if no weight is NaN or Inf, and no variance negative.

    Some layers, such as a BatchNorm with infinite variances, would hide it and give zeros.

    Args:
        state: the weights by name.
        source: where they are from, for messages.

    Raises:
        WeightsError: one is; the message names it.
    """
    for name, value in state.items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise WeightsError(
                f"{source}: '{name}' holds NaN or Inf; use an earlier checkpoint, or download the weights again"
            )
        if name.endswith("running_var") and bool((value < 0).any()):
            raise WeightsError(f"{source}: '{name}' holds negative variances; use an earlier checkpoint")


def _size(container: Any, known: dict[int, int], depth: int) -> int:
    """How many values a container stands for; tensors in it are checked."""
    if id(container) in known:
        return known[id(container)]
    if depth > DEEPEST:
        raise ValueError("its containers are nested too deeply")
    known[id(container)] = MOST_VALUES + 1  # while it is being counted, so that one that holds itself is refused
    inner: Iterable[Any] = container
    if isinstance(container, dict):
        if not all(isinstance(key, (str, int, float, tuple)) for key in container):
            raise ValueError("it has keys that are no texts or numbers")
        inner = container.values()
    total = 1
    for value in inner:
        if isinstance(value, Tensor):
            _check_tensor(value)
        elif isinstance(value, (dict, list, tuple, set, frozenset)):
            total += _size(value, known, depth + 1)
        total += 1
    known[id(container)] = total
    return total


def _check_tensor(tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_nested:
        raise ValueError(f"it has a tensor of the layout {tensor.layout}; expected dense ones")
    if tensor.is_quantized or tensor.is_complex():
        raise ValueError(f"it has a tensor of {tensor.dtype}; expected real numbers that are not quantized")
    if tensor.is_meta:
        raise ValueError("it has a tensor without values")
    if tensor.numel() >= _LEAST_REPEATED and tensor.nbytes > tensor.untyped_storage().nbytes():
        raise ValueError(f"it has a tensor of shape {list(tensor.shape)} with fewer values than that")
