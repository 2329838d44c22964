"""Names of the files below a folder, and the file among them that another spelling stands for.

Images that an annotation file names by path are located in `image_files.py`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from effdet.data.images import IMAGE_SUFFIXES
from effdet.errors import DataError

DEEPEST = 100  # levels of folders that are searched
_SPLIT = re.compile(r"(train|training|trainval|val|valid|validation|test|testing|default)([-_]?dev|[-_ ]?set)?[-_]?\d*")


def is_split_name(name: str) -> bool:
    """Whether a folder or list of this name is a split, such as train, valid or val2017."""
    return _SPLIT.fullmatch(name.lower()) is not None


def without_suffix(name: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> str:
    """A file name without its suffix if that is one of `suffixes`, and unchanged otherwise."""
    return name[: name.rindex(".")] if name.lower().endswith(suffixes) else name


def subfolders(folder: Path) -> list[Path]:
    """The visible folders in a folder, sorted."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []


def subfolder(folder: Path, names: Iterable[str]) -> Path | None:
    """The folder in `folder` with the first of the names that exists, in any case."""
    by_name = {entry.name.lower(): entry for entry in subfolders(folder)}
    return next((by_name[name] for name in names if name in by_name), None)


def files_below(folder: Path) -> Iterator[str]:
    """Visible files in a folder and its sub-folders, relative to it with forward slashes; each folder is sorted.

    Raises:
        DataError: there are more than `DEEPEST` levels of folders, or one below cannot be read.
    """
    start = os.path.realpath(folder)
    seen = {start}

    def walk(inner: str, here: str) -> Iterator[str]:
        if inner.count("/") > DEEPEST:
            raise DataError(f"{folder / inner}: lies more than {DEEPEST} folders deep; move it up")
        try:
            with os.scandir(folder / inner) as scan:
                entries = sorted((entry for entry in scan if entry.name[0] != "."), key=lambda entry: entry.name)
        except OSError as error:
            if not inner:  # there is no such folder
                return
            raise DataError(f"{folder / inner}: the folder cannot be read: {error.strerror}") from None
        for entry in entries:
            if not is_folder(entry):
                yield inner + entry.name
                continue
            real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(here, entry.name)
            if real not in seen:  # a link to a folder above would never end
                seen.add(real)
                yield from walk(f"{inner}{entry.name}/", real)

    yield from walk("", start)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder or a link to one; a link to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def is_file(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a regular file or a link to one."""
    try:
        return entry.is_file()
    except OSError:
        return False


class Names:
    """File names that are looked up by their longest common end, whatever their case, Unicode form and suffix.

    Args:
        names: relative paths with forward slashes.
        suffixes: the suffixes that do not matter.
    """

    def __init__(self, names: Iterable[str], suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> None:
        self._suffixes = suffixes
        self._by_path: dict[tuple[str, ...], list[str]] = {}
        self._by_name: dict[str, list[tuple[str, ...]]] = {}
        for name in names:
            key = self._key(name)
            self._by_path.setdefault(key, []).append(name)
            if len(self._by_path[key]) == 1:
                self._by_name.setdefault(key[-1], []).append(key)

    def exact(self, name: str) -> list[str]:
        """The names that have the same path: several if they differ in suffix or case alone, best first."""
        same = self._by_path.get(self._key(name), [])
        return sorted(same, key=lambda other: (other != name, self._plain(other) != self._plain(name)))

    def nearest(self, name: str) -> list[str]:
        """The names of the same file in other folders that have the longest common end with `name`."""
        key = self._key(name)
        common = {other: _common_end(key, other) for other in self._by_name.get(key[-1], [])}
        longest = max(common.values(), default=0)
        return [found for other, length in common.items() if length == longest for found in self._by_path[other][:1]]

    def is_end(self, one: str, other: str) -> bool:
        """Whether one of two names is the end of the other, or is equal to it."""
        keys = self._key(one), self._key(other)
        return _common_end(*keys) == min(map(len, keys))

    def _plain(self, name: str) -> str:
        return without_suffix(name, self._suffixes)

    def _key(self, name: str) -> tuple[str, ...]:
        text = unicodedata.normalize("NFC", self._plain(unquote(name.strip()).replace("\\", "/"))).casefold()
        return tuple(part for part in text.split("/") if part not in ("", ".")) or ("",)


def _common_end(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return length
