"""Runs every verb in every bad place, and under signals, kills and vanishing files: the second half of `make fuzz`.

A run that was stopped goes on where it was; cases with faults run again. The tables are in `faults/`.

    python tests/fuzz/run_faults.py
    python tests/fuzz/run_faults.py --only "disk full" --out /tmp/faults
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

if __name__ == "__main__":  # as in run.py
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from fuzz.faults import container, moments
    from fuzz.faults.cases import Cases
    from fuzz.faults.commands import Starter
    from fuzz.faults.places import FEW_PLACES, PLACES, mounts_are_allowed
    from fuzz.faults.verbs import VERBS, make_inputs
else:
    from .faults import container, moments
    from .faults.cases import Cases
    from .faults.commands import Starter
    from .faults.places import FEW_PLACES, PLACES, mounts_are_allowed
    from .faults.verbs import VERBS, make_inputs

KILLS = 30
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
_TWO = ("train", "eval", "predict images", "convert", "shards", "check --fix", "export", "export to OpenVINO", "report")

Case = tuple[str, Callable[[], list[str]]]  # name, and what gives its faults


def main(arguments: list[str] | None = None) -> int:
    """Runs the cases; 1 if one is a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds the text")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (%(default)s)")
    parser.add_argument("--kills", type=int, default=KILLS, help="SIGKILLs of trainings (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder of commands.jsonl (%(default)s)")
    given = parser.parse_args(arguments)
    results = given.out.resolve() / "commands.jsonl"
    results.parent.mkdir(parents=True, exist_ok=True)
    passed = _passed(results)
    with tempfile.TemporaryDirectory() as folder, results.open("a", encoding="utf-8") as file:
        root = Path(folder)
        for name in ("inputs", "logs", "others"):
            (root / name).mkdir()
        with Starter(root / "logs") as starter, Starter(root / "others") as other:
            inputs = make_inputs(root / "inputs", starter)
            both = [Cases(one, inputs, root / "work") for one in (starter, other)]
            for name, run in all_cases(*both, root, given.kills, random.Random(given.seed)):
                if given.only not in name or name in passed:
                    continue
                started = time.monotonic()
                faults = run()
                seconds = round(time.monotonic() - started, 1)
                file.write(json.dumps({"case": name, "seconds": seconds, "faults": faults}) + "\n")
                file.flush()
                print(f"{'FAULT' if faults else 'ok':6}{seconds:6.1f} s  {name}", *faults, sep="\n  ", flush=True)
    return _summary(results)


def all_cases(cases: Cases, other: Cases, folder: Path, kills: int, rng: random.Random) -> Iterator[Case]:
    """The whole table."""
    if not mounts_are_allowed():
        print("this user may not mount, so full disks, read-only folders and containers are left out")
    for name, place in PLACES.items():
        if not place.mounts or mounts_are_allowed():
            for verb in [verb for verb, row in VERBS.items() if not row.is_slow or name in FEW_PLACES]:
                yield f"{verb}: {name}", functools.partial(_in_place, cases, verb, name)
    for verb in VERBS:
        for number in _SIGNALS:
            run = functools.partial(moments.end_by_signal, cases, verb, number, rng)
            yield f"{verb}: {number.name} at a random moment", run
    for damage in (moments.remove, moments.cut, moments.exchange):
        yield f"train: {damage.__name__} all images meanwhile", functools.partial(moments.images_vanish, cases, damage)
    yield "train: a loader process is killed", functools.partial(moments.loader_dies, cases, signal.SIGKILL)
    for number in (signal.SIGTERM, signal.SIGINT):
        run = functools.partial(moments.loader_hangs, cases, number)
        yield f"train: {number.name} while the loader hangs", run
    for verb in _TWO:
        yield f"{verb}: two at once", functools.partial(moments.two_at_once, cases, other, verb)
    if mounts_are_allowed():
        yield "make demo in a container", functools.partial(container.demo_faults, folder / "container")
    yield f"train: {kills} SIGKILLs", functools.partial(moments.kill_trainings, cases, kills, rng)


def _in_place(cases: Cases, verb: str, place: str) -> list[str]:
    return cases.in_place(verb, place)[1]


def _passed(results: Path) -> set[str]:
    """Names of the cases that were without faults."""
    return {name for name, faults in _last(results).items() if not faults}


def _last(results: Path) -> dict[str, list[str]]:
    """The newest faults of each case."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    return {record["case"]: record["faults"] for record in map(json.loads, lines)}


def _summary(results: Path) -> int:
    """Prints the counts; 1 if there are faults."""
    faults = [name for name, wrong in _last(results).items() if wrong]
    print(f"{len(_last(results)):,} cases, {len(faults):,} with faults", *faults, sep="\n  ")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
