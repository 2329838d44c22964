"""What must hold when a command ends, whatever its faults: one sentence, the right status, nothing lost, torn or left.

Everything is checked from outside, with the readers of other packages.
"""

from __future__ import annotations

import csv
import json
import os
import re
import tarfile
from collections.abc import Callable, Collection
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from effdet.cli import status

from .commands import Ending

_STATUSES = {value for name, value in vars(status).items() if name.isupper()}
_LONGEST_SENTENCE = 2000  # characters
_LEFTOVER = re.compile(r"\.effdet-.*|.*\.(partial|lock)|next\.pt")
_NOISE = re.compile(r"Traceback \(most recent call last\)|Exception ignored|Warning:|core dumped|object at 0x")
_NOTICE = re.compile(r"stopping after this step.*|terminated|interrupted")  # after a signal


def faults_of(
    ending: Ending, statuses: Collection[int], before: dict[str, int], folder: Path, may_leave: bool = False
) -> list[str]:
    """What is wrong after a command; empty if nothing is.

    Args:
        ending: of the command.
        statuses: one of which it must have.
        before: `state_of` the folders that it must not change.
        folder: that it wrote to.
        may_leave: whether incomplete files may be left over.
    """
    faults = ["it does not end"] if ending.hung else []
    if ending.status not in statuses:
        faults.append(f"status {ending.status}, expected {' or '.join(map(str, sorted(statuses)))}")
    faults += [f"a process is left: {name}" for name in ending.left]
    faults += text_faults(ending)
    faults += [f"changed or lost: {name}" for name, changed in before.items() if _changed(Path(name)) != changed]
    left = leftovers(folder)
    if not may_leave:
        faults += [f"left over: {path}" for path in left if not _is_named(path, ending.stderr)]
    for path in whole_files(folder):
        reason = damage_of(path, may_end=ending.status != status.DONE)
        faults += [f"torn: {path}: {reason}"] if reason and path.exists() else []
    return faults


def leftovers(folder: Path) -> list[Path]:
    """Incomplete files and locks below a folder."""
    return [path for path in _paths_below(folder) if _LEFTOVER.fullmatch(path.name)]


def whole_files(folder: Path) -> list[Path]:
    """The files below a folder, without incomplete ones and what is in incomplete folders."""
    paths = [path for path in _paths_below(folder) if path.is_file()]
    return [path for path in paths if not any(map(_LEFTOVER.fullmatch, path.relative_to(folder).parts))]


def _paths_below(folder: Path) -> list[Path]:
    """All files and folders below a folder, from which another command may remove some meanwhile."""
    return sorted(Path(root, name) for root, *names in os.walk(folder) for name in [*names[0], *names[1]])


def text_faults(ending: Ending) -> list[str]:
    """What is wrong with what a command printed."""
    faults = [f"{name}: {text.strip()[-1500:]}" for name, text in _texts(ending) if _NOISE.search(text)]
    lines = [line for line in ending.stderr.splitlines() if line and not _NOTICE.fullmatch(line)]
    errors = [line for line in lines if line.startswith("error: ")]
    if ending.status == status.FAILED and len(errors) != 1:
        faults.append(f"{len(errors)} sentences: {ending.stderr.strip()[-1500:] or 'nothing'}")
    if ending.status in _STATUSES - {status.FAILED, status.USAGE} and lines:
        faults.append(f"errors with status {ending.status}: {ending.stderr.strip()[-1500:]}")
    if any(len(line) > _LONGEST_SENTENCE for line in lines):
        faults.append("a sentence is very long")
    return faults


def state_of(*folders: Path) -> dict[str, int]:
    """When each file below folders was changed last."""
    return {str(path): _changed(path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


def damage_of(path: Path, may_end: bool) -> str | None:
    """Why the content of a file is not whole; None if it is. `may_end`: the last line of a log may be incomplete."""
    reader = _READERS.get(path.suffix)
    if reader is None:
        return None
    try:
        if path.name.startswith("log.") and may_end:
            complete, _, _ = path.read_text().rpartition("\n")
            return _lines_damage(path.suffix, complete)
        return None if reader(path) else "it cannot be read"
    except Exception as error:  # of any reader
        return f"{type(error).__name__}: {error}"[:200]


def _changed(path: Path) -> int:
    return path.stat().st_ctime_ns if path.exists() else 0


def _texts(ending: Ending) -> tuple[tuple[str, str], ...]:
    return ("stdout", ending.stdout), ("stderr", ending.stderr)


def _is_named(path: Path, text: str) -> bool:
    """Whether a sentence says that a file is kept, such as the results of a prediction that an error ended."""
    patterns = [re.escape(word.rstrip(",;")).replace(r"\*", ".*") for word in text.split() if "/." in word]
    return any(re.fullmatch(pattern, str(path)) for pattern in patterns)


def _lines_damage(suffix: str, text: str) -> str | None:
    if suffix == ".jsonl":
        for line in text.splitlines():
            json.loads(line)
        return None
    rows = list(csv.reader(text.splitlines()))
    return "rows of different length" if len({len(row) for row in rows}) > 1 else None


def _is_table(path: Path) -> bool:
    text = path.read_text(errors="surrogateescape")
    return text.endswith("\n") and _lines_damage(path.suffix, text) is None


def _is_video(path: Path) -> bool:
    video = cv2.VideoCapture(str(path))
    count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
    return count > 0 and all(video.read()[0] for _ in range(count))


def _is_archive(path: Path) -> bool:
    with tarfile.open(path) as archive:
        return all(len(archive.extractfile(member).read()) == member.size for member in archive.getmembers())


def _is_onnx(path: Path) -> bool:
    import onnx

    onnx.checker.check_model(str(path))
    return True


def _is_index(path: Path) -> bool:
    with np.load(path) as arrays:
        return all(arrays[name] is not None for name in arrays.files)


_READERS: dict[str, Callable[[Path], bool]] = {
    ".json": lambda path: json.loads(path.read_text(), parse_constant=_refuse) is not None,
    ".jsonl": _is_table,
    ".csv": _is_table,
    ".pt": lambda path: bool(torch.load(path, weights_only=True, mmap=True)),
    ".yaml": lambda path: yaml.safe_load(path.read_text()) is not None,
    ".html": lambda path: path.read_text().rstrip().endswith("</html>"),
    ".png": lambda path: cv2.imread(str(path)) is not None,
    ".jpg": lambda path: path.read_bytes().endswith(b"\xff\xd9") and cv2.imread(str(path)) is not None,
    ".mp4": _is_video,
    ".tar": _is_archive,
    ".npz": _is_index,
    ".onnx": _is_onnx,
}


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
