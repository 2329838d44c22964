"""What an evaluation says, in sentences: at which confidence to run, what costs most, which class is weakest.

Each sentence follows from numbers that the page shows too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from effdet.report.gallery import KINDS
from effdet.report.html_page import ellipsized, isolated, score_text
from effdet.text import count_of, percent

_FEW_OBJECTS = 5  # of a class, below which its AP says little
_POOR_CALIBRATION = 0.05  # expected calibration error from which a sentence is worth it
_PHRASES = {
    "classification": "detections with the wrong class",
    "localization": "boxes of an IoU below 0.5",
    "both": "boxes with the wrong class and an IoU below 0.5",
    "duplicate": "second detections of the same object",
    "background": "detections where there is no object",
    "missed": "objects that are not detected",
}


def highlights(analysis: Mapping[str, Any]) -> list[str]:
    """Sentences as HTML, the most useful first."""
    chosen = _detection if analysis["task"] == "detection" else _classification
    return [*chosen(analysis), *(isolated(note) for note in analysis.get("notes") or [])]


def _detection(analysis: Mapping[str, Any]) -> Iterator[str]:
    if not analysis.get("objects"):
        yield "The images have no objects, so nothing could be measured."
        return
    if not analysis.get("detections"):
        yield "The model detected nothing above the score threshold."
        return
    best = (analysis.get("thresholds") or {}).get("best")
    if best and best.get("score") is not None:
        yield (
            f"<b>Run at a confidence threshold of {score_text(best['score'])}.</b> F1 is highest there, "
            f"{percent(best['F1'])}%: {percent(best['precision'])}% of the detections are right, "
            f"{percent(best['recall'])}% of the objects are detected."
        )
    yield from _largest_error(analysis.get("errors") or {})
    yield from _weakest_class(analysis["classes"], "AP", "objects")
    yield from _confused(analysis.get("confusion") or {})
    yield from _uncertainty(analysis, "AP")
    yield from _calibration(analysis.get("calibration"), "precision")


def _largest_error(errors: Mapping[str, Any]) -> Iterator[str]:
    lost = {kind: errors[kind] for kind in KINDS if errors.get(kind)}
    if not lost:
        return
    first, *others = sorted(lost, key=lambda kind: -lost[kind])
    text = (
        f"<b>Most AP50 is lost to {_PHRASES[first]}</b>: without them it would be {100 * lost[first]:.1f} points higher"
    )
    if others:
        text += f"; next are {_PHRASES[others[0]]}, {100 * lost[others[0]]:.1f} points"
    yield f"{text}."


def _weakest_class(classes: Sequence[Mapping[str, Any]], metric: str, unit: str) -> Iterator[str]:
    measured = [each for each in classes if (each.get(metric) is not None and each[metric] >= 0)]
    enough = [each for each in measured if each[unit] >= _FEW_OBJECTS]
    if len(enough) > 1:
        worst = min(enough, key=lambda each: each[metric])
        best = max(enough, key=lambda each: each[metric])
        yield (
            f"The weakest class is <b>{_class(worst['name'])}</b>: {metric} {percent(worst[metric])}% on "
            f"{count_of(worst[unit], unit[:-1])}; the best is {_class(best['name'])} with {percent(best[metric])}%."
        )
    absent = len(classes) - len(measured)
    if absent:
        yield f"{count_of(absent, 'class has', 'classes have')} no {unit} here and could not be measured."


def _confused(confusion: Mapping[str, Any]) -> Iterator[str]:
    names = confusion.get("names") or []
    both = [entry for entry in confusion.get("entries") or [] if entry[0] != entry[1] and max(entry[:2]) < len(names)]
    if both:
        true, predicted, count = max(both, key=lambda entry: entry[2])
        if count > 1:
            yield f"Most often confused: {_class(names[true])} predicted as {_class(names[predicted])}, {count} times."


def _uncertainty(analysis: Mapping[str, Any], metric: str) -> Iterator[str]:
    interval = (analysis.get("intervals") or {}).get(metric)
    if interval and interval[0] is not None:
        half = 50 * (interval[1] - interval[0])
        yield (
            f"On {count_of(analysis['images'], 'image')} {metric} is known to \u00b1{half:.1f} points. Compare models "
            "with <code>effdet report RUN RUN</code>, which pairs them over the images."
        )


def _calibration(calibration: Mapping[str, Any] | None, measured: str) -> Iterator[str]:
    if not calibration or calibration.get("error") is None or calibration["error"] < _POOR_CALIBRATION:
        return
    text = f"A score is off from the measured {measured} by {100 * calibration['error']:.1f} points on average"
    if calibration.get("temperature") is not None and calibration.get("error_with_temperature") is not None:
        text += (
            f"; with a temperature of {calibration['temperature']:.2f} by "
            f"{100 * calibration['error_with_temperature']:.1f}"
        )
    yield f"{text}."


def _classification(analysis: Mapping[str, Any]) -> Iterator[str]:
    if not analysis.get("images"):
        yield "There are no images, so nothing could be measured."
        return
    curves = analysis.get("curves") or {}
    wanted = _coverage_at(curves, 0.99) if curves else None
    if wanted:
        yield (
            f"<b>At a score of {score_text(wanted[0])} and above 99% of the predictions are right</b>; that holds for "
            f"{percent(wanted[1])}% of the images."
        )
    yield from _weakest_class(analysis["classes"], "accuracy", "images")
    yield from _confused(analysis.get("confusion") or {})
    yield from _uncertainty(analysis, "top1")
    yield from _calibration(analysis.get("calibration"), "accuracy")


def _coverage_at(curves: Mapping[str, Any], accuracy: float) -> tuple[float, float] | None:
    """Lowest score from which predictions are so accurate, and the fraction of images with such a score."""
    rows = zip(curves["score"], curves["coverage"], curves["accuracy"], strict=True)
    good = [(score, coverage) for score, coverage, value in rows if value is not None and value >= accuracy]
    return max(good, key=lambda row: row[1], default=None)


def _class(name: str) -> str:
    return isolated(ellipsized(name, 40))
