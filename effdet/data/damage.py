"""Names all damaged images of a data set in one error, so that a user does not meet them one after the other.

Which images are damaged is decided in `image_header.py`.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from effdet.data.image_header import damaged
from effdet.data.image_table import ImageTable
from effdet.errors import DataError
from effdet.files import write_text
from effdet.text import count_of

LISTED = 20  # names in a message
_CHUNK = 256  # images that are checked between two looks at the clock
_FEW = 1000  # files whose sizes are read without threads


def check_sizes(tables: Sequence[ImageTable], root: Path | None) -> None:
    """Checks that no image file is empty, without reading the files.

    Args:
        tables: the splits of a data set.
        root: its folder, for the advice.

    Raises:
        DataError: files are empty; the message names them.
    """
    faults = []
    for table in tables:
        if table.store is None:
            paths = [table.path(index) for index in range(len(table))]
            empty = [(path, "the file is empty") for path, size in zip(paths, _sizes(paths), strict=True) if size == 0]
            if empty:
                faults.append(_summary(table, empty))
    if faults:
        raise DataError("; ".join([*faults, _advice(root)]))


@contextlib.contextmanager
def all_damaged_named(
    tables: Sequence[ImageTable],
    root: Path | None,
    folder: Path,
    show: Callable[[str], None],
    limit: float | None = None,
) -> Iterator[None]:
    """If an image turns out to be damaged inside the context, all images are checked and the error names all of those.

    Args:
        tables: the splits of a data set.
        root: its folder, for the advice.
        folder: where damaged.txt lists all of them.
        show: shows a line.
        limit: seconds after which the check ends; None for no limit.
    """
    try:
        yield
    except DataError as error:
        if not any(_names_an_image(error, table) for table in tables):
            raise
        show(f"an image is damaged; checking all {sum(map(len, tables))} images")
        found = [(table, _damaged_in(table, limit)) for table in tables]
        faults = [(table, faulty) for table, faulty in found if faulty]
        if sum(len(faulty) for _, faulty in faults) < 2:
            raise
        lines = [f"{path}: {reason}" for _, faulty in faults for path, reason in faulty]
        listed = folder / "damaged.txt"
        with contextlib.suppress(OSError):
            write_text(listed, "\n".join(lines) + "\n")
        summary = "; ".join(_summary(table, faulty) for table, faulty in faults)
        place = f"all are listed in {listed}; " if listed.exists() else ""
        raise DataError(f"{summary}; {place}{_advice(root)}") from None


def _damaged_in(table: ImageTable, limit: float | None) -> list[tuple[Path, str]]:
    """(path, what is wrong) of the damaged images of a table; of shards none."""
    paths = [] if table.store else [table.path(index) for index in range(len(table))]
    started, errors = time.monotonic(), []
    for first in range(0, len(paths), _CHUNK):
        if limit is not None and time.monotonic() - started > limit:
            break
        errors += damaged(paths[first : first + _CHUNK], table.value_range)
    texts = iter([str(error) for error in errors])
    faulty, text = [], next(texts, "")
    for path in paths:  # in the order of the errors
        if text.startswith(f"{path}: "):
            faulty.append((path, text[len(f"{path}: ") :]))
            text = next(texts, "")
    return faulty


def _sizes(paths: Sequence[Path]) -> list[int]:
    """Sizes of files in bytes; -1 if there is no such file, or if it is no regular file."""

    def sizes(some: Sequence[Path]) -> list[int]:
        return [_size(path) for path in some]

    if len(paths) <= _FEW:
        return sizes(paths)
    chunks = [paths[first : first + _CHUNK] for first in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(16) as pool:
        return [size for chunk in pool.map(sizes, chunks) for size in chunk]


def _size(path: Path) -> int:
    try:
        status = os.stat(path)
        return status.st_size if stat.S_ISREG(status.st_mode) else -1
    except OSError:  # the decoder explains it
        return -1


def _names_an_image(error: DataError, table: ImageTable) -> bool:
    text = str(error)
    return any(text.startswith(f"{table.path(index)}: ") for index in range(len(table)))


def _summary(table: ImageTable, faulty: Sequence[tuple[Path, str]]) -> str:
    """How many images of a table are damaged, and the names of the first ones by what is wrong with them."""
    by_reason: dict[str, list[str]] = {}
    for path, text in faulty[:LISTED]:
        name = str(path.relative_to(table.image_folder)) if path.is_relative_to(table.image_folder) else str(path)
        by_reason.setdefault(text.partition("; ")[0], []).append(name)
    reasons = "; ".join(f"{reason}: {', '.join(names)}" for reason, names in by_reason.items())
    more = f" and {len(faulty) - LISTED} more" if len(faulty) > LISTED else ""
    verb = "is" if len(faulty) == 1 else "are"
    count = f"{len(faulty)} of {count_of(len(table), 'image')}"
    return f"{table.image_folder}: {count} {verb} damaged; {reasons}{more}"


def _advice(root: Path | None) -> str:
    return f"copy them again, or write a data set without them with `effdet check {root or 'DATA'} --fix OUT`"
