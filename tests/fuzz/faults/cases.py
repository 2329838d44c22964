"""Runs a verb in a place, and gives what is wrong afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from effdet.cli.status import DONE

from .commands import USUAL, Ending, Place, Starter
from .expectations import faults_of, state_of
from .places import PLACES
from .verbs import VERBS, Inputs


class Table:
    """Verbs and places, each combination a case."""

    def __init__(self, starter: Starter, inputs: Inputs, folder: Path) -> None:
        """Cases are run in folders below `folder`."""
        self._starter, self._inputs, self._folder = starter, inputs, folder
        self._sizes: dict[str, list[int]] = {}

    def run(self, verb: str, place: str) -> tuple[Ending, list[str]]:
        """How a verb ends in a place, and what is wrong then; nothing is left in the folder if nothing is."""
        row, out = PLACES[place], self._prepared(verb)
        made = row.make(self._inputs, out, self.sizes(verb))
        return self._judge(verb, out, made, dict(row.others).get(verb, row.statuses))

    def sizes(self, verb: str) -> list[int]:
        """Of the files that a verb leaves where nothing is wrong, in bytes."""
        if verb not in self._sizes:
            out = self._prepared(verb)
            ending, faults = self._judge(verb, out, USUAL, (DONE,), keep=True)
            assert not faults, (verb, faults, ending)
            self._sizes[verb] = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
            shutil.rmtree(out)
        return self._sizes[verb]

    def _prepared(self, verb: str) -> Path:
        out = self._folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        VERBS[verb].prepare(self._inputs, out)
        return out

    def _judge(
        self, verb: str, out: Path, place: Place, statuses: Collection[int], keep: bool = False
    ) -> tuple[Ending, list[str]]:
        row, before = VERBS[verb], state_of(self._inputs.folder)
        were_there = [path for path in out.rglob("*") if path.is_file()]
        ending = self._starter.run(row.arguments(self._inputs, out), self._folder, place)
        faults = faults_of(ending, statuses, before, out)
        faults += [f"lost: {path}" for path in were_there if not path.exists()]
        if ending.status == DONE:
            faults += [f"not written: {name}" for name in row.writes if not (out / name).exists()]
        if not faults and not keep:
            shutil.rmtree(out)
        return ending, faults
