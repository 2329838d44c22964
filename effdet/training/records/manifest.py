"""manifest.json of a run: software versions, git state, hardware, command and data fingerprints of every start.

Environment variables are not written, because they may hold secrets. The recipe is in config.yaml.
"""

from __future__ import annotations

import datetime
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
from effdet.files import read_text, write_json
from effdet.plain_data import parse_json
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
    """Adds an entry for this start of a run, new or resumed, to manifest.json in its folder; atomic.

    Args:
        folder: folder of the run.
        device: device of the model.
        processes: number of training processes (the world size).
        seed: seed of the recipe.
        resumed_after: the step after which the run is resumed; None for a new run.
        fingerprints: hash of each data set split, by the name of the split.

    Raises:
        DataError: the folder has a manifest.json that is not the manifest of a run.
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
    """The entries of the earlier starts."""
    if not path.exists():
        return []
    try:
        return list(parse_json(read_text(path))["starts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not the manifest of a run ({error}); move the file away, and a new one is written"
        ) from None


def versions() -> dict[str, str | None]:
    """Versions of Python, of the installed packages that matter, and of CUDA and cuDNN."""
    installed: dict[str, str | None] = {
        "python": platform.python_version(),
        "efficientdet-torch": __version__,
        "torch": str(torch.__version__),  # includes the build, such as +cu128, unlike the package metadata
    }
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None  # type: ignore[no-untyped-call]
    return {**installed, "cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn)}


def hardware(device: torch.device, processes: int) -> dict[str, str | int]:
    """The machine, and the devices and cores that the run uses."""
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
    """The git repositories that contain this package and the working directory, each once; empty without git.

    `changed` is true if tracked files differ from the commit.
    """
    package = Path(__file__).resolve().parent
    folders = [Path.cwd()]
    # The package counts only if it is tracked, not if it is installed in an environment inside another repository.
    if _git(package, "ls-files", "--error-unmatch", Path(__file__).name) is not None:
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
    """The output of git; None without git, outside a repository, or after a timeout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},  # read only
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return result.stdout.strip()
