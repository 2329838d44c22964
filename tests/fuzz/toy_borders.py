"""Borders that end in every way, for the tests of the runner."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

from effdet.errors import DataError

from .border import Border, damages


def _make(rng: random.Random, folder: Path) -> Path:
    path = folder / "numbers.txt"
    path.write_text(f"{damages(rng, folder)} {rng.random()}")
    return path


def _accept(path: Path) -> None:
    assert path.exists()


def _refuse_damaged(path: Path) -> None:
    if not path.read_text().startswith("0"):
        raise DataError(f"{path}: damaged; write it again")


def _refuse(path: Path) -> None:
    raise DataError(f"{path}: never good; do something else")


def _mumble(path: Path) -> None:
    raise DataError("'NoneType' has no length")


def _hang(path: Path) -> None:
    while True:
        pass


def _crash(path: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _leave(path: Path) -> None:
    sys.exit(f"{path} ends the process")


def _eat(path: Path) -> None:
    blocks = []
    while True:
        blocks.append(b"x" * 2**24)


def _raise(path: Path) -> None:
    raise KeyError(path.name)


def _assert(path: Path) -> None:
    assert not path.exists(), "wrong"


def _write_outside(path: Path) -> None:
    try:
        (path.parents[2] / "written").open("w")
    except Exception:
        raise DataError(f"{path}: hidden") from None


def _start_process(path: Path) -> None:
    subprocess.run([sys.executable, "--version"], check=True)


BORDERS = (
    Border("accepts", _make, _accept),
    Border("refuses damage", _make, _refuse_damaged),
    Border("refuses all", _make, _refuse),
    Border("mumbles", _make, _mumble),
    Border("hangs", _make, _hang, seconds=0.2),
    Border("crashes", _make, _crash),
    Border("leaves", _make, _leave),
    Border("eats", _make, _eat, megabytes=100),
    Border("raises", _make, _raise),
    Border("asserts", _make, _assert),
    Border("writes outside", _make, _write_outside),
    Border("starts a process", _make, _start_process),
)
