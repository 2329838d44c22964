"""Faults that come while a command runs: signals at random moments, images that vanish, loader processes that die.

Each function gives what was wrong, and counts what it did. Places in which a whole command runs are in `places.py`.
"""

from __future__ import annotations

import csv
import itertools
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from effdet.cli.status import DONE, FAILED, INTERRUPTED, TERMINATED

from .cases import Cases
from .commands import Running
from .expectations import leftovers
from .verbs import VERBS

_CLOCKS = ("seconds", "images_per_second", "data_wait")  # columns of log.csv that differ from run to run
_SAME = ("metrics.json", "predictions.json", "confusion.csv", "log.csv", "last.pt", "best.pt")
_OFTEN = ("train.save_every_minutes=0.0001", "--resume", "auto")
KILLED = 128 + signal.SIGKILL
_ANSWER = 90.0  # seconds in which a signal must end a training whose loader hangs


def kill_trainings(cases: Cases, number: int, rng: random.Random) -> list[str]:
    """Kills a training at random moments, and resumes it until it is finished; then the next one, `number` times.

    Each finished run must equal the one that was never killed, to the last bit.
    """
    killed, faults = 0, []
    for run in itertools.count():
        out = cases.prepared("train", f"killed-{run}")
        while True:
            kills = killed < number
            after = rng.uniform(0.1, 0.9) * cases.inputs.seconds
            meanwhile = _signal_after(after, signal.SIGKILL) if kills else _nothing
            statuses = (DONE, KILLED) if kills else (DONE,)
            ending, wrong = cases.judged("train", out, statuses, changes=_OFTEN, meanwhile=meanwhile, may_leave=kills)
            killed += ending.status == KILLED
            faults += [f"run {run}, {killed} kills, the last after {after:.2f} s: {fault}" for fault in wrong]
            if ending.status == DONE or wrong:
                break
        if faults:
            return faults
        faults += [f"run {run}: left over: {path}" for path in leftovers(out)]
        faults += [f"run {run}: {name} differs" for name in differences(out / "run", cases.inputs.run)]
        if faults:
            return faults
        shutil.rmtree(out)
        if killed >= number:
            break
    return []


def end_by_signal(cases: Cases, verb: str, number: int, rng: random.Random) -> list[str]:
    """Ends a verb by a signal at a random moment, and runs it again."""
    right = {signal.SIGTERM: TERMINATED, signal.SIGINT: INTERRUPTED, signal.SIGKILL: KILLED}[number]
    after = rng.uniform(0, 1) * cases.usual(verb).seconds
    out, kills = cases.prepared(verb), number == signal.SIGKILL
    ending, faults = cases.judged(verb, out, (DONE, right), meanwhile=_signal_after(after, number), may_leave=kills)
    if not faults and ending.status != DONE:
        again = {"train": ["--resume", "auto"], "predict": ["--overwrite"]}.get(verb.split()[0], [])
        is_whole = all((out / name).exists() for name in VERBS[verb].writes)  # then it may refuse to overwrite that
        _, faults = cases.judged(verb, out, (DONE, FAILED) if is_whole or verb == "eval" else (DONE,), changes=again)
        if verb.startswith("train"):
            faults += [f"{name} differs" for name in differences(out / "run", cases.inputs.run)]
    return [f"{signal.Signals(number).name} after {after:.2f} s: {fault}" for fault in faults]


def images_vanish(cases: Cases, damage: Callable[[Path], None]) -> list[str]:
    """Damages all images during a training, which must say so and can be resumed once they are there again."""
    out = cases.prepared("train")
    data, images = out / "data", out / "data" / "train2017"
    shutil.copytree(cases.inputs.data, data)

    def damage_all(running: Running) -> None:
        running.printed("step 1 of")
        for image in images.iterdir():
            damage(image)

    place = [f"data.root={data}"]
    ending, faults = cases.judged("train", out, (FAILED,), changes=place, meanwhile=damage_all)
    faults += [] if "continue with" in ending.stdout else [f"nothing is saved: {ending.stdout[-300:]}"]
    faults = [fault for fault in faults if str(images) not in fault]
    shutil.copytree(cases.inputs.data / images.name, images, dirs_exist_ok=True)
    if not faults:
        _, faults = cases.judged("train", out, (DONE,), changes=[*place, "--resume", "auto"])
        faults += [f"{name} differs" for name in differences(out / "run", cases.inputs.run)]
    return faults


def remove(image: Path) -> None:
    """Removes an image."""
    image.unlink()


def cut(image: Path) -> None:
    """Leaves the first half of an image."""
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])


def exchange(image: Path) -> None:
    """Puts another image in its place, of another size."""
    import cv2
    import numpy as np

    cv2.imwrite(str(image), np.zeros((40, 60, 3), np.uint8))


def loader_dies(cases: Cases, number: int) -> list[str]:
    """Sends a signal to a loader process of a training: SIGKILL must be a sentence, and what was computed is saved."""
    out = cases.prepared("train with workers")

    def end_one(running: Running) -> None:
        running.printed("step 1 of")
        for child in running.children()[-1:]:
            running.send(number, child)

    longer = ["train.epochs=40", "eval.every_epochs=0"]
    ending, faults = cases.judged("train with workers", out, (FAILED,), changes=longer, meanwhile=end_one)
    return faults + ([] if "continue with" in ending.stdout else [f"nothing is saved: {ending.stdout[-300:]}"])


def loader_hangs(cases: Cases, number: int) -> list[str]:
    """Stops all loader processes of a training, as a network drive does that does not respond; then sends a signal.

    The training must end although no batch comes: after SIGTERM with a sentence, after the second Ctrl-C at once.
    """
    out = cases.prepared("train with workers")
    right = FAILED if number == signal.SIGTERM else INTERRUPTED

    def stop_all(running: Running) -> None:
        running.printed("step 1 of")
        for child in running.children():
            running.send(signal.SIGSTOP, child)
        for _ in range(1 if number == signal.SIGTERM else 2):
            time.sleep(2)
            running.send(number)

    longer = ["train.epochs=40", "eval.every_epochs=0"]
    ending, faults = cases.judged(
        "train with workers", out, (right,), changes=longer, meanwhile=stop_all, seconds=_ANSWER
    )
    return faults + ([] if "continue with" in ending.stdout else [f"nothing is saved: {ending.stdout[-300:]}"])


def two_at_once(cases: Cases, other: Cases, verb: str, changes: tuple[str, ...] = ()) -> list[str]:
    """Starts a verb twice into the same folder: one may refuse, and what is there in the end is whole."""
    out = cases.prepared(verb)
    ended = []

    def start_other(running: Running) -> None:
        ended.append(other.judged(verb, out, (DONE, FAILED), changes=changes, may_leave=True))

    own, faults = cases.judged(verb, out, (DONE, FAILED), changes=changes, meanwhile=start_other)
    faults += ended[0][1]
    faults += [] if DONE in (own.status, ended[0][0].status) else ["neither is done"]
    return faults + [f"left over: {path}" for path in leftovers(out)]


def differences(run: Path, other: Path) -> list[str]:
    """Names of the files in which two finished runs differ, apart from clocks and from how they were interrupted."""
    return [name for name in _SAME if _content(run / name) != _content(other / name)]


def _content(path: Path):
    """What is compared of a file."""
    if path.suffix == ".csv" and path.name.startswith("log"):
        with path.open(newline="") as file:
            return [{key: value for key, value in row.items() if key not in _CLOCKS} for row in csv.DictReader(file)]
    if path.suffix == ".pt":
        content = torch.load(path, weights_only=True)
        training = {key: value for key, value in content.get("training", {}).items() if key != "seconds"}
        return {name: _plain(value) for name, value in (("model", content["model"]), ("training", training))}
    return path.read_bytes()


def _plain(value):
    """A tree of containers with tensors as their bytes, which can be compared.

    The optimizer's learning rate is left out: the schedule sets it before each step.
    """
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items() if key != "lr"}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, torch.Tensor):
        return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return value


def _signal_after(seconds: float, number: int) -> Callable[[Running], None]:
    def send(running: Running) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not running.ended():
            time.sleep(0.005)
        running.send(number)

    return send


def _nothing(running: Running) -> None:
    """What happens meanwhile if nothing does."""
