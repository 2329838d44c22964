"""Runs a verb once, in a place or with something that happens meanwhile, and gives what is wrong afterwards."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from effdet.cli.status import DONE

from .commands import LONGEST, USUAL, Ending, Place, Running, Starter
from .expectations import faults_of, state_of, whole_files
from .places import PLACES
from .verbs import VERBS, Inputs


@dataclass(frozen=True)
class Usual:
    """What a verb does where nothing is wrong.

    Attributes:
        sizes: of the files that it leaves, in bytes.
        seconds: how long it lasts.
    """

    sizes: list[int]
    seconds: float


class Cases:
    """Runs verbs under faults, each in a new folder, which is removed if nothing is wrong."""

    def __init__(self, starter: Starter, inputs: Inputs, folder: Path) -> None:
        """Cases are run in folders below `folder`."""
        self.starter, self.inputs, self.folder = starter, inputs, folder
        self._usual: dict[str, Usual] = {}

    def in_place(self, verb: str, place: str) -> tuple[Ending, list[str]]:
        """How a verb ends in one of `PLACES`, and what is wrong then."""
        row, out = PLACES[place], self.prepared(verb)
        made = row.make(self.inputs, out, lambda: self.usual(verb).sizes)
        ending, faults = self.judged(verb, out, dict(row.others).get(verb, row.statuses), place=made)
        if not faults:
            shutil.rmtree(out)
        return ending, faults

    def usual(self, verb: str) -> Usual:
        """What a verb does where nothing is wrong, measured once."""
        if verb not in self._usual:
            out = self.prepared(verb, "usual")
            started = time.monotonic()
            ending, faults = self.judged(verb, out, (DONE,))
            assert not faults, (verb, faults, ending)
            sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
            self._usual[verb] = Usual(sizes, time.monotonic() - started)
            shutil.rmtree(out)
        return self._usual[verb]

    def prepared(self, verb: str, name: str = "out") -> Path:
        """A new folder for a verb, with what is there before."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        VERBS[verb].prepare(self.inputs, out)
        return out

    def judged(
        self,
        verb: str,
        out: Path,
        statuses: Collection[int],
        *,
        changes: Sequence[str] = (),
        place: Place = USUAL,
        meanwhile: Callable[[Running], None] = lambda running: None,
        may_leave: bool = False,
        seconds: float = LONGEST,
    ) -> tuple[Ending, list[str]]:
        """How a verb ends, and what is wrong then.

        Args:
            verb: one of `VERBS`.
            out: the folder that it writes to.
            statuses: one of which is right.
            changes: more arguments.
            place: where it runs.
            meanwhile: what happens to it while it runs.
            may_leave: whether incomplete files may be left over, as after SIGKILL.
            seconds: in which it must end after that.
        """
        row, before = VERBS[verb], state_of(self.inputs.folder)
        were_there = whole_files(out)
        running = self.starter.start([*row.arguments(self.inputs, out), *changes], self.folder, place)
        meanwhile(running)
        ending = running.wait(seconds)
        faults = faults_of(ending, statuses, before, out, may_leave)
        # A kill between two renames leaves next.pt and previous.pt, from which the training goes on.
        faults += [f"lost: {path}" for path in were_there if not (path.exists() or path.with_name("next.pt").exists())]
        if ending.status == DONE:
            faults += [f"not written: {name}" for name in row.writes if not (out / name).exists()]
        return ending, faults
