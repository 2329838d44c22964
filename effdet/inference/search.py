"""The search for image and video files in folders and by globs, and the count of what is not read.

Files are chosen by their names here; opening them is in `sources.py`.
"""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from effdet.data.formats.location import describe_nearest
from effdet.data.images import IMAGE_SUFFIXES
from effdet.data.video import VIDEO_SUFFIXES
from effdet.errors import DataError
from effdet.inference.walking import files_below, files_of_glob
from effdet.text import count_of

READABLE_SUFFIXES = frozenset(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
_HEIC_SUFFIXES = (".heic", ".heif")
_NO_SUFFIX = "without suffix"


class Search:
    """The files that one path or glob stands for.

    Attributes:
        root: the folder to which names are relative.
        files: images and videos by their suffix, in natural order; of a file that was named itself, that file.
        is_file: whether a file was named itself.
        failures: folders below that cannot be read.
        others: files of other kinds.
        outputs: images and videos in output folders, each with the folder.
    """

    def __init__(self, given: Path, leave_out: Sequence[Path] = ()) -> None:
        """Searches `given`, without what lies in the output folders `leave_out` unless `given` itself does.

        Raises:
            DataError: there is no such file or folder, or it holds no images or videos.
        """
        self.failures: list[DataError] = []
        self.others: list[Path] = []
        self.outputs: list[tuple[Path, Path]] = []
        is_folder, exists = os.path.isdir(given), os.path.exists(given)
        self.is_file = exists and not is_folder
        if self.is_file:
            self.root, self.files = given.parent, [given]
            return
        if not exists and not glob.has_magic(str(given)):
            raise DataError(f"{given}: no such file or folder; {describe_nearest(given)}")
        self.root = given if is_folder else _fixed_folder(given)
        base = os.path.realpath(self.root)
        self._leave_out = {
            real: folder for folder in leave_out if not _is_inside(base, real := os.path.realpath(folder))
        }
        found = files_below(given, self._refuse) if is_folder else files_of_glob(given, self._refuse)
        self.files = sorted(self._chosen(found), key=_natural_key)
        if not self.files and not self.failures:
            raise self._nothing_to_read(given)

    def _refuse(self, folder: str, reason: str) -> None:
        """Lists a folder that cannot be searched; one that was named itself is an error."""
        failure = DataError(f"{folder}: the folder cannot be read: {reason}")
        if folder == str(self.root):
            raise failure
        self.failures.append(failure)

    def _chosen(self, files: Iterator[Path]) -> Iterator[Path]:
        """The images and videos among files outside the output folders; the others are listed."""
        output_of: dict[Path, Path | None] = {}
        for file in files:
            if file.parent not in output_of:
                real = os.path.realpath(file.parent)
                outputs = (folder for output, folder in self._leave_out.items() if _is_inside(real, output))
                output_of[file.parent] = next(outputs, None)
            output = output_of[file.parent]
            if not is_readable_kind(file):
                if output is None:
                    self.others.append(file)
            elif output is None:
                yield file
            else:
                self.outputs.append((file, output))

    def _nothing_to_read(self, given: Path) -> DataError:
        counts = [counts_by_suffix(self.others)] if self.others else []
        counts += [f"{count_of(len(self.outputs), 'picture')} in an output folder"] if self.outputs else []
        held = f"; there are {' and '.join(counts)}" if counts else ""
        if os.path.isdir(given):
            return DataError(
                f"{given}: no images or videos in this folder or below; expected files such as *.jpg, *.png or *.mp4"
                f"{held}"
            )
        return DataError(f"{given}: matches no images or videos; check the pattern and the folder{held}")


def counts_by_suffix(files: Iterable[Path]) -> str:
    """How many files have each suffix, the most frequent first: "3 .txt, 1 .heic", and what to install for HEIC."""
    counts = Counter(file.suffix.lower() or _NO_SUFFIX for file in files)
    text = ", ".join(
        f"{number} {suffix}" for suffix, number in sorted(counts.items(), key=lambda item: (-item[1], item))
    )
    needs_package = any(suffix in counts for suffix in _HEIC_SUFFIXES)
    return text + " (to read HEIC, pip install 'efficientdet-torch[heic]')" * needs_package


def is_readable_kind(path: Path) -> bool:
    """Whether a file has the suffix of an image or a video; HEIC needs a package."""
    suffix = path.suffix.lower()
    if suffix in _HEIC_SUFFIXES and find_spec("pillow_heif") is None:
        return False
    return suffix in READABLE_SUFFIXES


def _fixed_folder(pattern: Path) -> Path:
    """The folder before the first part of a glob with a wildcard."""
    fixed = list(pattern.parts[:-1])
    while any(map(glob.has_magic, fixed)):
        fixed.pop()
    return Path(*fixed)


def _is_inside(path: str, folder: str) -> bool:
    """Whether a real path is a real folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _natural_key(path: Path) -> list[list[str | int]]:
    """Sorts img2 before img10, folder by folder."""
    return [
        [int(token) if token.isdecimal() else token.lower() for token in re.split(r"(\d+)", name)]
        for name in path.parts
    ]
