"""The files in folders and of globs, in folders that may be anything: links in circles, hundreds of levels.

Each folder is read once, whatever links lead to it. Which of the files are images and videos is known in `search.py`.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from effdet.data.formats.listing import DEEPEST, is_folder

_ANY_FOLDERS = "**"

Refuse = Callable[[str, str], None]  # called with a folder that cannot be searched, and why


def files_below(folder: Path, refuse: Refuse) -> Iterator[Path]:
    """The files in a folder and its subfolders, in no order; what is hidden is passed over.

    Args:
        folder: the folder.
        refuse: see `Refuse`.
    """
    return _files(str(folder), (_ANY_FOLDERS,), refuse)


def files_of_glob(pattern: Path, refuse: Refuse) -> Iterator[Path]:
    """The files that match a glob, in no order; `**` stands for any number of folders that are not hidden.

    Args:
        pattern: the glob.
        refuse: see `Refuse`.
    """
    parts = pattern.parts[1:] if pattern.anchor else pattern.parts
    repeated = (part == _ANY_FOLDERS and part == before for before, part in zip(("", *parts), parts, strict=False))
    return _files(
        pattern.anchor or ".", tuple(part for part, again in zip(parts, repeated, strict=True) if not again), refuse
    )


def _files(start: str, parts: tuple[str, ...], refuse: Refuse) -> Iterator[Path]:
    """The files whose path from the folder `start` on matches the parts of a glob."""
    tests = [_test_of(part) for part in parts]
    pending, seen = [(start, 0, 0)], set[tuple[int, int, int]]()
    while pending:
        folder, number, depth = pending.pop()
        part, is_last = parts[number], number == len(parts) - 1
        try:
            status = os.stat(folder)
            key = status.st_dev, status.st_ino, number
            if key in seen:
                continue
            seen.add(key)
            if depth > DEEPEST:
                refuse(folder, f"lies more than {DEEPEST} folders deep; name it itself")
                continue
            if part == _ANY_FOLDERS and not is_last:
                pending.append((folder, number + 1, depth))
            entries = _entries(folder, part)
        except OSError as error:
            refuse(folder, error.strerror or str(error))
            continue
        for name, leads_on in entries:
            path = os.path.join(folder, name)
            if not tests[number](name):
                continue
            if not leads_on:
                if is_last:
                    yield Path(path)
            elif part == _ANY_FOLDERS:
                pending.append((path, number, depth + 1))
            elif not is_last:
                pending.append((path, number + 1, depth))


def _entries(folder: str, part: str) -> list[tuple[str, bool]]:
    """Name of each entry of a folder that may match a part of a glob, and whether it is a folder."""
    if not glob.has_magic(part):
        path = os.path.join(folder, part)
        return [(part, os.path.isdir(path))] if os.path.lexists(path) else []
    with os.scandir(folder) as entries:
        return [(entry.name, is_folder(entry)) for entry in entries]


def _test_of(part: str) -> Callable[[str], bool]:
    """Whether a name matches a part of a glob; hidden ones match only a part that begins with a dot."""
    if part == _ANY_FOLDERS:
        return lambda name: not name.startswith(".")
    if not glob.has_magic(part):
        return lambda name: True
    match, hidden = re.compile(fnmatch.translate(os.path.normcase(part))).match, part.startswith(".")
    return lambda name: match(os.path.normcase(name)) is not None and (hidden or not name.startswith("."))
