"""Detections and classes to files while they are made: COCO results, JSON, CSV, annotated pictures and videos.

Every writer is a context manager that holds one image at a time. A file appears under its name when its writer is left,
by an error or Ctrl-C too: then with what had been written so far.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from effdet.data.images import Image, write_image
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.evaluation.accuracy import SCORE_DECIMALS, named_classes
from effdet.inference.sources import Frame, Source
from effdet.structures import Classification, Detections
from effdet.types import Task

BOX_DECIMALS = 2
_PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # all others are saved as PNG


class TableWriter:
    """Writes predictions.json and predictions.csv into a folder, of detections or of classes as the task has them."""

    def __init__(self, folder: Path, label_map: LabelMap, task: Task) -> None:
        json_file, csv_file = folder / "predictions.json", folder / "predictions.csv"
        self._writers: tuple[Any, Any]
        if task == "detection":
            self._writers = CocoResultsWriter(json_file, label_map), CsvWriter(csv_file, label_map)
        else:
            self._writers = ClassificationJsonWriter(json_file, label_map), ClassificationCsvWriter(csv_file, label_map)
        self._open = ExitStack()

    def __enter__(self) -> TableWriter:
        for writer in self._writers:
            self._open.enter_context(writer)
        return self

    def write(self, frame: Frame, found: Detections | Classification) -> None:
        """Add what is found in one image or video frame."""
        for writer in self._writers:
            writer.write(frame, found)

    def __exit__(self, *exception: object) -> None:
        self._open.close()


class CocoResultsWriter:
    """Writes detections as a COCO results file, a JSON list, with the file name and for videos the frame added.

    `image_id` is the file name without its suffix, as an integer where it is all digits.
    """

    def __init__(self, path: Path, label_map: LabelMap) -> None:
        self._list, self._label_map = _JsonList(path), label_map

    def __enter__(self) -> CocoResultsWriter:
        self._list.open()
        return self

    def write(self, frame: Frame, detections: Detections) -> None:
        """Add the detections of one image or video frame; boxes in pixels of the image."""
        stem = frame.path.stem
        image = {"image_id": int(stem) if stem.isascii() and stem.isdigit() else stem, **_origin(frame)}
        for (x1, y1, x2, y2), score, label in _rows(detections):
            box = [x1, y1, round(x2 - x1, BOX_DECIMALS), round(y2 - y1, BOX_DECIMALS)]
            category_id = self._label_map.category_ids[label]
            self._list.append({**image, "category_id": category_id, "bbox": box, "score": score})

    def __exit__(self, *exception: object) -> None:
        self._list.close()


class ClassificationJsonWriter:
    """Writes the classes of images as a JSON list, one element an image or video frame.

    An element has the file name, for videos the frame, and `classes`, see `evaluation.accuracy.named_classes`.
    """

    def __init__(self, path: Path, label_map: LabelMap) -> None:
        self._list, self._label_map = _JsonList(path), label_map

    def __enter__(self) -> ClassificationJsonWriter:
        self._list.open()
        return self

    def write(self, frame: Frame, classification: Classification) -> None:
        """Add the classes of one image or video frame."""
        self._list.append({**_origin(frame), "classes": _classes(self._label_map, classification)})

    def __exit__(self, *exception: object) -> None:
        self._list.close()


class CsvWriter:
    """Writes detections as a CSV file, one a line; `frame` is empty for images, boxes are xyxy in pixels."""

    COLUMNS = ("file_name", "frame", "label", "category_id", "score", "x1", "y1", "x2", "y2")

    def __init__(self, path: Path, label_map: LabelMap) -> None:
        self._table, self._label_map = _CsvTable(path, self.COLUMNS), label_map

    def __enter__(self) -> CsvWriter:
        self._table.open()
        return self

    def write(self, frame: Frame, detections: Detections) -> None:
        """Add the detections of one image or video frame; boxes in pixels of the image."""
        names, category_ids = self._label_map.names, self._label_map.category_ids
        self._table.append(
            frame, ((names[label], category_ids[label], score, *box) for box, score, label in _rows(detections))
        )

    def __exit__(self, *exception: object) -> None:
        self._table.close()


class ClassificationCsvWriter:
    """Writes the classes of images as a CSV file, one a line; `frame` is empty for images, the best has rank 1."""

    COLUMNS = ("file_name", "frame", "rank", "label", "class_id", "score")

    def __init__(self, path: Path, label_map: LabelMap) -> None:
        self._table, self._label_map = _CsvTable(path, self.COLUMNS), label_map

    def __enter__(self) -> ClassificationCsvWriter:
        self._table.open()
        return self

    def write(self, frame: Frame, classification: Classification) -> None:
        """Add the classes of one image or video frame."""
        classes = enumerate(_classes(self._label_map, classification), start=1)
        self._table.append(frame, ((rank, row["name"], row["class_id"], row["score"]) for rank, row in classes))

    def __exit__(self, *exception: object) -> None:
        self._table.close()


class VideoWriter:
    """Writes pictures of one size as an MP4 video; of odd sides the last row or column of pixels is left out.

    A video without any picture is no file.
    """

    def __init__(self, path: Path, fps: float) -> None:
        import cv2

        self.path, self.fps = path, fps
        self._video: cv2.VideoWriter | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: Image) -> None:
        """Add a picture, uint8 RGB [H, W, 3].

        Raises:
            DataError: the video cannot be written.
        """
        import cv2

        if self._video is None:
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._video = cv2.VideoWriter(str(_partial(self.path)), codec, self.fps, image.shape[1::-1])
            if not self._video.isOpened():
                raise DataError(f"{self.path}: the video cannot be written; check the folder and the free space")
        self._video.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def __exit__(self, *exception: object) -> None:
        if self._video is not None:
            self._video.release()
            if _partial(self.path).exists():
                os.replace(_partial(self.path), self.path)


class PictureWriter:
    """Saves annotated images and videos in a folder, under their names relative to the folder they come from.

    Where two sources have the same name the later one gets a number; no source is ever overwritten. Images keep their
    format where it can be written and become PNG elsewhere, videos become MP4.
    """

    def __init__(self, folder: Path, sources: Iterable[Path]) -> None:
        self.folder = folder
        self._taken = {_comparable(path) for path in sources}
        self._reserved: dict[Path, Path] = {}
        self._video_of: Path | None = None
        self._video: VideoWriter | None = None
        self._open = ExitStack()

    def __enter__(self) -> PictureWriter:
        return self

    def reserve(self, sources: Iterable[Source]) -> None:
        """Settle the names of what comes from `sources`, so that processes that share the sources agree on them."""
        for source in sources:
            self._reserved[source.path] = self._free_path(_picture_name(source.name, source.fps))

    def write(self, frame: Frame, image: Image) -> None:
        """Save the annotated `image` (uint8 RGB [H, W, 3]) of a frame; the frames of a video come one after the other.

        Raises:
            DataError: the picture cannot be written.
        """
        if frame.fps is None:
            write_image(self._path_of(frame), image)
            return
        if self._video is None or self._video_of != frame.path:
            self._open.close()
            self._video_of = frame.path
            self._video = self._open.enter_context(VideoWriter(self._path_of(frame), frame.fps))
        self._video.write(image)

    def __exit__(self, *exception: object) -> None:
        self._open.close()

    def _path_of(self, frame: Frame) -> Path:
        path = self._reserved.get(frame.path) or self._free_path(_picture_name(frame.name, frame.fps))
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _free_path(self, name: Path) -> Path:
        """A path in the folder that is neither a source nor written before."""
        path, number = self.folder / name, 2
        while _comparable(path) in self._taken:
            path, number = self.folder / name.with_stem(f"{name.stem}_{number}"), number + 1
        self._taken.add(_comparable(path))
        return path


class _JsonList:
    """A JSON list that is written element by element, and whole only once it is closed."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> None:
        self._file = _partial(self._path).open("w", encoding="utf-8", errors="surrogateescape")
        self._file.write("[")
        self._separator = "\n"

    def append(self, element: dict[str, Any]) -> None:
        self._file.write(self._separator + json.dumps(element, ensure_ascii=False))
        self._separator = ",\n"

    def close(self) -> None:
        with self._file:
            self._file.write("\n]\n")
        os.replace(_partial(self._path), self._path)


class _CsvTable:
    """A CSV file that is written line by line, and under its name only once it is closed."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self._path, self._columns = path, columns

    def open(self) -> None:
        self._file = _partial(self._path).open("w", encoding="utf-8", errors="surrogateescape", newline="")
        self._csv = csv.writer(self._file, lineterminator="\n")
        self._csv.writerow(self._columns)

    def append(self, frame: Frame, lines: Iterable[Iterable[Any]]) -> None:
        """Add lines, each with the file name and the frame in front."""
        image = (frame.path.as_posix(), "" if frame.index is None else frame.index)
        self._csv.writerows((*image, *line) for line in lines)

    def close(self) -> None:
        self._file.close()
        os.replace(_partial(self._path), self._path)


def _origin(frame: Frame) -> dict[str, Any]:
    """Where a picture is from, in JSON: the file name and for videos the frame."""
    return {"file_name": frame.path.as_posix(), **({} if frame.index is None else {"frame": frame.index})}


def _classes(label_map: LabelMap, classification: Classification) -> list[dict[str, str | int | float]]:
    found = classification.cpu()
    return named_classes(label_map, found.labels.numpy(), found.scores.numpy())


def _rows(detections: Detections) -> Iterable[tuple[list[float], float, int]]:
    """(box, score, label) of every detection, rounded for files."""
    found = detections.cpu()
    boxes = found.boxes.double().numpy().round(BOX_DECIMALS).tolist()
    scores = found.scores.double().numpy().round(SCORE_DECIMALS).tolist()
    return zip(boxes, scores, found.labels.tolist(), strict=True)


def _partial(path: Path) -> Path:
    """Where a file lies until it is whole: in the same folder, hidden, with the same suffix."""
    return path.with_name(f".{path.stem}.partial{path.suffix}")


def _picture_name(name: Path, fps: float | None) -> Path:
    """Name of the annotated copy of an image, or of a video where there is a frame rate."""
    if fps is not None:
        return name.with_suffix(".mp4")
    return name if name.suffix.lower() in _PICTURE_SUFFIXES else name.with_suffix(".png")


def _comparable(path: Path) -> str:
    """One spelling of a path, also where the file system does not tell upper from lower case."""
    return os.path.realpath(path).casefold()
