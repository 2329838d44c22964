"""The report of a run or of an evaluation as one HTML page, which opens from the disk and loads nothing.

It shows the plain values of analysis.json, log.jsonl, config.yaml and manifest.json; reading them is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from effdet.files import write_text
from effdet.report.confusion_plot import confusion_card
from effdet.report.evaluation_plots import (
    calibration_cards,
    coverage_cards,
    curve_data,
    curves_section,
    errors_cards,
    thresholds_card,
)
from effdet.report.gallery import Picture, classification_gallery, detection_gallery
from effdet.report.html_page import document, escaped, isolated, json_script, score_text
from effdet.report.run_highlights import highlights
from effdet.report.run_script import RUN_SCRIPT
from effdet.report.run_style import RUN_STYLE
from effdet.report.run_summary import facts_card, metrics_card, scope, tiles
from effdet.report.sortable_table import classification_rows, detection_rows, sortable_table
from effdet.report.training_plots import Records, training_cards


class RunContent(NamedTuple):
    """What a report shows.

    Attributes:
        name: of the run or the evaluation.
        folder: where it is.
        written: date and time of the report.
        analysis: of analysis.json.
        meanings: metric -> what it is.
        training: records of training steps; empty without a log.
        evaluations: records of evaluations during the training.
        config: the recipe as plain containers; None if unknown.
        start: of the manifest, the newest start of the run; None if unknown.
        notes: what could not be read, a sentence each.
    """

    name: str
    folder: str
    written: str
    analysis: Mapping[str, Any]
    meanings: Mapping[str, str]
    training: Records = ()
    evaluations: Records = ()
    config: Mapping[str, Any] | None = None
    start: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()


_FEW_CLASSES = 5  # whose confusion matrix fits beside another card
LARGE = (
    '<dialog id="large" aria-label="image"><div class="large"></div><div class="row"><p></p>'
    '<button type="button" data-step="-1" aria-label="previous">\u2190</button>'
    '<button type="button" data-step="1" aria-label="next">\u2192</button>'
    '<button type="button" class="close">close</button></div></dialog>'
)


def write_run_page(path: Path, content: RunContent, picture: Picture) -> None:
    """Writes the page, in one step.

    Args:
        path: the file.
        content: what it shows.
        picture: the pixels of an entry of "worst", uint8 RGB [H, W, 3], small; None if there is no picture.
    """
    detection = content.analysis["task"] == "detection"
    sections = list(_detection(content, picture) if detection else _classification(content, picture))
    body = [*_head(content, [(key, title) for key, title, _ in sections])]
    for key, title, lines in sections:
        body += [f'<h2 id="{key}">{title}</h2>', *lines]
    write_text(path, document(f"{content.name}: report", RUN_STYLE, [*body, LARGE], RUN_SCRIPT))


def _head(content: RunContent, sections: Sequence[tuple[str, str]]) -> Iterator[str]:
    task = "detector" if content.analysis["task"] == "detection" else "classifier"
    yield f"<header><h1>{isolated(content.name)}</h1>"
    yield f"<p>Report of a {task}: {escaped(scope(content.analysis))}<br>{isolated(content.folder)}</p></header>"
    yield f'<nav aria-label="sections">{"".join(f"""<a href="#{key}">{title}</a>""" for key, title in sections)}</nav>'


def _overview(content: RunContent) -> Iterator[str]:
    yield from tiles(content.analysis)
    sentences = highlights(content.analysis)
    if sentences:
        items = "".join(f"<li>{sentence}</li>" for sentence in sentences)
        yield f'<section class="card"><h3>What stands out</h3><ul class="says">{items}</ul></section>'
    for note in content.notes:
        yield f'<p class="card note">{isolated(note)}</p>'
    yield from metrics_card(content.analysis, content.meanings)
    yield from facts_card(content.analysis, content.config, content.start, content.written)


def _training(content: RunContent) -> Iterator[tuple[str, str, list[str]]]:
    cards = list(training_cards(content.training, content.evaluations))
    if cards:
        yield "training", "Training", ['<div class="charts three">', *cards, "</div>"]


def _detection(content: RunContent, picture: Picture) -> Iterator[tuple[str, str, list[str]]]:
    """Name, title and lines of each section."""
    analysis = content.analysis
    classes, names = analysis["classes"], [each["name"] for each in analysis["classes"]]
    yield "overview", "Overview", list(_overview(content))
    yield from _training(content)
    curves, thresholds = analysis.get("curves"), analysis.get("thresholds")
    if curves:
        lines = curves_section(curves, names, (thresholds or {}).get("best"))
        yield "curves", "Curves", [*lines, json_script("curve-data", curve_data(curves))]
    cards = [*thresholds_card(thresholds), *calibration_cards(analysis, "precision")]
    if cards:
        yield "scores", "Scores", _charts(cards)
    cards = [*errors_cards(analysis), *_confusion(analysis, True)]
    if cards:
        yield "errors", "Errors", _charts(cards) if len(names) <= _FEW_CLASSES else cards
    yield "classes", "Classes", _card(sortable_table(*detection_rows(classes), "classes"))
    yield "images", "Worst images", _card(detection_gallery(analysis.get("worst") or (), names, picture))


def _classification(content: RunContent, picture: Picture) -> Iterator[tuple[str, str, list[str]]]:
    """Name, title and lines of each section."""
    analysis = content.analysis
    classes, names = analysis["classes"], [each["name"] for each in analysis["classes"]]
    yield "overview", "Overview", list(_overview(content))
    yield from _training(content)
    cards = [*coverage_cards(analysis), *calibration_cards(analysis, "accuracy")]
    if cards:
        yield "scores", "Scores", _charts(cards)
    confusion = list(_confusion(analysis, False))
    if confusion:
        yield "confusion", "Confusion", confusion
    yield "classes", "Classes", _card(sortable_table(*classification_rows(classes), "classes"))
    yield "images", "Worst images", _card(classification_gallery(analysis.get("worst") or (), names, picture))


def _confusion(analysis: Mapping[str, Any], background: bool) -> Iterator[str]:
    confusion = analysis.get("confusion")
    if not confusion:
        return
    note = "The most probable class of every image. Rows are true classes."
    if background:
        note = (
            f"Detections with a score of at least {score_text(confusion['score_threshold'])}, matched at IoU "
            f"{confusion['iou_threshold']:g}. Rows are true classes."
        )
    yield from confusion_card(confusion["entries"], confusion["names"], background, note)


def _charts(cards: Sequence[str]) -> list[str]:
    return ['<div class="charts">', *cards, "</div>"]


def _card(lines: Iterator[str]) -> list[str]:
    return ['<section class="card">', *lines, "</section>"]
