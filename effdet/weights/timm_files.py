"""Weights files of timm for the backbone of a detector, read by timm itself.

The network is in `effdet/models/timm_backbone.py`; files of timm's EfficientNets for our own networks are translated in
`names.py`.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from effdet.errors import WeightsError
from effdet.files import full_path
from effdet.models.timm_backbone import TimmSpec, make_timm_network


def read_timm_file(spec: TimmSpec, weights: str) -> dict[str, Tensor]:
    """Weights of a file of timm under the names of our backbone.

    Raises:
        WeightsError: there is no such file, or it is not one of this network.
    """
    path = full_path(weights)
    if not path.is_file():
        raise WeightsError(
            f"no weights '{weights}' of {spec.name} are known; download them with timm and give the path of the file"
        )
    first, second = (_filled_state(spec, path) for _ in range(2))
    missing = [name for name, value in first.items() if not value.equal(second[name])]  # drawn at random twice
    if missing:
        raise WeightsError(
            f"{path}: these weights are not of {spec.name}: {len(missing)} tensors are missing ('{missing[0]}')"
        )
    return {f"net.{name}": value for name, value in first.items()}


def _filled_state(spec: TimmSpec, path: Path) -> dict[str, Tensor]:
    """Weights of a new network with those of the file; tensors that the file lacks are random."""
    try:
        state: dict[str, Tensor] = make_timm_network(spec, str(path)).state_dict()
    except Exception:  # every network of timm reads files its own way
        raise WeightsError(
            f"{path}: timm cannot load these weights into {spec.name}; expected the file that it has for this network"
        ) from None
    return state
