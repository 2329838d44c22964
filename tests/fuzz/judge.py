"""How a case ends in the process that reads it: accepted, refused with a message for people, or a fault.

Cases that end their process or never end are recognised in `workers.py`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdet.errors import EffdetError

from .border import MARK, Border, random_of

SOUND = ("accepted", "refused")
FAULTS = ("traceback", "wrong", "crash", "hang", "memory")
OUTCOMES = (*SOUND, *FAULTS)
_LONGEST, _MOST_LINES = 4000, 25  # characters and lines of a message
_NOT_FOR_PEOPLE = re.compile(
    r"tensor\([-\d\[]|object at 0x|NoneType|<class '|<function |Traceback \(|__\w+__\(|positional arg|keyword arg|"
    r"unsupported operand|object (is not|has no|does not)|argument of type|must be (real|str|int|a) |not enough values"
)
_HALF = re.compile(
    "[\ud800-\udc7f\udd00-\udfff]"
)  # of characters; the others stand for bytes of names that are no text
_SECRETS = ("/etc/passwd", "/proc/self/environ")  # that inputs name, and nothing opens
_REACHING = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class ReachedOutError(BaseException):
    """Raised where reading starts a process, opens a connection or writes a file; no handler of errors hides it."""


@dataclass
class Guard:
    """Hears what Python opens and starts while a case is read. Libraries in C are not heard.

    Attributes:
        folders: in which files may be written.
        heard: what was done against the rules.
        on: whether it listens; the first reading in a process loads modules, which may do anything.
    """

    folders: tuple[Path, ...]
    heard: list[str] = field(default_factory=list)
    on: bool = False

    def install(self) -> None:
        """Hears from now on, as long as the process lives."""
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event in _REACHING or (event == "open" and self._is_forbidden(arguments[0], arguments[2])):
            self.heard.append(f"{event} {arguments[:2]!r}"[:300])
            raise ReachedOutError(self.heard[-1])

    def _is_forbidden(self, path: Any, flags: Any) -> bool:
        if isinstance(path, int) or path is None:
            return False
        name = os.path.abspath(os.fsdecode(path))
        if not (isinstance(flags, int) and flags & _WRITING) or name == os.devnull:
            return name in _SECRETS
        return not any(Path(name).is_relative_to(folder) for folder in self.folders)


@contextlib.contextmanager
def _listening(guard: Guard | None) -> Iterator[None]:
    if guard is None:
        yield
        return
    guard.heard.clear()
    guard.on = True
    try:
        yield
    finally:
        guard.on = False


def make_input(border: Border, seed: int, folder: Path) -> Path:
    """Writes the input of a case into an empty folder; gives what is to be read."""
    return border.make(random_of(border.name, seed), folder)


def read_input(border: Border, path: Path, guard: Guard | None = None) -> tuple[str, str]:
    """The outcome of reading, and of a fault its traceback or of a refusal its message."""
    try:
        with _listening(guard):
            border.read(path)
        outcome = "accepted", ""
    except EffdetError as error:
        outcome = _of_message(str(error))
    except AssertionError:
        outcome = "wrong", traceback.format_exc()
    except MemoryError:
        outcome = "memory", traceback.format_exc()
    except (Exception, ReachedOutError):
        outcome = "traceback", traceback.format_exc()
    if guard is not None and guard.heard:
        return "wrong", f"reached out: {guard.heard[0]}\n{outcome[1]}"
    return outcome


def with_mark(outcome: tuple[str, str], folder: Path) -> tuple[str, str]:
    """The outcome of a case in a folder: a sound input that is refused is a fault."""
    if outcome[0] == "refused" and (folder / MARK).exists():
        return "wrong", f"a sound input is refused: {outcome[1]}"
    return outcome


def _of_message(message: str) -> tuple[str, str]:
    """The outcome of a refusal with this message: a fault if it is not for people.

    It may have control characters, which become escapes where it is printed.
    """
    reasons = {
        "it is empty": not message.strip(),
        "it has half a character": _HALF.search(message),
        "it is a program's, not a person's": _NOT_FOR_PEOPLE.search(message),
        f"it has {len(message):,} characters": len(message) > _LONGEST,
        f"it has {message.count(chr(10)) + 1} lines": message.count("\n") >= _MOST_LINES,
    }
    for reason, holds in reasons.items():
        if holds:
            return "wrong", f"a message for people, but {reason}:\n{message[:_LONGEST]!a}"
    return "refused", message
