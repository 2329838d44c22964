"""Places where commands run badly: a full disk, folders that cannot be written, little of what a system has.

Each is a row of a table with the statuses that are right there. Faults that come while a command runs are in
`moments.py`.
"""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from effdet.cli.status import DONE, FAILED

from .commands import Place
from .verbs import Inputs

Sizes = Callable[[], list[int]]  # of the files that a verb leaves where nothing is wrong, in bytes


@dataclass(frozen=True)
class BadPlace:
    """A row of the table.

    Attributes:
        make: the place, of the inputs, the folder that the command writes to, and the sizes of what it writes.
        statuses: that are right.
        others: statuses of some verbs that differ.
        mounts: whether it needs mounts.
    """

    make: Callable[[Inputs, Path, Sizes], Place]
    statuses: tuple[int, ...]
    others: tuple[tuple[str, tuple[int, ...]], ...] = ()
    mounts: bool = False


@functools.cache
def mounts_are_allowed() -> bool:
    """Whether this user may mount, in a namespace that ends with the process."""
    if "linux" not in sys.platform:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def full_disk(fraction: float) -> Callable[[Inputs, Path, Sizes], Place]:
    """A disk that is full after a fraction of what the command writes; what it holds in the end is copied back."""

    def make(inputs: Inputs, out: Path, sizes: Sizes) -> Place:
        held = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
        pages = max(int(fraction * (_pages(sizes()) - _pages(held))), 1)
        copy = out.with_name(f"{out.name}-copy")
        mount = f"cp -a {out} {copy}; mount -t tmpfs -o size=1g tmpfs {out}; cp -a {copy}/. {out}"
        used = f"$(df --block-size={_PAGE} --output=used {out} | tail -n 1)"
        limit = f"mount -o remount,size=$((({used} + {pages}) * {_PAGE})) {out}"
        move = f"rm -rf {copy}; cp -a {out} {copy}; umount {out}; rm -rf {out}; mv {copy} {out}"
        return Place(mounts=(mount, limit), unmounts=(move,))

    return make


def _pages(sizes: list[int]) -> int:
    """Pages that files of these sizes have on a tmpfs."""
    return sum(-(-size // _PAGE) for size in sizes)


def _limited(name: str, value: int) -> Callable[[Inputs, Path, Sizes], Place]:
    return lambda inputs, out, sizes: Place(limits={name: value})


def _environment(cold: bool = True, **changes: str | None) -> Callable[[Inputs, Path, Sizes], Place]:
    return lambda inputs, out, sizes: Place(environment=changes, cold=cold)


def _mounted(*commands: str, **environment: str | None) -> Callable[[Inputs, Path, Sizes], Place]:
    return lambda inputs, out, sizes: Place(
        environment=environment,
        mounts=tuple(command.format(out=out, inputs=inputs.folder) for command in commands),
        cold=bool(environment),
    )


_PAGE = 4096  # bytes
_NO_UTF8 = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
_READ_ONLY = "mount --bind {0} {0}; mount -o remount,bind,ro {0}"
_WRITABLE = "mount --bind {out} {out}; mount -o remount,bind,rw {out}"
_LEVELS = (0, 0.3, 0.6, 0.85)

PLACES = {
    **{f"disk full after {level:.0%}": BadPlace(full_disk(level), (FAILED,), mounts=True) for level in _LEVELS},
    "files limited to half the largest": BadPlace(
        lambda inputs, out, sizes: Place(limits={"FSIZE": max(sizes()) // 2}), (FAILED,)
    ),
    "output folder read-only": BadPlace(_mounted(_READ_ONLY.format("{out}")), (FAILED,), mounts=True),
    "inputs read-only": BadPlace(_mounted(_READ_ONLY.format("{inputs}")), (DONE,), mounts=True),
    "64 descriptors": BadPlace(_limited("NOFILE", 64), (DONE,), (("train with workers", (DONE, FAILED)),)),
    "20 descriptors": BadPlace(_limited("NOFILE", 20), (DONE, FAILED)),
    "shared memory of 64 KB": BadPlace(
        _mounted("mount -t tmpfs -o size=64k tmpfs /dev/shm"),
        (DONE,),
        (("train with workers", (FAILED,)),),
        mounts=True,
    ),
    "shared memory of 64 MB": BadPlace(_mounted("mount -t tmpfs -o size=64m tmpfs /dev/shm"), (DONE,), mounts=True),
    "ASCII": BadPlace(_environment(**_NO_UTF8, TERM="dumb"), (DONE,)),
    "no home": BadPlace(
        _mounted("mount --bind /dev/null /etc/passwd", HOME=None, EFFDET_HOME=None), (DONE,), mounts=True
    ),
    "no temporary folder": BadPlace(
        _mounted(_READ_ONLY.format("/tmp"), _READ_ONLY.format("/var/tmp"), _WRITABLE, TMPDIR="/nowhere"),
        (DONE, FAILED),  # parts of PyTorch need one when they are imported
        mounts=True,
    ),
    "standard output full": BadPlace(lambda inputs, out, sizes: Place(stdout="/dev/full", cold=True), (FAILED,)),
}
# Where slow verbs are run too.
FEW_PLACES = ("disk full after 30%", "disk full after 85%", "output folder read-only", "64 descriptors", "no home")
