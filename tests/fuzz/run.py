"""Attacks all borders with thousands of damaged inputs, and prints how they ended: `make fuzz`.

A run that was stopped goes on where it was; cases that were faults run again. Processes and limits are in `workers.py`.

    python tests/fuzz/run.py --inputs 10000
    python tests/fuzz/run.py --border recipe --inputs 500 --seed 20000
    python tests/fuzz/run.py --case recipe 17       # one case in this process, with its traceback
"""

from __future__ import annotations

import argparse
import json
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

if __name__ == "__main__":  # see border.py
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
    from fuzz.border import Border, all_borders
    from fuzz.judge import FAULTS, OUTCOMES, make_input, read_input, with_mark
    from fuzz.workers import Result, Worker
else:
    from .border import Border, all_borders
    from .judge import FAULTS, OUTCOMES, make_input, read_input, with_mark
    from .workers import Result, Worker

HEAVY = 0.1  # inputs of a heavy border for one of another
_REASON = 600  # characters of a refusal that are kept

Case = tuple[str, int]  # name of the border and seed


def main(arguments: list[str] | None = None) -> int:
    """Runs what the command line asks for; 1 if a case is a fault, 130 if the user stops it."""
    given = _parser().parse_args(arguments)
    borders = all_borders()
    if given.case:
        return _run_one(borders[given.case[0]], int(given.case[1]))
    unknown = set(given.border) - borders.keys()
    if unknown:
        sys.exit(f"no border {', '.join(sorted(unknown))}; there are {', '.join(borders)}")
    chosen = {name: border for name, border in borders.items() if name in given.border or not given.border}
    cases = list(cases_of(chosen.values(), given.inputs, given.seed))
    try:
        results = run_cases(chosen, cases, given.out, given.workers)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        return 130
    print(table(results))
    faults = sum(result.outcome in FAULTS for result in results.values())
    print(f"{len(results):,} inputs, {faults:,} faults" + (f" in {given.out / 'faults'}" if faults else ""))
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all borders together")
    parser.add_argument("--seed", type=int, default=0, help="of the first input of each border")
    parser.add_argument("--border", action="extend", nargs="+", default=[], metavar="NAME", help="only these borders")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"), help="folder of results and faults")
    parser.add_argument("--case", nargs=2, metavar=("BORDER", "SEED"), help="one case in this process, without limits")
    return parser


def cases_of(borders: Iterable[Border], inputs: int, seed: int) -> Iterator[Case]:
    """The cases of borders: as many of each, but of heavy borders a tenth of those of others, and at least one."""
    borders = list(borders)
    all_parts = sum(HEAVY if border.heavy else 1 for border in borders)
    for border in borders:
        count = max(1, round(inputs * (HEAVY if border.heavy else 1) / all_parts))
        yield from ((border.name, number) for number in range(seed, seed + count))


def run_cases(
    borders: dict[str, Border], cases: list[Case], out: Path, workers: int, pattern: str = "borders_*.py"
) -> dict[Case, Result]:
    """The results of cases, of an earlier run too; new ones are appended to results.jsonl in a folder.

    Args:
        borders: by name.
        cases: what to run.
        out: the folder; inputs of faults are kept below it.
        workers: how many processes read inputs.
        pattern: of the modules that define the borders.
    """
    out.mkdir(parents=True, exist_ok=True)
    asked = set(cases)
    results = {case: result for case, result in _earlier(out / "results.jsonl").items() if case in asked}
    waiting: queue.SimpleQueue[Case] = queue.SimpleQueue()
    for case in cases:
        if case not in results or results[case].outcome in FAULTS:
            waiting.put(case)
    stopped, lock = threading.Event(), threading.Lock()

    def work(number: int) -> None:
        worker = Worker(out / f"worker-{number}", pattern)
        try:
            while not stopped.is_set():
                try:
                    name, seed = waiting.get_nowait()
                except queue.Empty:
                    return
                result = worker.run(borders[name], seed)
                with lock:
                    results[name, seed] = result
                    _keep(out, (name, seed), result, worker.case)
        finally:
            worker.close()

    with ThreadPoolExecutor(workers) as pool:
        running = [pool.submit(work, number) for number in range(workers)]
        try:
            for one in as_completed(running):
                one.result()
        finally:
            stopped.set()
    return results


def _earlier(path: Path) -> dict[Case, Result]:
    """The newest result of each case in a file; a last line that was cut is removed."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    results = {}
    for line in whole.splitlines():
        fields = json.loads(line)
        case = fields.pop("border"), fields.pop("seed")
        results[case] = Result(**fields)
    return results


def _keep(out: Path, case: Case, result: Result, folder: Path) -> None:
    """Appends a result to the file; of a fault, keeps the input with the traceback."""
    name, seed = case
    kept = out / "faults" / f"{name.replace(' ', '-')}-{seed}"
    shutil.rmtree(kept, ignore_errors=True)
    if result.outcome in FAULTS:
        kept.parent.mkdir(exist_ok=True)
        folder.rename(kept)
        (kept / "fault.txt").write_text(f"{result.outcome}\n{result.detail}\n", errors="backslashreplace")
    fields = {**vars(result), "detail": result.detail[:_REASON]}
    with (out / "results.jsonl").open("a") as file:
        file.write(json.dumps({"border": name, "seed": seed, **fields}) + "\n")


def table(results: dict[Case, Result]) -> str:
    """The results by border: how many inputs ended how, and the slowest and largest case."""
    lines = [("border", "inputs", *OUTCOMES, "slowest s", "peak MB")]
    for name in dict.fromkeys(name for name, _ in results):
        own = [result for case, result in results.items() if case[0] == name]
        counts = [sum(result.outcome == outcome for result in own) for outcome in OUTCOMES]
        slowest, largest = max(result.seconds for result in own), max(result.megabytes for result in own)
        lines.append((name, str(len(own)), *map(str, counts), f"{slowest:.1f}", f"{largest:.0f}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (zip(line, widths, strict=True) for line in lines)
    )


def _run_one(border: Border, seed: int) -> int:
    """Runs one case in this process and leaves its input."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    path = make_input(border, seed, folder)
    outcome, detail = with_mark(read_input(border, path), folder)
    print(f"{path}\n{outcome}\n{detail}")
    return 1 if outcome in FAULTS else 0


if __name__ == "__main__":
    sys.exit(main())
