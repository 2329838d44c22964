"""The plots of an evaluation on a page: curves, thresholds, errors, calibration, accuracy over coverage.

They are made of `plots.py`; the sections around them are in `run_page.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from effdet.report.gallery import KINDS
from effdet.report.html_page import ellipsized, escaped, heading, score_text
from effdet.report.plots import UNIT, Axis, Line, count_strip, legend, line_plot, reliability_plot
from effdet.text import percent

_MOST_CURVES = 3000  # classes with curves on the page


def curves_section(curves: Mapping[str, Any], names: Sequence[str], best: Mapping[str, Any] | None) -> Iterator[str]:
    """Precision over recall, and F1, precision and recall over the confidence, of all classes and of a chosen one."""
    chosen = curves["precision"].get("classes") or []
    options = "".join(
        f'<option value="{label}">{escaped(ellipsized(name, 60))}</option>'
        for label, name in enumerate(names[:_MOST_CURVES])
        if label < len(chosen) and chosen[label] is not None
    )
    yield (
        '<p class="tools"><label for="curve-class">curves of</label><select id="curve-class">'
        f'<option value="">all classes only</option>{options}</select></p><div class="charts">'
    )
    recall = Axis("recall", *UNIT)
    line = Line("all classes", _points(curves["recall"], curves["precision"]["all"]))
    yield '<section class="card"><h3>Precision over recall</h3><p class="dim small">IoU 0.50, mean over the classes</p>'
    yield f"{legend([line])}{line_plot([line], recall, Axis('precision', *UNIT), name='precision')}</section>"
    score = Axis("confidence threshold", 0, 1)
    lines = [
        Line(title, _points(curves["score"], curves[key]["all"]), color, style)
        for title, key, color, style in (
            ("precision", "precision_at", 2, "thin"),
            ("recall", "recall_at", 3, "thin"),
            ("F1", "F1", 0, ""),
        )
        if curves.get(key)
    ]
    marks = [(best["score"], best["F1"])] if best and best.get("score") is not None else []
    note = f"IoU 0.50; F1 is highest at {score_text(best['score'])}" if best and marks else "IoU 0.50"
    yield f'<section class="card"><h3>F1 over confidence</h3><p class="dim small">{note}</p>{legend(lines)}'
    yield f"{line_plot(lines, score, Axis('F1', *UNIT), marks, name='F1')}</section></div>"


def _points(x: Sequence[float], y: Sequence[float | None]) -> list[tuple[float, float | None]]:
    return list(zip(x, y, strict=True))


def curve_data(curves: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of the classes for the script, in thousandths."""
    precision = (curves["precision"].get("classes") or [])[:_MOST_CURVES]
    scores = (curves["F1"].get("classes") or [])[:_MOST_CURVES]
    return {
        "recall": _thousandths(curves["recall"]),
        "score": _thousandths(curves["score"]),
        "over": {"precision": "recall", "F1": "score"},
        "classes": {
            "precision": [None if each is None else _thousandths(each) for each in precision],
            "F1": [None if each is None else _thousandths(each) for each in scores],
        },
    }


def _thousandths(values: Sequence[float | None]) -> list[int | None]:
    return [None if value is None or value != value else round(1000 * value) for value in values]


def thresholds_card(thresholds: Mapping[str, Any] | None) -> Iterator[str]:
    """The confidence thresholds for wanted recalls and precisions."""
    if not thresholds:
        return
    best = thresholds.get("best") or {}
    rows = [("best F1", best)] if best.get("score") is not None else []
    for kind in ("precision", "recall"):
        rows += [(f"{kind} {percent(each['wanted'], 0)}%", each) for each in thresholds.get(kind) or [] if each]
    if not rows:
        return
    about = "Precision: detections that are right. Recall: objects that are detected. IoU 0.50."
    yield f'<section class="card">{heading("Which threshold for what", about)}<div class="scroll"><table class="wide">'
    yield "<tr><th>wanted</th><th>confidence</th><th>precision</th><th>recall</th></tr>"
    for name, each in rows:
        reached = each.get("score") is not None
        score = f"<b>{each['score']:.3f}</b>" if reached else "not reached"
        rest = (percent(each.get(key)) + "%" if reached else "\u2013" for key in ("precision", "recall"))
        yield f"<tr><th>{name}</th><td>{score}</td>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"
    yield "</table></div></section>"


def errors_cards(analysis: Mapping[str, Any]) -> Iterator[str]:
    """How much AP50 each kind of error costs, as bars."""
    errors = analysis.get("errors")
    if not errors:
        return
    lost = {kind: errors.get(kind) for kind in KINDS}
    most = max((value for value in lost.values() if value), default=0)
    counts = errors.get("counts") or {}
    about = "Points of AP50 that the model would gain if all errors of a kind were corrected."
    about += f" AP50 is {percent(errors.get('AP50'))}%."
    if errors.get("score_threshold") is not None:
        about += f" Errors are counted from a score of {score_text(errors['score_threshold'])} on."
    yield f'<section class="card">{heading("What costs AP", about)}'
    yield '<div class="errors"><div class="row head"><span>kind</span><b>points</b><em>errors</em><div></div></div>'
    for kind, about in KINDS.items():
        value, count = lost[kind], counts.get(kind)
        width = 100 * max(value or 0, 0) / most if most else 0
        yield (
            f'<div class="row"><span>{kind}<small>{about}</small></span><b>{_points_text(value)}</b>'
            f"<em>{'' if count is None else escaped(count)}</em>"
            f'<div class="rail"><i class="k-{kind}" style="width:{width:.1f}%"></i></div></div>'
        )
    yield "</div>"
    both = [
        (name, errors.get(key)) for name, key in (("false positives", "false_positive"), ("misses", "false_negative"))
    ]
    if any(value is not None for _, value in both):
        text = ", ".join(f"all {name} {_points_text(value)}" for name, value in both)
        yield f'<p class="dim small">For comparison, without {text} points.</p>'
    yield "</section>"


def _points_text(value: float | None) -> str:
    return "\u2013" if value is None else f"{100 * value:.1f}"


def calibration_cards(analysis: Mapping[str, Any], measured: str) -> Iterator[str]:
    """Measured precision or accuracy over the score, and how many predictions each bin has."""
    calibration = analysis.get("calibration")
    if not calibration:
        return
    bins, error = calibration["bins"], calibration.get("error")
    about = f"Bars: {measured} in a range of scores. On the dashed line, 80% of those with a score of 0.8 are right."
    if error is not None:
        about += f" Expected calibration error: <b>{percent(error)}%</b>."
    if calibration.get("temperature") is not None:
        about += f" With a temperature of {calibration['temperature']:.2f}: "
        about += f"<b>{percent(calibration.get('error_with_temperature'))}%</b>."
    yield f'<section class="card">{heading("Does a score mean what it says?", about)}<p class="legend">'
    yield '<span><i class="over"></i>score too high</span><span><i class="under"></i>score too low</span></p>'
    yield f'{reliability_plot(bins, measured)}<p class="dim small">predictions per bin, log scale</p>'
    yield f"{count_strip(bins)}</section>"


def coverage_cards(analysis: Mapping[str, Any]) -> Iterator[str]:
    """Accuracy of the predictions above a score, over how many images those are."""
    curves = analysis.get("curves")
    if not curves:
        return
    rows = zip(curves["coverage"], curves["accuracy"], strict=True)
    points = sorted((coverage, accuracy) for coverage, accuracy in rows if accuracy is not None)
    low = min((accuracy for _, accuracy in points), default=0.0)
    axis = Axis("accuracy", min(0.9, int(10 * low) / 10), 1.0, percent=True)
    about = "Accuracy on the images with the highest scores: how many can be decided automatically, how accurately."
    yield f'<section class="card">{heading("Accuracy over coverage", about)}'
    line = Line("accuracy", points)
    yield f"{legend([line])}{line_plot([line], Axis('fraction of the images', *UNIT), axis)}</section>"
