"""Atomic writing of files and folders, and the folder in which downloads and caches are stored.

What the files contain is known elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HOME_VARIABLE = "EFFDET_HOME"
SCORE_DECIMALS = 5  # of scores in written results


def home_folder() -> Path:
    """The folder for downloaded weights and cached images: $EFFDET_HOME, or ~/.cache/effdet."""
    home = os.environ.get(HOME_VARIABLE)
    return Path(home).expanduser() if home else Path.home() / ".cache" / "effdet"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it replaces `path` in one step on success, and is removed on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` to fill; it replaces `path` on success, and is removed on an error."""
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}.{what}") for what in ("partial", "old"))
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in filter(Path.is_file, partial.iterdir()):
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
        if path.exists():
            os.replace(path, old)
        os.replace(partial, path)
    finally:
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")  # file names may be in another encoding


def write_json(path: Path, content: Any) -> None:
    """Write plain containers as JSON atomically."""
    write_text(path, json.dumps(content, indent=2) + "\n")
