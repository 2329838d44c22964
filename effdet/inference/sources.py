"""What a user points at - images, folders, globs, videos, arrays - becomes a list of sources and a stream of frames.

Sources are checked before the first is processed; frames are read one at a time, so that the length of a video costs no
memory. Decoding of image files is done by `data/images.py`.
"""

from __future__ import annotations

import glob
import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from effdet.data.images import IMAGE_SUFFIXES, Image, read_image
from effdet.errors import DataError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".mts")
_SUFFIXES = frozenset(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
_FALLBACK_FPS = 25.0  # for videos whose header tells none


@dataclass(frozen=True)
class Frame:
    """One picture on its way through the network.

    Attributes:
        image: uint8 RGB [H, W, 3], upright.
        path: file that it is from, as the user gave it.
        name: path relative to the folder that was given, for copies of the picture.
        index: number of the frame in its video from 0; None for an image.
        fps: frames per second of its video; None for an image.
    """

    image: Image
    path: Path
    name: Path
    index: int | None = None
    fps: float | None = None


@dataclass(frozen=True)
class Source:
    """One image or one video.

    Attributes:
        path: the file, as the user gave it; a made-up name for an array.
        name: path relative to the folder that was given.
        image: the pixels, for an array.
        fps: frames per second of a video; None for an image.
        num_frames: frames of a video as its header tells, 1 for an image; None where the header does not tell.
    """

    path: Path
    name: Path
    image: Image | None = None
    fps: float | None = None
    num_frames: int | None = 1

    def frames(self) -> Iterator[Frame]:
        """The image, or the frames of the video one after the other.

        Raises:
            DataError: the file cannot be read, or the video ends long before its announced end.
        """
        if self.fps is not None:
            yield from _read_video(self, self.fps)
        else:
            yield Frame(read_image(self.path) if self.image is None else self.image, self.path, self.name)


def open_sources(sources: Sequence[str | Path | Image]) -> list[Source]:
    """The images and videos that the user's words stand for, each file once, folders and globs in natural order.

    Args:
        sources: image and video files, folders (searched with their subfolders, hidden files left out), globs such as
            "photos/*.jpg", and uint8 RGB arrays [H, W, 3].

    Raises:
        DataError: a source does not exist, holds no images or videos, is a video that cannot be opened, or an array of
            another type.
    """
    opened: dict[str, Source] = {}
    for number, given in enumerate(sources):
        if isinstance(given, np.ndarray):
            path = Path(f"array_{number}.png")
            opened[f"array {number}"] = Source(path, path, image=check_array(given))
            continue
        root, files = _expand(Path(given))
        for file in files:
            key = os.path.abspath(file)
            if key not in opened:
                opened[key] = _open_file(file, file.relative_to(root))
    if not opened:
        raise DataError("no sources given; name at least one image, folder, glob or video")
    return list(opened.values())


def read_frames(sources: Iterable[Source], failures: list[DataError]) -> Iterator[Frame]:
    """The frames of all sources one after the other; what cannot be read is added to `failures` and passed over."""
    for source in sources:
        try:
            yield from source.frames()
        except DataError as error:
            failures.append(error)


def check_array(image: Image) -> Image:
    """The image itself.

    Raises:
        DataError: it is not uint8 of shape [H, W, 3].
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(
            f"an image array has type {image.dtype} and shape {list(image.shape)}; expected uint8 RGB [H, W, 3]"
        )
    return image


def _expand(given: Path) -> tuple[Path, list[Path]]:
    """The files that a path or glob stands for, and the folder that their names are relative to."""
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
    while any(glob.has_magic(part) for part in fixed):
        fixed.pop()
    return Path(*fixed), files


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> NoReturn:
        raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None

    seen: set[str] = set()  # links may lead round in a circle
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
        [int(piece) if piece.isdecimal() else piece.lower() for piece in re.split(r"(\d+)", part)]
        for part in path.parts
    ]


def _open_file(path: Path, name: Path) -> Source:
    import cv2

    if path.suffix.lower() not in VIDEO_SUFFIXES:
        if not _is_readable_kind(path) and not cv2.haveImageReader(str(path)):
            raise DataError(
                f"{path}: neither an image nor a video of a known kind; expected one of {' '.join(sorted(_SUFFIXES))}"
            )
        return Source(path, name)
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
        fps=fps if math.isfinite(fps) and 0 < fps <= 1000 else _FALLBACK_FPS,
        num_frames=int(announced) if math.isfinite(announced) and announced > 0 else None,
    )


def _read_video(source: Source, fps: float) -> Iterator[Frame]:
    import cv2

    capture = cv2.VideoCapture(str(source.path))  # applies the rotation that the file asks for
    index = 0
    try:
        while True:
            found, image = capture.read()
            if not found:
                break
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), source.path, source.name, index, fps)  # type: ignore[arg-type]
            index += 1
    finally:
        capture.release()
    # Headers count roughly, so that only a gap of more than a second tells of a damaged file.
    if source.num_frames is not None and index < source.num_frames - max(fps, 1):
        raise DataError(
            f"{source.path}: the video can be decoded up to frame {index} of {source.num_frames} only;"
            " copy the file again or convert it to MP4 (H.264)"
        )
