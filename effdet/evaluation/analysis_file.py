"""Reads analysis.json and manifest.json of a run's folder, and checks that they hold what a report shows.

What the values mean is in `analysis.py` and `accuracy_analysis.py`, which compute them; the page is made in
`effdet/report/run_page.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from effdet.plain_data import check_mapping, first_fault, shortened

_Real = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Reals = list[_Real | None]
_Pair = Annotated[_Reals, Field(min_length=2, max_length=2)]
_SETTINGS_OF_INTERVALS = ("level", "resamples")


class _Checked(BaseModel):
    """Values of a file. Keys that are not named here are not shown."""

    model_config = ConfigDict(strict=True)


class _Numbers(BaseModel):
    """Values of which those that are not named are numbers."""

    model_config = ConfigDict(strict=True, extra="allow")
    __pydantic_extra__: dict[str, _Real | None] = Field(init=False)


class _DetectionClass(_Numbers):
    name: str
    category_id: Any = None
    images: _Count
    objects: _Count
    interval: _Pair | None = None


class _Class(_Checked):
    name: str
    images: _Count
    accuracy: _Real | None = None
    precision: _Real | None = None
    F1: _Real | None = None
    interval: _Pair | None = None
    confused_with: str | None = None


class _Settings(_Checked):
    score_threshold: _Real | None = None
    nms: str | None = None
    iou_threshold: _Real | None = None
    max_detections: _Count | None = None
    coco_cap: _Count | None = None


class _Best(_Checked):
    score: _Real | None = None
    F1: _Real | None = None
    precision: _Real | None = None
    recall: _Real | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> _Best:
        if self.score is not None and None in (self.F1, self.precision, self.recall):
            raise ValueError("has a score without F1, precision and recall")
        return self


class _Wanted(_Checked):
    wanted: _Real
    score: _Real | None = None
    precision: _Real | None = None
    recall: _Real | None = None


class _Thresholds(_Checked):
    best: _Best | None = None
    precision: list[_Wanted | None] | None = None
    recall: list[_Wanted | None] | None = None


class _Curve(_Checked):
    all: _Reals
    classes: list[_Reals | None] | None = None


class _DetectionCurves(_Checked):
    recall: list[_Real]
    precision: _Curve
    score: list[_Real]
    F1: _Curve
    precision_at: _Curve | None = None
    recall_at: _Curve | None = None

    @model_validator(mode="after")
    def _lists_have_one_length(self) -> _DetectionCurves:
        _check_lengths(self.recall, self.precision)
        for curve in filter(None, (self.F1, self.precision_at, self.recall_at)):
            _check_lengths(self.score, curve)
        return self


class _Curves(_Checked):
    score: list[_Real]
    coverage: list[_Real]
    accuracy: _Reals

    @model_validator(mode="after")
    def _lists_have_one_length(self) -> _Curves:
        if not len(self.score) == len(self.coverage) == len(self.accuracy):
            raise ValueError("its lists have several lengths")
        return self


class _Confusion(_Checked):
    names: list[str]
    entries: list[Annotated[list[_Count], Field(min_length=3, max_length=3)]]
    score_threshold: _Real | None = None
    iou_threshold: _Real | None = None


class _Errors(_Numbers):
    counts: dict[str, _Count] | None = None


class _Bin(_Checked):
    low: _Real
    high: _Real
    count: _Count
    score: _Real | None
    precision: _Real | None


class _Calibration(_Checked):
    bins: list[_Bin]
    error: _Real | None = None
    temperature: _Real | None = None
    error_with_temperature: _Real | None = None


class _Box(_Checked):
    box: Annotated[list[_Real], Field(min_length=4, max_length=4)]
    label: _Count
    error: str | None
    crowd: bool = False


class _ScoredBox(_Box):
    score: _Real


class _WorstImage(_Checked):
    file_name: str
    index: int | None = None
    size: Annotated[list[Annotated[float, Field(gt=0, le=1e9)]], Field(min_length=2, max_length=2)]
    counts: dict[str, _Count]
    objects: list[_Box]
    detections: list[_ScoredBox]
    left_out: _Count | None = None


class _Prediction(_Checked):
    label: _Count
    score: _Real


class _WrongImage(_Checked):
    file_name: str
    index: int | None = None
    true: _Count
    predictions: list[_Prediction]


class _Analysis(_Checked):
    """What analyses of both tasks have."""

    weights: str | None = None
    images: _Count
    metrics: dict[str, _Real | None]
    intervals: dict[str, _Real | _Pair | None] | None = None
    confusion: _Confusion | None = None
    calibration: _Calibration | None = None
    notes: list[str] | None = None

    @model_validator(mode="after")
    def _intervals_have_two_ends(self) -> _Analysis:
        for name, value in (self.intervals or {}).items():
            if isinstance(value, float) != (name in _SETTINGS_OF_INTERVALS):
                raise ValueError(f"the interval '{shortened(name)}' is no list of two numbers")
            if isinstance(value, list) and value.count(None) == 1:
                raise ValueError(f"the interval '{shortened(name)}' has one end")
        return self


class _DetectionAnalysis(_Analysis):
    task: Literal["detection"]
    objects: _Count
    detections: _Count
    crowds: _Count | None = None
    settings: _Settings | None = None
    classes: list[_DetectionClass]
    thresholds: _Thresholds | None = None
    curves: _DetectionCurves | None = None
    errors: _Errors | None = None
    worst: list[_WorstImage] | None = None

    @model_validator(mode="after")
    def _labels_are_classes(self) -> _DetectionAnalysis:
        labels = [box.label for image in self.worst or [] for box in (*image.objects, *image.detections)]
        _check_labels(labels, len(self.classes))
        if self.confusion is not None:
            if None in (self.confusion.score_threshold, self.confusion.iou_threshold):
                raise ValueError("the confusion matrix lacks a threshold")
            _check_labels([label for entry in self.confusion.entries for label in entry[:2]], self._names() + 1)
        return self

    def _names(self) -> int:
        return len(self.confusion.names) if self.confusion else 0


class _ClassificationAnalysis(_Analysis):
    task: Literal["classification"]
    classes: list[_Class]
    curves: _Curves | None = None
    worst: list[_WrongImage] | None = None

    @model_validator(mode="after")
    def _labels_are_classes(self) -> _ClassificationAnalysis:
        predicted = [each.label for image in self.worst or [] for each in image.predictions]
        _check_labels([*predicted, *(image.true for image in self.worst or [])], len(self.classes))
        if self.confusion is not None:
            labels = [label for entry in self.confusion.entries for label in entry[:2]]
            _check_labels(labels, len(self.confusion.names))
        return self


class _Start(_Checked):
    """What a report shows of an entry of manifest.json."""

    time: str | None = None
    seed: int | None = None
    hardware: dict[str, Any] = {}
    versions: dict[str, Any] = {}
    git: list[dict[str, str | bool | None]] | None = None


_ANALYSES: dict[str, type[_Analysis]] = {"detection": _DetectionAnalysis, "classification": _ClassificationAnalysis}


def check_analysis(content: Any) -> dict[str, Any]:
    """The content of an analysis.json, if it holds what a report shows.

    Raises:
        ValueError: it does not; the message names the key.
    """
    check_mapping(content)
    task = content.get("task")
    if not isinstance(task, str) or task not in _ANALYSES:
        raise ValueError(f"its task is {shortened(repr(task))}")
    _check(_ANALYSES[task], content)
    return dict(content)


def check_start(content: Any) -> dict[str, Any]:
    """An entry of manifest.json, if it holds what a report shows.

    Raises:
        ValueError: it does not; the message names the key.
    """
    check_mapping(content)
    _check(_Start, content)
    return dict(content)


def _check(model: type[BaseModel], content: Any) -> None:
    try:
        model.model_validate(content)
    except ValidationError as error:
        raise ValueError(first_fault(error)) from None


def _check_lengths(x: Sequence[float], curve: _Curve) -> None:
    if any(len(values) != len(x) for values in (curve.all, *(each for each in curve.classes or [] if each))):
        raise ValueError("its lists have several lengths")


def _check_labels(labels: Sequence[int], classes: int) -> None:
    if labels and max(labels) >= classes:
        raise ValueError(f"it has the label {max(labels)}, but {classes} classes")
