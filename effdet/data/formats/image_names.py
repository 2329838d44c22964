"""How names of images are compared: a written path without what machines and tools add, and an index of path ends.

Which files exist is looked up in `image_files.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

from effdet.data.images import IMAGE_SUFFIXES

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:")


def plain_name(name: str) -> str:
    r"""A written name as path with slashes: decoded, without address, drive, query and what leads to no folder.

    Example:
        >>> plain_name(r"D:\data\a.jpg"), plain_name("/data/local-files/?d=cam%201/a.jpg")
        ('data/a.jpg', 'cam 1/a.jpg')
    """
    path, _, query = name.strip().partition("?")
    for argument in query.split("&"):
        if argument.startswith("d="):  # Label Studio's address of a local file
            path = argument[2:]
    path = unquote(_ADDRESS.sub("", path)).replace("\\", "/")
    parts = [part.strip() for part in path.split("/")]
    return "/".join(part for part in parts if part not in ("", ".", "..") and not _DRIVE.fullmatch(part))


def loose_name(path: str) -> str:
    """A path as it is compared where no exact one exists: composed Unicode, decoded, in lower case, without blanks."""
    if "%" in path:
        path = unquote(path)
    if path.isascii():
        path = path.lower()
    else:
        path = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
    return path if " " not in path else "/".join(part.strip() for part in path.split("/"))


class NameIndex:
    """Which files end like a written path; of each end at most two files are remembered.

    Args:
        folder: where the files are; its own name may stand in written paths too.
        files: paths relative to it.
        wanted: the written names that will be asked for.
    """

    def __init__(self, folder: Path, files: Iterable[str], wanted: Sequence[str]) -> None:
        stems = {_stem(loose_name(plain_name(name)).rpartition("/")[2]) for name in wanted}
        above = "/".join(part for part in folder.absolute().parts[-2:] if part != folder.anchor)
        self._ends: dict[tuple[str, str], list[str]] = {}
        self._whole: dict[tuple[str, str], list[str]] = {}
        for file in files:
            loose = loose_name(file)
            if _stem(loose.rpartition("/")[2]) not in stems:
                continue
            for kind, path in _kinds(file, loose):
                _remember(self._whole, (kind, path), file)
                for end in _ends(f"{above if kind == 'exact' else loose_name(above)}/{path}"):
                    _remember(self._ends, (kind, end), file)

    def candidates(self, name: str) -> list[str]:
        """The files that fit a written name best: none, one, or two if it is not clear which."""
        plain = plain_name(name)
        written = list(_kinds(plain, loose_name(plain), written=True))
        for kind, path in written[:2]:
            if (kind, path) in self._whole:
                return self._whole[kind, path]
        for ends in zip(*(_ends(path) for _, path in written), strict=False):
            for (kind, path), end in zip(written, ends, strict=True):
                fitting = self._ends.get((kind, end), [])
                whole = self._whole.get((kind, end), [])
                if len(fitting) > 1 and end == path and len(whole) == 1:
                    return whole  # the name is complete, so the file that has no folder before it is meant
                if fitting:
                    return fitting
        return []


def _kinds(file: str, loose: str, written: bool = False) -> Iterator[tuple[str, str]]:
    """The ways in which a path is compared, the strictest first; files that are no images are compared with suffix."""
    stem = _stem(loose)
    yield "exact", unicodedata.normalize("NFC", file)
    yield "loose", loose
    if written or stem != loose:
        yield "stem", stem


def _stem(loose: str) -> str:
    """A name without image suffix."""
    head, dot, suffix = loose.rpartition(".")
    return head if dot and head and f".{suffix}" in IMAGE_SUFFIXES else loose


def _ends(path: str) -> Iterator[str]:
    """The path, and its ends without its first folders, longest first."""
    yield path
    position = path.find("/")
    while position >= 0:
        yield path[position + 1 :]
        position = path.find("/", position + 1)


def _remember(index: dict[tuple[str, str], list[str]], key: tuple[str, str], file: str) -> None:
    files = index.setdefault(key, [])
    if len(files) < 2:
        files.append(file)
