"""From what a run was made: manifest.json in its folder, with programs, hardware, command and data of every start.

No variable of the environment is written, since these hold secrets. The recipe is in config.yaml.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from effdet.errors import DataError
from effdet.files import write_json
from effdet.training.records.logs import usable_cores
from effdet.version import __version__

_PACKAGES = ("torchvision", "numpy", "opencv-python", "opencv-python-headless", "pycocotools", "pydantic", "timm")
_GIT_SECONDS = 10.0


def write_manifest(
    folder: Path,
    *,
    device: torch.device,
    processes: int,
    seed: int,
    resumed_after: int | None,
    fingerprints: Mapping[str, str],
) -> None:
    """Adds this start of a run to manifest.json in its folder, in one step.

    Args:
        folder: the run's.
        device: where the network computes.
        processes: how many train together.
        seed: the recipe's.
        resumed_after: the step that the run goes on from; None for a new run.
        fingerprints: hash of each part of the data set, by its name.

    Raises:
        DataError: there is a manifest.json that is something else.
    """
    path = folder / "manifest.json"
    start = {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "resumed_after_step": resumed_after,
        "command": sys.argv,
        "working_directory": str(Path.cwd()),
        "seed": seed,
        "data": dict(fingerprints),
        "git": git_states(),
        "versions": versions(),
        "hardware": hardware(device, processes),
    }
    write_json(path, {"starts": [*_starts(path), start]})


def _starts(path: Path) -> list[Any]:
    """The earlier starts."""
    if not path.exists():
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a list of a run's starts ({error}); move the file away and start again") from None


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that are there, of CUDA and cuDNN."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "efficientdet-torch": __version__,
        "torch": str(torch.__version__),  # names its build, as its package does not
    }
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    return {**found, "cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn)}


def hardware(device: torch.device, processes: int) -> dict[str, str | int]:
    """The machine, and what of it the run uses."""
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
        "cpu": _cpu(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def git_states() -> list[dict[str, str | bool | None]]:
    """State of the git checkouts that this package and the working directory are in, each once; empty without git.

    `changed` tells whether files that git knows differ from the commit.
    """
    package = Path(__file__).resolve().parent
    folders = [Path.cwd()]
    if (
        _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is not None
    ):  # rather than installed inside one
        folders.insert(0, package)
    states: dict[str, dict[str, str | bool | None]] = {}
    for folder in folders:
        top = _git(folder, "rev-parse", "--show-toplevel")
        if top is None or top in states:
            continue
        status = _git(folder, "status", "--porcelain", "--untracked-files=no")
        states[top] = {
            "folder": top,
            "commit": _git(folder, "rev-parse", "--verify", "HEAD"),
            "changed": None if status is None else bool(status),
        }
    return list(states.values())


def _git(folder: Path, *arguments: str) -> str | None:
    """What git says, or None where there is no git, no checkout, or no answer in time."""
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # reads alone
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return answer.stdout.strip()
