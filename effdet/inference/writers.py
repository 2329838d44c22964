"""Results as files, written image by image: predictions.json, predictions.csv, annotated images and videos.

Writers are context managers and hold one image at a time. What was written stays when an error or Ctrl-C ends the run.
The loop that calls them is in `jobs.py`, the choice of the folder in `output_folder.py`.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from effdet.data.images import Image
from effdet.data.label_map import LabelMap
from effdet.data.video_writer import VideoWriter
from effdet.evaluation.accuracy import named_classes
from effdet.evaluation.result_rows import BOX_DECIMALS, coco_results
from effdet.files import atomic_write
from effdet.inference.sources import Frame, Source
from effdet.report.pictures import write_image
from effdet.structures import Classification, Detections
from effdet.text import name_cell, path_cell
from effdet.types import Task

JSON_NAME, CSV_NAME = "predictions.json", "predictions.csv"
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_PHOTO_SUFFIXES = (".jfif", ".jpe", ".heic", ".heif", ".avif", ".jp2", ".j2k")  # would be large as PNG
_LONGEST_NAME = 255  # bytes, on all usual file systems
_TIME_DECIMALS = 3  # of time stamps in seconds
_HEADS: dict[Task, tuple[str, ...]] = {
    "detection": ("file_name", "frame", "time", "label", "category_id", "score", "x1", "y1", "x2", "y2"),
    "classification": ("file_name", "frame", "time", "rank", "label", "class_id", "score"),
}


class ResultWriter:
    """Writes the results of one process; `merge_results` makes predictions.json and predictions.csv of all of them.

    Detections become a COCO results file (see `coco_results`) with the file name added, for videos also the number of
    the frame and its time in seconds; and a CSV file with a line per detection, boxes xyxy in pixels. Classifications
    become an element per image with its classes (see `named_classes`), and a CSV file with a line per class.
    """

    def __init__(self, folder: Path, label_map: LabelMap, task: Task, rank: int = 0) -> None:
        self._paths = _part(folder, JSON_NAME, rank), _part(folder, CSV_NAME, rank)
        self._label_map, self._rows = label_map, _ROWS[task]
        self._open = ExitStack()

    def __enter__(self) -> ResultWriter:
        for path in self._paths:
            path.unlink(missing_ok=True)
        # "x" follows no link.
        lines, table = (path.open("x", encoding="utf-8", errors="surrogateescape", newline="") for path in self._paths)
        self._lines, self._table = self._open.enter_context(lines), self._open.enter_context(table)
        self._csv = csv.writer(self._table, lineterminator="\n")
        return self

    def write(self, frame: Frame, result: Detections | Classification) -> None:
        """Adds the result of one image or video frame, boxes in its pixels."""
        origin: dict[str, Any] = {"file_name": frame.path.as_posix()}
        if frame.index is not None and frame.time is not None:
            origin |= {"frame": frame.index, "time": round(frame.time, _TIME_DECIMALS)}
        elements, rows = self._rows(frame.image_id, result, self._label_map)
        self._lines.writelines(json.dumps({**element, **origin}, ensure_ascii=False) + "\n" for element in elements)
        self._csv.writerows(
            (path_cell(origin["file_name"]), origin.get("frame", ""), origin.get("time", ""), *row) for row in rows
        )
        self._lines.flush()
        self._table.flush()

    def __exit__(self, *exception: object) -> None:
        self._open.close()


def merge_results(folder: Path, task: Task, size: int = 1) -> list[int]:
    """Makes predictions.json and predictions.csv of what `size` processes wrote, in the order of their ranks.

    Both appear in one step each; the files of the processes are removed then. No more than a line is in memory.

    Returns:
        Ranks of the processes whose files are not in this folder, because they wrote to another disk.
    """
    present = [rank for rank in range(size) if _part(folder, CSV_NAME, rank).exists()]
    with (
        atomic_write(folder / JSON_NAME) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape") as merged,
    ):
        merged.write("[")
        separator = "\n"
        for rank in present:
            with _part(folder, JSON_NAME, rank).open(encoding="utf-8", errors="surrogateescape") as lines:
                for line in lines:
                    merged.write(separator + line.removesuffix("\n"))
                    separator = ",\n"
        merged.write("\n]\n")
    with atomic_write(folder / CSV_NAME) as partial, partial.open("wb") as table:
        table.write((",".join(_HEADS[task]) + "\n").encode())
        for rank in present:
            with _part(folder, CSV_NAME, rank).open("rb") as rows:
                shutil.copyfileobj(rows, table)
    for rank in present:
        for name in (JSON_NAME, CSV_NAME):
            _part(folder, name, rank).unlink()
    return [rank for rank in range(size) if rank not in present]


def _detection_rows(
    image_id: str, detections: Detections, label_map: LabelMap
) -> tuple[list[dict[str, Any]], Iterable[tuple[Any, ...]]]:
    """Elements of the JSON file, and rows of the CSV file without file name, frame and time."""
    elements = coco_results(image_id, detections, label_map)
    names = [label_map.names[label] for label in detections.labels.tolist()]
    corners = [(x, y, round(x + w, BOX_DECIMALS), round(y + h, BOX_DECIMALS)) for x, y, w, h in _boxes(elements)]
    rows = zip(elements, names, corners, strict=True)
    return elements, ((name_cell(name), row["category_id"], row["score"], *box) for row, name, box in rows)


def _classification_rows(
    image_id: str, classification: Classification, label_map: LabelMap
) -> tuple[list[dict[str, Any]], Iterable[tuple[Any, ...]]]:
    """Elements of the JSON file, and rows of the CSV file without file name, frame and time."""
    result = classification.cpu()
    classes = named_classes(label_map, result.labels.numpy(), result.scores.numpy())
    rows = (
        (rank, name_cell(str(row["name"])), row["class_id"], row["score"]) for rank, row in enumerate(classes, start=1)
    )
    return [{"image_id": image_id, "classes": classes}], rows


def _boxes(elements: Iterable[dict[str, Any]]) -> Iterable[list[float]]:
    return (element["bbox"] for element in elements)


_ROWS: dict[Task, Callable[[str, Any, LabelMap], tuple[list[dict[str, Any]], Iterable[tuple[Any, ...]]]]] = {
    "detection": _detection_rows,
    "classification": _classification_rows,
}


class PictureWriter:
    """Saves annotated images and videos under the paths that `picture_paths` gives.

    Attributes:
        notes: what a user should know about the videos (see `VideoWriter`).
    """

    def __init__(self, paths: dict[Path, Path]) -> None:
        """A writer to the path of each source."""
        self._paths, self.notes = paths, list[str]()
        self._video_of: Path | None = None
        self._video: VideoWriter | None = None

    def __enter__(self) -> PictureWriter:
        return self

    def write(self, frame: Frame, image: Image) -> None:
        """Saves the annotated `image` (uint8 RGB [H, W, 3]) of a frame; the frames of a video come one after the other.

        Raises:
            DataError: the picture cannot be written.
        """
        path = self._paths[frame.path]
        path.parent.mkdir(parents=True, exist_ok=True)
        if frame.time is None:
            write_image(path, image)
            return
        if self._video is None or self._video_of != frame.path:
            self._finish_video()
            self._video_of, self._video = frame.path, VideoWriter(path, frame.path)
        self._video.write(image, frame.time)

    def __exit__(self, *exception: object) -> None:
        self._finish_video()

    def _finish_video(self) -> None:
        video, self._video = self._video, None
        if video is not None:
            with video:
                self.notes += [note for note in video.notes if note not in self.notes]


def picture_paths(folder: Path, sources: Iterable[Source]) -> dict[Path, Path]:
    """Where the annotated copy of each source goes, by the path of the source; the same in every process.

    Copies have the names of their sources. Images keep their format if it can be written; other photographs become JPEG
    and other images PNG; videos become MP4. Of two copies with the same name the later one gets a number. No source is
    ever overwritten, and every copy lies below the folder.
    """
    sources = list(sources)
    folders = {folder / parent for source in sources for parent in _picture_name(source).parents if parent.parts}
    free = _FreePaths([*(source.path for source in sources), *folders])
    paths: dict[Path, Path] = {}
    for source in sorted(sources, key=lambda source: _picture_name(source) != source.name):  # who keeps the name first
        paths[source.path] = free.path_for(folder / _picture_name(source))
    return {source.path: paths[source.path] for source in sources}


def _part(folder: Path, name: str, rank: int) -> Path:
    """Where a process writes until the files are merged: JSON lines, or a CSV file without its first line."""
    return folder / part_name(name, str(rank))


def part_name(name: str, rank: str) -> str:
    """The name of such a file; the rank may be a pattern."""
    return f".{name}.process-{rank}.partial"


class _FreePaths:
    """Paths that are not in use, with numbers where others have the name."""

    def __init__(self, used: Iterable[Path]) -> None:
        self._used = {_comparable(path) for path in used}
        self._next: dict[str, int] = {}  # number for the next file of a name; all below are in use

    def path_for(self, path: Path) -> Path:
        """The path, with the first free number if it is in use; it is in use from then on."""
        key = str(path).casefold()
        number = self._next.get(key, 1)
        while (comparable := _comparable(free := _numbered(path, number))) in self._used:
            number += 1
        self._used.add(comparable)
        self._next[key] = number + 1
        return free


def _numbered(path: Path, number: int) -> Path:
    """The path with a number from 2 on; its stem is made shorter if its name was too long for a disk."""
    ending = f"_{number}{path.suffix}" if number > 1 else path.suffix
    stem = path.stem
    while len(os.fsencode(stem + ending)) > _LONGEST_NAME and len(stem) > 1:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def _picture_name(source: Source) -> Path:
    """Name of the annotated copy of an image or video, always below the output folder."""
    name = Path(*(part for part in source.name.parts if part not in ("..", source.name.anchor)))
    if source.is_video:
        return name.with_suffix(".mp4")
    suffix = name.suffix.lower()
    if suffix in _PICTURE_SUFFIXES:
        return name
    return name.with_suffix(".jpg" if suffix in _PHOTO_SUFFIXES else ".png")


def _comparable(path: Path) -> str:
    """One spelling of a path, also on file systems that ignore case."""
    return os.path.realpath(path).casefold()
