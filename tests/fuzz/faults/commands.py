"""Whole commands as processes: how they are started, sent signals, and how they end.

Under which faults they run is in `places.py`; what must hold of their ends in `expectations.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
LONGEST = 300.0  # seconds of a command before it counts as hanging
ENDING = 10.0  # seconds in which the processes that a command has started must end too


@dataclass(frozen=True)
class Place:
    """Where a command runs.

    Attributes:
        environment: changes of the environment; None removes a variable.
        limits: of resources by their name, such as NOFILE.
        mounts: shell commands before it, in a mount namespace of its own.
        unmounts: shell commands after it, before the namespace ends.
        cold: whether a new Python is started, which reads the environment; else a process that has imported PyTorch.
        stdout: a file for the output in place of the usual one.
    """

    environment: dict[str, str | None] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    unmounts: tuple[str, ...] = ()
    cold: bool = False
    stdout: str | None = None


USUAL = Place()


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        status: exit status, or 128 plus the number of the signal that ended it, as in a shell.
        stdout: what it printed.
        stderr: its errors.
        hung: whether it was killed, because it did not end.
        left: names of processes that it had started and that still ran; they are killed.
    """

    status: int
    stdout: str
    stderr: str
    hung: bool
    left: tuple[str, ...]


class Starter:
    """Starts commands, one at a time; a context manager."""

    def __init__(self, logs: Path, warm: bool = True) -> None:
        """A process that starts commands; `logs` is a folder for what they print, and `warm` imports PyTorch before."""
        self._logs = logs
        script = str(Path(__file__).with_name("starter.py"))
        command = [sys.executable, script, *(["--warm"] if warm else [])]
        environment = _environment({})
        self._server = subprocess.Popen(command, bufsize=0, stdin=-1, stdout=-1, env=environment)

    def __enter__(self) -> Starter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def start(self, arguments: Sequence[str], folder: Path, place: Place = USUAL) -> Running:
        """Starts `effdet ARGUMENTS` in a folder."""
        files = {name: self._logs / name for name in ("stdout", "stderr")}
        for file in files.values():
            file.write_bytes(b"")
        request = {
            **vars(place),
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": _environment(place.environment),
            "stdout": place.stdout or str(files["stdout"]),
            "stderr": str(files["stderr"]),
        }
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        return Running(self._server.stdout, files)

    def run(self, arguments: Sequence[str], folder: Path, place: Place = USUAL, seconds: float = LONGEST) -> Ending:
        """Starts a command, and waits for its end."""
        return self.start(arguments, folder, place).wait(seconds)


class Running:
    """A command that runs."""

    def __init__(self, answers, files: dict[str, Path]) -> None:
        self._answers, self._files = answers, files
        answer = self._answer(LONGEST)
        assert answer, f"the command could not be started: {files['stderr'].read_text()}"
        self.process, self._session = map(int, answer.split())

    def send(self, number: int, process: int | None = None) -> None:
        """Sends a signal to the command alone, or to a process that it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process or self.process, number)

    def children(self) -> list[int]:
        """The processes that the command has started, such as those of the loader."""
        return [number for number, _ in _processes("--ppid", self.process)]

    def printed(self, text: str, seconds: float = LONGEST) -> bool:
        """Waits until the command has printed a text; gives whether it has."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not self.ended():
            if text in self.stdout():
                return True
            time.sleep(0.005)
        return text in self.stdout()

    def stdout(self) -> str:
        """What it has printed so far."""
        return self._files["stdout"].read_text(errors="replace")

    def ended(self) -> bool:
        """Whether it has ended."""
        return bool(select.select([self._answers], [], [], 0)[0])

    def wait(self, seconds: float = LONGEST) -> Ending:
        """How it ends; it is killed if it runs longer than that."""
        answer = self._answer(seconds)
        hung = not answer
        if hung:
            self.send(signal.SIGKILL)
            answer = self._answer(LONGEST)
        texts = {name: file.read_text(errors="replace") for name, file in self._files.items()}
        code = int(answer)
        return Ending(128 - code if code < 0 else code, **texts, hung=hung, left=self._end_others())

    def _answer(self, seconds: float) -> bytes:
        return self._answers.readline() if select.select([self._answers], [], [], seconds)[0] else b""

    def _end_others(self) -> tuple[str, ...]:
        """Names of the processes of the session that do not end by themselves; they are killed."""
        deadline = time.monotonic() + ENDING
        while (left := _processes("--sid", self._session)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for number, _ in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        return tuple(name for _, name in left)


def _environment(changes: dict[str, str | None]) -> dict[str, str]:
    """The environment of a command: that of this process with changes."""
    path = os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])
    values = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **changes}
    return {name: value for name, value in values.items() if value is not None}


def _processes(option: str, value: int) -> list[tuple[int, str]]:
    """Numbers and names of processes that have not ended."""
    command = ["ps", option, str(value), "-o", "pid=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [(int(number), name) for number, state, name in rows if not state.startswith("Z")]
