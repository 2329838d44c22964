"""Errors of the disk while an export is written, and temporary folders for it.

Which files are written is known to the modules of the formats.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effdet.errors import ExportError
from effdet.files import PARTIAL, beside
from effdet.folders import remove_leftovers


@contextmanager
def disk_errors_named(path: Path) -> Iterator[None]:
    """Within it, an error of the disk is an ExportError that names the file.

    Raises:
        ExportError: a file or folder cannot be read or written.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        while PARTIAL.fullmatch(path.parent.name):  # in a temporary folder: the name at the end is shown
            path = path.parent.parent / path.name
        raise ExportError(f"{path}: cannot be written ({reason}); free some space or choose another folder") from None


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder in the folder of a file, which is created if missing.

    Raises:
        ExportError: a file or folder cannot be read or written.
    """
    with disk_errors_named(path):
        folder = beside(path, "partial")
        folder.mkdir(parents=True)
        try:
            remove_leftovers(path.parent)  # of killed exports
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
