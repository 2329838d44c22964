"""Image files, folders, globs and videos on disk: which frames they hold, in which order, and reading them.

All files are opened before the first is read; the search for them is in `search.py`. Frames are read one at a time, so
that long videos need little memory.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from effdet.data.images import START_BYTES, Image, decode_with_notes, is_image_content, read_file
from effdet.data.media_files import read_regular
from effdet.data.video import VIDEO_SUFFIXES, check_video, read_video
from effdet.errors import DataError
from effdet.inference.search import READABLE_SUFFIXES, Search, counts_by_suffix
from effdet.text import count_of


@dataclass(frozen=True)
class Frame:
    """An image, or one frame of a video.

    Attributes:
        image: uint8 RGB [H, W, 3], upright.
        path: its file, as the user gave it.
        name: path relative to the folder that was given, for annotated copies.
        image_id: see `Source`; of a video, with the number of the frame: "clip.mp4/12".
        index: number of the frame in its video, from 0; None for an image.
        time: seconds from the start of its video; None for an image.
        changes: how decoding changed it, such as "alpha channel dropped" (see `decode_with_notes`).
    """

    image: Image
    path: Path
    name: Path
    image_id: str
    index: int | None = None
    time: float | None = None
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """One image or video file.

    Attributes:
        path: the file, as the user gave it.
        name: path relative to the folder that was given.
        image_id: `name` with forward slashes, different for all files: if any two had the same, those of all files are
            `path` instead.
        is_video: whether it is a video.
        num_frames: frames of a video according to its header, for a progress bar, 1 for an image; None if the header
            does not say.
    """

    path: Path
    name: Path
    image_id: str
    is_video: bool = False
    num_frames: int | None = 1

    def frames(self, value_range: tuple[float, float] | None = None) -> Iterator[Frame]:
        """The image, or the frames of the video one after the other.

        Args:
            value_range: see `decode_image`.

        Raises:
            DataError: the file cannot be read; after the last frame, if a video is damaged (see `read_video`).
        """
        if not self.is_video:
            image, changes = decode_with_notes(read_file(self.path), str(self.path), value_range=value_range)
            yield Frame(image, self.path, self.name, self.image_id, changes=tuple(changes))
            return
        for index, (time, image) in enumerate(read_video(self.path)):
            yield Frame(image, self.path, self.name, f"{self.image_id}/{index}", index, time)


@dataclass(frozen=True)
class Sources:
    """The files that `open_sources` opened, and what it did not open.

    Iterating gives the opened files.

    Attributes:
        files: images and videos in the order in which they are read.
        failures: why files in folders or of globs could not be opened.
        passed_over: files of other kinds in folders and of globs.
        left_out: images and videos in output folders, each with the folder.
    """

    files: Sequence[Source]
    failures: Sequence[DataError] = ()
    passed_over: Sequence[Path] = ()
    left_out: Sequence[tuple[Path, Path]] = ()

    def __iter__(self) -> Iterator[Source]:
        return iter(self.files)

    def __len__(self) -> int:
        return len(self.files)

    def notes(self) -> list[str]:
        """What was not opened and is no failure, a line for each cause."""
        counts = Counter(folder for _, folder in self.left_out)
        notes = [
            f"left out: {count_of(number, 'file')} in {folder}, an output folder" for folder, number in counts.items()
        ]
        return notes + ([f"passed over: {counts_by_suffix(self.passed_over)}"] if self.passed_over else [])


def open_sources(given: Sequence[str | Path], leave_out: Sequence[Path] = ()) -> Sources:
    """The image and video files that paths and globs stand for, each file once, folders and globs in natural order.

    A file that was named itself must be an image or a video that can be opened. A file in a folder or of a glob that
    cannot be opened is listed, and the others are opened.

    Args:
        given: image and video files, folders (searched with their subfolders, without hidden files), and globs such as
            "photos/*.jpg".
        leave_out: output folders; files in them are not searched, so that no output becomes input. Files that were
            named themselves, and folders inside an output folder, are.

    Raises:
        DataError: a path does not exist, holds no images or videos, is a file that cannot be opened, or a folder or
            glob in which no file can be opened.
    """
    opened: dict[str, Source] = {}
    failures: dict[str, DataError] = {}
    others: dict[str, Path] = {}
    outputs: dict[str, tuple[Path, Path]] = {}
    for path in given:
        search = Search(Path(path), leave_out)
        failures.update((str(failure), failure) for failure in search.failures)
        others.update((os.path.abspath(file), file) for file in search.others)
        outputs.update((os.path.abspath(file), (file, folder)) for file, folder in search.outputs)
        for file in search.files:
            key = os.path.abspath(file)
            if key in opened:
                continue
            try:
                opened[key] = _open_file(file, _name_below(file, search.root))
            except DataError as error:
                if search.is_file:
                    raise
                if _is_text(file):
                    others[key] = file
                else:
                    failures[key] = error
    if not opened:
        raise _nothing_opened(given, list(failures.values()), list(others.values()))
    left_out = [row for key, row in outputs.items() if key not in opened]
    return Sources(_with_unique_ids(list(opened.values())), [*failures.values()], [*others.values()], left_out)


def read_frames(
    sources: Iterable[Source],
    failures: list[DataError] | None = None,
    value_range: tuple[float, float] | None = None,
) -> Iterator[Frame]:
    """The frames of all sources one after the other.

    Args:
        sources: the files.
        failures: gets the errors of files that cannot be read, which are skipped then; None to raise them.
        value_range: see `decode_image`; a `Predictor` knows that of its model.

    Raises:
        DataError: a file cannot be read.
    """
    for source in sources:
        try:
            yield from source.frames(value_range)
        except DataError as error:
            if failures is None:
                raise
            failures.append(error)


def _with_unique_ids(sources: list[Source]) -> list[Source]:
    if len({source.image_id for source in sources}) == len(sources):
        return sources
    return [replace(source, image_id=source.path.as_posix()) for source in sources]


def _open_file(path: Path, name: Path) -> Source:
    """An image by its suffix or content, or a video; a video of another suffix is known by its content too.

    Raises:
        DataError: a video that cannot be opened, or a file of another kind.
    """
    suffix = path.suffix.lower()
    if suffix in VIDEO_SUFFIXES:
        return Source(path, name, name.as_posix(), is_video=True, num_frames=check_video(path))
    if suffix not in READABLE_SUFFIXES and not is_image_content(read_regular(path, "image", START_BYTES)):
        try:
            if not _is_text(path):  # which FFmpeg would draw
                return Source(path, name, name.as_posix(), is_video=True, num_frames=check_video(path))
        except DataError:
            pass
        raise DataError(
            f"{path}: neither an image nor a video of a known kind; expected one of "
            f"{' '.join(sorted(READABLE_SUFFIXES))}"
        )
    return Source(path, name, name.as_posix())


def _name_below(file: Path, root: Path) -> Path:
    """The path relative to a folder, without the ".." that a glob may hold."""
    parts: list[str] = []
    for part in file.relative_to(root).parts:
        parts = parts[:-1] if part == ".." else [*parts, part]
    return Path(*parts)


def _is_text(path: Path) -> bool:
    """Whether a file is a text, as TypeScript in .ts and .mts is."""
    try:
        start = read_regular(path, "image", START_BYTES)
    except DataError:  # reading it says why
        return False
    return bool(start) and not any(byte < 9 or 13 < byte < 27 for byte in start)


def _nothing_opened(
    given: Sequence[str | Path], failures: Sequence[DataError], passed_over: Sequence[Path]
) -> DataError:
    if not given:
        return DataError("no sources given; name at least one image, folder, glob or video")
    if failures:
        return DataError("\n".join(["no image or video can be opened", *map(str, failures)]))
    names = ", ".join(map(str, given))
    return DataError(f"{names}: no images or videos that can be read; there are {counts_by_suffix(passed_over)}")
