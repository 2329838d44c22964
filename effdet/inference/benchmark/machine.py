"""The machine on which a benchmark runs: hardware, versions, and whether other processes keep it busy.

The speed of models is measured in `measuring.py`.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from effdet.training.records.logs import usable_cores
from effdet.training.records.manifest import hardware, versions

BUSY_LOAD = 0.5  # processes that run or wait; above it, the speed of few cores varies visibly
BUSY_FRACTION = 0.1  # of the cores


def machine(gpu: str | None) -> dict[str, Any]:
    """CPU, cores, memory, GPU and operating system.

    Args:
        gpu: the CUDA device that models used; None if none did.
    """
    names = hardware(torch.device("cpu"), 1)
    return {
        "cpu": names["cpu"],
        "cores": usable_cores(),
        "memory_bytes": _memory(),
        "gpu": None if gpu is None else torch.cuda.get_device_name(gpu),
        "system": platform.platform(),
    }


def package_versions(packages: Collection[str], gpu: str | None) -> dict[str, str]:
    """Versions of Python, of this package, of PyTorch and of the packages of the runtimes that were used.

    Args:
        packages: of the runtimes.
        gpu: the CUDA device that models used; None if none did.
    """
    known = {package: text for package, text in versions().items() if text is not None}
    for package in packages:
        try:
            known.setdefault(package, version(package))
        except PackageNotFoundError:  # the package has another name, such as onnxruntime-gpu
            continue
    wanted = {"python", "efficientdet-torch", "torch", "opencv-python", "opencv-python-headless", *packages}
    wanted |= set() if gpu is None else {"cuda", "cudnn"}
    return {package: text for package, text in known.items() if package in wanted}


def busy_warning() -> str | None:
    """A sentence if other processes keep the machine busy; None if they do not, or if that is unknown."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows
        return None
    if load <= max(BUSY_LOAD, BUSY_FRACTION * usable_cores()):
        return None
    return (
        f"other processes keep the machine busy (load {load:.1f} on {usable_cores()} cores); times are longer and vary "
        "more than on a quiet machine"
    )


def _memory() -> int | None:
    """Memory of the machine in bytes; None where the system does not say it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None
