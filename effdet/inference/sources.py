"""Image files, folders, globs and videos on disk: which frames they hold, in which order, and reading them.

All files are checked before the first is read. Frames are read one at a time, so that long videos need little memory.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from effdet.data.images import IMAGE_SUFFIXES, Image, read_image
from effdet.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts")
_SUFFIXES = frozenset(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
_FALLBACK_FPS = 25.0  # for videos whose header has none


@dataclass(frozen=True)
class Frame:
    """An image, or one frame of a video.

    Attributes:
        image: uint8 RGB [H, W, 3], upright.
        path: its file, as the user gave it.
        name: path relative to the folder that was given, for annotated copies.
        image_id: see `Source`; of a video, with the number of the frame: "clip.mp4/12".
        index: number of the frame in its video, from 0; None for an image.
        fps: frames per second of its video; None for an image.
    """

    image: Image
    path: Path
    name: Path
    image_id: str
    index: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Source:
    """One image or video file.

    Attributes:
        path: the file, as the user gave it.
        name: path relative to the folder that was given.
        image_id: `name` with forward slashes, different for all files: if any two had the same, those of all files are
            `path` instead.
        fps: frames per second of a video; None for an image.
        num_frames: frames of a video according to its header, 1 for an image; None if the header does not say.
    """

    path: Path
    name: Path
    image_id: str
    fps: float | None = None
    num_frames: int | None = 1

    def frames(self) -> Iterator[Frame]:
        """The image, or the frames of the video one after the other.

        Raises:
            DataError: the file cannot be read, or the video ends long before the end that its header gives.
        """
        if self.fps is not None:
            yield from _read_video(self, self.fps)
        else:
            yield Frame(read_image(self.path), self.path, self.name, self.image_id)


def open_sources(given: Sequence[str | Path]) -> list[Source]:
    """The image and video files that paths and globs stand for, each file once, folders and globs in natural order.

    Args:
        given: image and video files, folders (searched with their subfolders, without hidden files), and globs such as
            "photos/*.jpg".

    Raises:
        DataError: a path does not exist, holds no images or videos, or is a video that cannot be opened.
    """
    opened: dict[str, Source] = {}
    for path in given:
        root, files = _expand(Path(path))
        for file in files:
            key = os.path.abspath(file)
            if key not in opened:
                opened[key] = _open_file(file, file.relative_to(root))
    if not opened:
        raise DataError("no sources given; name at least one image, folder, glob or video")
    sources = list(opened.values())
    if len({source.image_id for source in sources}) == len(sources):
        return sources
    return [replace(source, image_id=source.path.as_posix()) for source in sources]


def read_frames(sources: Iterable[Source], failures: list[DataError] | None = None) -> Iterator[Frame]:
    """The frames of all sources one after the other.

    Args:
        sources: the files.
        failures: gets the errors of files that cannot be read, which are skipped then; None to raise them.

    Raises:
        DataError: a file cannot be read.
    """
    for source in sources:
        try:
            yield from source.frames()
        except DataError as error:
            if failures is None:
                raise
            failures.append(error)


def _expand(given: Path) -> tuple[Path, list[Path]]:
    """The folder to which names are relative, and the files that a path or glob stands for."""
    if given.is_dir():
        files = sorted(_files_below(given), key=_natural_key)
        if not files:
            raise DataError(
                f"{given}: no images or videos in this folder or below; expected files such as *.jpg, *.png or *.mp4"
            )
        return given, files
    if given.exists():
        return given.parent, [given]
    if not glob.has_magic(str(given)):
        raise DataError(f"{given}: no such file or folder; check the path")
    matches = (Path(match) for match in glob.iglob(str(given), recursive=True))
    files = sorted((path for path in matches if _is_readable_kind(path) and path.is_file()), key=_natural_key)
    if not files:
        raise DataError(f"{given}: matches no images or videos; check the pattern and the folder")
    fixed = list(given.parts[:-1])
    while any(map(glob.has_magic, fixed)):
        fixed.pop()
    return Path(*fixed), files


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None

    seen: set[str] = set()  # links may form a circle
    for parent, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith(".") and _is_readable_kind(Path(name)))


def _is_readable_kind(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _natural_key(path: Path) -> list[list[str | int]]:
    """Sorts img2 before img10, folder by folder."""
    return [
        [int(token) if token.isdecimal() else token.lower() for token in re.split(r"(\d+)", name)]
        for name in path.parts
    ]


def _open_file(path: Path, name: Path) -> Source:
    from effdet.opencv import cv2

    if path.suffix.lower() not in VIDEO_SUFFIXES:
        if not _is_readable_kind(path) and not cv2.haveImageReader(str(path)):
            raise DataError(
                f"{path}: neither an image nor a video of a known kind; expected one of {' '.join(sorted(_SUFFIXES))}"
            )
        return Source(path, name, name.as_posix())
    capture = cv2.VideoCapture(str(path))
    try:
        if not capture.isOpened():
            raise DataError(f"{path}: the video cannot be opened; convert it to MP4 (H.264) or copy the file again")
        if not capture.grab():
            raise DataError(f"{path}: the video has no frames that can be decoded; convert it to MP4 (H.264)")
        fps, announced = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
    finally:
        capture.release()
    return Source(
        path,
        name,
        name.as_posix(),
        fps=fps if math.isfinite(fps) and 0 < fps <= 1000 else _FALLBACK_FPS,
        num_frames=int(announced) if math.isfinite(announced) and announced > 0 else None,
    )


def _read_video(source: Source, fps: float) -> Iterator[Frame]:
    from effdet.opencv import cv2

    capture = cv2.VideoCapture(str(source.path))  # applies the rotation in the header
    index = 0
    try:
        while True:
            decoded, image = capture.read()
            if not decoded:
                break
            pixels: Image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[assignment]
            yield Frame(pixels, source.path, source.name, f"{source.image_id}/{index}", index, fps)
            index += 1
    finally:
        capture.release()
    # Counts in headers are rough: only a gap of more than a second means a damaged file.
    if source.num_frames is not None and index < source.num_frames - max(fps, 1):
        raise DataError(
            f"{source.path}: the video can be decoded up to frame {index} of {source.num_frames} only;"
            " copy the file again or convert it to MP4 (H.264)"
        )
