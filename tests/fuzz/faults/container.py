"""The steps of `make demo` in a container with no home, no UTF-8, little shared memory and a read-only disk.

The folder in which they run can be written, and nothing else. Single commands in bad places are in `places.py`.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from .commands import REPOSITORY

DESCRIPTORS = 64
_SHORT = "train.max_steps=4 train.log_every=2"
_PLACE = """
set -e
mount --make-rprivate /
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount --bind /dev/null /etc/passwd
mount --bind {folder} {folder}
mount -o remount,bind,ro /
cd {folder}
ulimit -n {descriptors}
"""


def demo_commands() -> list[str]:
    """The commands that `make demo` runs after the installation."""
    listed = subprocess.run(
        ["make", "--dry-run", "--old-file=.venv/installed", "demo"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in listed.stdout.splitlines() if line.startswith(".venv/bin/")]


def run_in_container(commands: list[str], folder: Path, **environment: str) -> list[subprocess.CompletedProcess[str]]:
    """Runs commands one after the other in such a place, until one fails; the recipes and tools are in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, target in (("configs", REPOSITORY / "configs"), ("tools", REPOSITORY / "tools"), (".venv", _venv())):
        if not (folder / name).exists():
            (folder / name).symlink_to(target)
    place = _PLACE.format(folder=shlex.quote(str(folder)), descriptors=DESCRIPTORS)
    variables = {"PATH": os.environ["PATH"], "LANG": "C", "PYTHONPATH": str(REPOSITORY), **environment}
    ended = []
    for command in commands:
        script = ["unshare", "--mount", "sh", "-c", f"{place}exec {command}"]
        ended.append(subprocess.run(script, env=variables, capture_output=True, text=True, check=False))
        if ended[-1].returncode:
            break
    return ended


def demo_faults(folder: Path) -> list[str]:
    """What is wrong if `make demo` runs there, with a short training; it may say in a sentence what it needs."""
    shutil.rmtree(folder, ignore_errors=True)
    commands = [f"{command} {_SHORT}" if "tools/train.py" in command else command for command in demo_commands()]
    faults = []
    for command, one in zip(commands, run_in_container(commands, folder), strict=False):
        errors = [line for line in one.stderr.splitlines() if "matplotlib" not in line.lower()]  # it wants a home
        is_sentence = one.returncode == 1 and len(errors) == 1 and errors[0].startswith("error: ")
        if not is_sentence and (one.returncode or errors):
            faults.append(f"{command}: status {one.returncode}: {one.stderr.strip()}")
    faults += [f"left over: {path}" for path in folder.glob("runs/**/.effdet-*")]
    if not faults:
        shutil.rmtree(folder)
    return faults


def _venv() -> Path:
    return Path(sys.prefix)
