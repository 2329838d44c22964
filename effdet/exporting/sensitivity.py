"""Chooses which layer groups of a network stay in float when the others become int8.

Quantizing a file is in `quantize_onnx.py`; here are plain names and errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LARGEST_ERROR = 0.05  # relative RMS error of the outputs that int8 may cause
MOST_GROUPS = 4  # that stay in float
LEAST_SPREAD = 0.01  # standard deviation of logits or box deltas below which errors are not compared with it

_GROUP = re.compile(
    r"(?:backbone\.)?blocks\.\d+|neck\.cells\.\d+|\w+_head\.predict|\w+_head|backbone\.\w+|\w+\.\w+|\w+"
)


@dataclass(frozen=True)
class FloatGroup:
    """A group of layers that stays in float.

    Attributes:
        name: such as "backbone.blocks.1" or "class_head.predict".
        error: relative RMS error of the outputs if the layers of this group alone are int8.
    """

    name: str
    error: float


@dataclass(frozen=True)
class Quantization:
    """What quantization did.

    Attributes:
        error: relative RMS error of the outputs of the network, before decoding and NMS; the largest of all outputs.
        kept: the groups of layers that stay in float, the most sensitive first.
        gated: whether the network has SiLU or squeeze-and-excitation, for which int8 is not meant.
    """

    error: float
    kept: tuple[FloatGroup, ...] = ()
    gated: bool = False

    def lines(self) -> list[str]:
        """The same for people, one line each."""
        lines = [
            f"stays in float: {group.name}, because int8 there alone changes the outputs by {group.error:.1%}"
            for group in self.kept
        ]
        lines.append(f"int8 changes the outputs of the network by {self.error:.1%} (relative RMS error)")
        if self.error > LARGEST_ERROR:
            lines.append(f"that is more than {LARGEST_ERROR:.0%}: compare AP, or give more images for the calibration")
        if self.gated:
            lines.append(
                "int8 is meant for the Lite family; SiLU and squeeze-and-excitation of this network lose accuracy and "
                "speed in int8"
            )
        return lines


def group_of(layer: str) -> str:
    """The group of a layer by its path: a stage of the backbone, a cell of the neck, a head or its last convolution."""
    match = _GROUP.match(layer)
    return match[0] if match else layer


def choose_float_groups(
    groups: Sequence[str], error: Callable[[Collection[str]], float]
) -> tuple[list[FloatGroup], float]:
    """The groups that stay in float so that the error is at most `LARGEST_ERROR`, and the error with them in float.

    Nothing stays in float if int8 everywhere is good enough. Otherwise every group is tried alone, and the worst stay
    in float one after the other, at most `MOST_GROUPS` of them.

    Args:
        groups: all groups, in the order of the network.
        error: relative RMS error of the outputs if the given groups are int8.
    """
    total = error(groups)
    if total <= LARGEST_ERROR:
        return [], total
    alone = sorted((FloatGroup(group, error([group])) for group in groups), key=lambda group: -group.error)
    kept: list[FloatGroup] = []
    for worst in alone[: min(MOST_GROUPS, len(groups) - 1)]:
        kept.append(worst)
        names = [group.name for group in kept]
        total = error([group for group in groups if group not in names])
        if total <= LARGEST_ERROR:
            break
    return kept, total


def relative_error(
    outputs: Sequence[Mapping[str, NDArray[np.float32]]], expected: Sequence[Mapping[str, NDArray[np.float32]]]
) -> float:
    """RMS of the differences divided by the standard deviation of the expected values; the largest of all outputs.

    Values that hardly vary, as those of a class head before training, are divided by `LEAST_SPREAD`.

    Args:
        outputs: tensors by name, one mapping per image.
        expected: the same of the float network.
    """
    errors = []
    for name in expected[0]:
        values = np.stack([tensors[name] for tensors in expected]).astype(np.float64)
        differences = np.stack([tensors[name] for tensors in outputs]).astype(np.float64) - values
        errors.append(float(np.sqrt(np.square(differences).mean()) / max(float(values.std()), LEAST_SPREAD)))
    return max(errors)
