"""Processes that read the inputs of cases, and their ends: crashes, hangs and memory are recognised from outside.

What a case does inside of its process is judged in `judge.py`; which cases run is chosen in `run.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .border import Border, all_borders
from .judge import Guard, make_input, read_input, with_mark

START = "import sys; sys.path.insert(0, sys.argv[1]); from fuzz.workers import serve; serve(sys.argv[2], sys.argv[3:])"
_MAKING = 600  # seconds in which an input must be made
_WAITING = 5  # times the limit of a case that it may last while other programs use the processor
_LOADING = 10  # times the limits of a border that its first case in a process may need, which loads modules
_MOST = 2500  # megabytes of a process between two cases, more than which it is replaced
_PAUSE = 0.02  # seconds between two looks at a process


@dataclass(frozen=True)
class Result:
    """How a case ended.

    Attributes:
        outcome: one of `judge.OUTCOMES`.
        detail: the traceback of a fault, the message of a refusal.
        seconds: how long reading lasted.
        megabytes: how much memory reading added at its peak.
    """

    outcome: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


class Worker:
    """A process that reads inputs; one that ends or is ended is replaced by the next case."""

    def __init__(self, scratch: Path, pattern: str = "borders_*.py") -> None:
        """A worker with a folder of its own, whose borders stand in the modules of a pattern; it starts when needed."""
        self._scratch, self._pattern = scratch.absolute(), pattern
        self._process: subprocess.Popen[bytes] | None = None
        self.case = self._scratch / "case"
        for name in ("tmp", "home"):
            (self._scratch / name).mkdir(parents=True, exist_ok=True)

    def run(self, border: Border, seed: int) -> Result:
        """How a case ends; its input is in the folder `case` until the next one runs."""
        _remove(self.case)
        self.case.mkdir()
        process = self._process or self._start()
        self._send(process, {"border": border.name, "seed": seed})
        result = self._watch(process, border)
        if result.outcome in ("crash", "hang", "memory") or _usage(process.pid)[1] > _MOST:
            self.close()
        return result

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[bytes]:
        tests = Path(__file__).resolve().parent.parent
        places = {"TMPDIR": str(self._scratch / "tmp"), "EFFDET_HOME": str(self._scratch / "home")}
        plain = {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1", "CUDA_VISIBLE_DEVICES": ""}
        paths = os.pathsep.join(filter(None, (str(tests.parent), os.environ.get("PYTHONPATH"))))
        with (self._scratch / "errors.txt").open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", "-c", START, str(tests), self._pattern, str(self._scratch)],
                env={**os.environ, **places, **plain, "PYTHONPATH": paths},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,  # so that no answer waits where a selector does not see it
            )
        return self._process

    @staticmethod
    def _send(process: subprocess.Popen[bytes], case: dict[str, Any]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which watching shows
            process.stdin.write(json.dumps(case).encode() + b"\n")

    def _watch(self, process: subprocess.Popen[bytes], border: Border) -> Result:
        """How the case in a process ends."""
        assert process.stdout is not None
        factor, start, (cpu, memory) = 0, time.monotonic(), (0.0, 0.0)  # factor of the limits; 0 while it is made
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if selector.select(_PAUSE):
                    message = _hear(process.stdout)
                    if message is None:
                        return Result("crash", self._last_words(process), time.monotonic() - start)
                    if "outcome" in message:
                        return _within(Result(**message), border)
                    factor, start, (cpu, memory) = message["factor"], time.monotonic(), _usage(process.pid)
                lasted = time.monotonic() - start
                if factor == 0:
                    assert lasted < _MAKING, f"{border.name}: making an input lasts too long"
                    continue
                now = _usage(process.pid)
                if now[0] - cpu > factor * border.seconds or lasted > factor * _WAITING * border.seconds:
                    return Result("hang", f"ended after {lasted:.1f} s", lasted, now[1] - memory)
                if now[1] - memory > factor * border.megabytes:
                    return Result("memory", f"ended at {now[1] - memory:.0f} MB", lasted, now[1] - memory)

    def _last_words(self, process: subprocess.Popen[bytes]) -> str:
        """Why a process ended."""
        return f"status {process.wait()}\n" + (self._scratch / "errors.txt").read_text(errors="replace")[-3000:]


def _hear(answers: IO[bytes]) -> dict[str, Any] | None:
    """The next message of a process; None if it has ended."""
    line = answers.readline()
    return json.loads(line) if line.endswith(b"\n") else None


def _within(result: Result, border: Border) -> Result:
    """A result, a fault where the case needed more memory than it may."""
    if result.megabytes > border.megabytes and result.outcome in ("accepted", "refused"):
        return Result("memory", f"needed {result.megabytes:.0f} MB", result.seconds, result.megabytes)
    return result


def _remove(folder: Path) -> None:
    """Removes a folder, also one whose folders may not be read."""
    if folder.exists():
        for name, _, _ in os.walk(os.fsencode(folder)):
            os.chmod(name, 0o700)
        shutil.rmtree(folder)


def _usage(process: int) -> tuple[float, float]:
    """Seconds of the processor and megabytes of a process: 0 where the system does not say, or of one that ended."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0, 0.0
    ticks, pages = int(fields[11]) + int(fields[12]), int(fields[21])
    return ticks / os.sysconf("SC_CLK_TCK"), pages * os.sysconf("SC_PAGE_SIZE") / 2**20


# In the process.


def serve(pattern: str, arguments: list[str]) -> None:
    """Reads cases from standard input, one JSON a line, and writes their outcomes to standard output."""
    scratch = Path(arguments[0])
    answers = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nowhere:  # what a library prints is no answer
        os.dup2(nowhere.fileno(), 1)
    guard, borders, known = Guard((scratch,)), all_borders(pattern), set()
    guard.install()
    for line in sys.stdin:
        case = json.loads(line)
        border, folder = borders[case["border"]], scratch / "case"
        if border.name not in known:  # the first reading loads modules and is no case
            known.add(border.name)
            _begin(answers, border, _LOADING)
            with tempfile.TemporaryDirectory(dir=scratch) as first:
                read_input(border, make_input(border, case["seed"], Path(first)))
        path = make_input(border, case["seed"], folder)
        _begin(answers, border, 1)
        with _measured() as measured:
            outcome = read_input(border, path, guard)
        name, detail = with_mark(outcome, folder)
        _say(answers, {"outcome": name, "detail": detail, **measured})


def _begin(answers: Any, border: Border, factor: int) -> None:
    """Says that reading begins; the system ends this process if nobody else does, since the runner may be gone."""
    signal.alarm(int(2 * factor * _WAITING * border.seconds) + 10)
    _say(answers, {"factor": factor})


def _say(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


@contextlib.contextmanager
def _measured() -> Iterator[dict[str, float]]:
    """A context that gives its seconds and the megabytes which it added at its peak, after its end."""
    measured: dict[str, float] = {}
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, start = _usage(os.getpid())[1], time.monotonic()
    yield measured
    measured |= {"seconds": round(time.monotonic() - start, 4), "megabytes": round(max(0.0, _peak() - before), 1)}


def _peak() -> float:
    """The largest memory of this process in megabytes; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
