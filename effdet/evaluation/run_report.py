"""Writes report.html of a run's or an evaluation's folder, from the files in it and the images that it names.

The page itself is in `effdet/report/run_page.py`; several runs side by side are in `run_comparison.py`.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.config import Config, load_config
from effdet.data.formats import read_table
from effdet.data.image_header import read_header
from effdet.data.image_table import ImageTable
from effdet.data.images import read_file, small_image
from effdet.data.validation_list import with_saved_list
from effdet.errors import ConfigError, DataError, EffdetError
from effdet.evaluation.analysis_file import check_analysis, check_start
from effdet.evaluation.tables import MEANINGS
from effdet.files import read_text
from effdet.plain_data import parse_json
from effdet.report.curves import read_log
from effdet.report.run_page import RunContent, write_run_page
from effdet.text import reason_of

REPORT = "report.html"
ANALYSIS = "analysis.json"
_SIDE = 480  # pixels along the longer side of an image on the page
_NEEDED = ("task", "images", "metrics", "classes")  # keys of an analysis without which there is no report
_EVALUATION = "eval-"  # how the folder of an evaluation beside its checkpoint is called


def write_run_report(folder: Path, images: ImageTable | Path | None = None) -> Path:
    """Writes report.html of a run or an evaluation, in one step; gives its path.

    The log, the recipe, the manifest and the images are optional: what is missing is left out, and said on the page.

    Args:
        folder: holds analysis.json, and possibly log.jsonl, config.yaml and manifest.json. For the training curves of
            an evaluation, the folder of its weights is searched too.
        images: the evaluated images: their table, or a folder that their file names are relative to. None to read the
            data set of config.yaml.

    Raises:
        DataError: analysis.json is missing or is not an analysis.
        OSError: the page cannot be written.
    """
    content = read_content(folder)
    notes = list(content.notes)
    reader = _Images(_images_of(folder, notes) if images is None else images)
    worst = content.analysis.get("worst") or []
    pictures = {id(image): reader.small(image) for image in worst}
    if reader.unreadable:
        notes.append(f"{len(reader.unreadable)} of {len(worst)} images below cannot be read: {reader.unreadable[0]}")
    content = content._replace(notes=notes)
    write_run_page(folder / REPORT, content, lambda image: pictures.get(id(image)))
    return folder / REPORT


def read_content(folder: Path) -> RunContent:
    """What the report of a folder shows, without the images.

    Raises:
        DataError: analysis.json is missing or is not an analysis.
    """
    analysis = read_analysis(folder)
    notes: list[str] = []
    run = _folder_of_training(folder, analysis)
    training, evaluations = _log(run, notes) if run else ([], [])
    return RunContent(
        name=folder.resolve().name,
        folder=str(folder),
        written=datetime.datetime.now().strftime("%Y-%m-%d %H:%M"),
        analysis=analysis,
        meanings=MEANINGS,
        training=training,
        evaluations=evaluations,
        config=_recipe(folder, notes),
        start=_newest_start(run or folder, notes),
        notes=notes,
    )


def read_analysis(folder: Path) -> dict[str, Any]:
    """The analysis of a folder.

    Raises:
        DataError: it is missing, or is not one.
    """
    path = folder / ANALYSIS
    advice = f"evaluate again, such as with `effdet eval --weights {folder / 'best.pt'}`, and pass the folder it names"
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; pass the folder of a run or of an evaluation")
    try:
        analysis = parse_json(read_text(path))
    except FileNotFoundError:
        raise DataError(f"{folder}: holds no {ANALYSIS}, so it has nothing to report; {advice}") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({reason_of(error)}); {advice}") from None
    missing = [key for key in _NEEDED if not isinstance(analysis, dict) or key not in analysis]
    if missing:
        raise DataError(f"{path}: not an analysis of an evaluation, it lacks {', '.join(missing)}; {advice}")
    try:
        return check_analysis(analysis)
    except ValueError as error:
        raise DataError(f"{path}: not an analysis of an evaluation, {error}; {advice}") from None


def _folder_of_training(folder: Path, analysis: Mapping[str, Any]) -> Path | None:
    """The folder with the log of the training: this one, that of the weights, or the one that an evaluation is in."""
    weights = analysis.get("weights")
    candidates = [folder, *([Path(weights).parent] if weights else [])]
    candidates += [folder.resolve().parent] if folder.resolve().name.startswith(_EVALUATION) else []
    return next((place for place in candidates if (place / "log.jsonl").is_file()), None)


def _log(folder: Path, notes: list[str]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    try:
        return read_log(folder / "log.jsonl")
    except DataError as error:
        notes.append(str(error))
        return [], []


def _recipe(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    """The recipe of a folder as plain containers; None if there is none."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        return load_config(path).to_dict()
    except ConfigError as error:
        notes.append(f"the recipe is not shown: {reason_of(error)}")
        return None


def _newest_start(folder: Path, notes: list[str]) -> dict[str, Any] | None:
    """The newest start in the manifest of a run; None without a manifest."""
    path = folder / "manifest.json"
    try:
        return check_start(parse_json(read_text(path))["starts"][-1])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        notes.append(f"{path}: cannot be read ({reason_of(error)})")
        return None


def _images_of(folder: Path, notes: list[str]) -> ImageTable | None:
    """The validation images of the recipe in a folder; None, with a note, if they cannot be read."""
    path = folder / "config.yaml"
    if not path.is_file():
        notes.append("there is no config.yaml that names the images, so the gallery has no pictures")
        return None
    try:
        config: Config = with_saved_list(load_config(path), folder)
        table: ImageTable = read_table(config.data, "val")
        return table
    except EffdetError as error:
        notes.append(f"the images of the gallery cannot be read: {reason_of(error)}")
        return None


class _Images:
    """Reads the images of the gallery, small; those that cannot be read are listed in `unreadable`."""

    def __init__(self, source: ImageTable | Path | None) -> None:
        self.source = source
        self.unreadable: list[str] = []
        self._rows: dict[str, int] | None = None

    def small(self, image: Mapping[str, Any]) -> NDArray[np.uint8] | None:
        """Pixels of an entry of "worst", uint8 RGB [H, W, 3]; None if it cannot be read."""
        if self.source is None:
            return None
        name, value_range = str(image["file_name"]), None
        try:
            if isinstance(self.source, Path):
                data = read_file(self.source / name)
            else:
                row = self._row(image)
                if row is None:
                    raise DataError(f"{name}: the data set has no image of this name any more")
                data, value_range = self.source.read(row), self.source.value_range
            height, width = image.get("size") or read_header(data, name).size
            return small_image(data, name, (height, width), _SIDE, value_range)
        except (ConfigError, DataError) as error:
            self.unreadable.append(reason_of(error))
            return None

    def _row(self, image: Mapping[str, Any]) -> int | None:
        """The row of an image in the table."""
        assert isinstance(self.source, ImageTable)
        index, name = image.get("index"), image["file_name"]
        if isinstance(index, int) and 0 <= index < len(self.source) and self.source.file_name(index) == name:
            return index
        if self._rows is None:
            self._rows = {self.source.file_name(row): row for row in range(len(self.source))}
        return self._rows.get(name)
