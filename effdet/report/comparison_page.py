"""Several runs or evaluations side by side as one HTML page: metrics, real differences, curves, classes and recipes.

The page of one run is in `run_page.py`; the statistics of the differences is done elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from effdet.files import write_text
from effdet.report.gallery import KINDS
from effdet.report.html_page import document, ellipsized, escaped, heading, isolated
from effdet.report.plots import UNIT, Axis, Line, interval_track, legend, line_plot
from effdet.report.run_page import RunContent
from effdet.report.run_script import RUN_SCRIPT
from effdet.report.run_style import RUN_STYLE
from effdet.report.run_summary import scope
from effdet.report.sortable_table import Column, sortable_table
from effdet.report.training_plots import METRICS, loss_axis, rounded_up, series
from effdet.text import percent

_LONGEST_NAME = 40  # letters of a run
_LONGEST_VALUE = 60  # letters of a value of a recipe
_FINEST_SPAN = 0.02  # least width of the scale of differences


def write_comparison_page(
    path: Path,
    runs: Sequence[RunContent],
    paired: Mapping[str, Any] | None,
    differing: Sequence[tuple[str, Sequence[str]]],
    warnings: Sequence[str] = (),
) -> None:
    """Writes the page, in one step.

    Args:
        path: the file.
        runs: two or more, of one task, with names that differ.
        paired: what `compare_runs` gives: "pairs" with a, b, metric, difference, interval, noise and verdict, and a
            "notes"; None if the runs could not be paired.
        differing: keys of the recipes whose values differ, with the value of each run as text.
        warnings: what makes the runs incomparable, a sentence each.
    """
    detection = runs[0].analysis["task"] == "detection"
    sections = [("overview", "Overview", list(_overview(runs, paired, warnings)))]
    plots = [*_training_plots(runs), *(_curves(runs) if detection else _coverage(runs))]
    if plots:
        sections.append(("curves", "Curves", ['<div class="charts">', *plots, "</div>"]))
    if detection and any(run.analysis.get("errors") for run in runs):
        sections.append(("errors", "Errors", list(_errors(runs))))
    sections.append(("classes", "Classes", ['<section class="card">', *_classes(runs, detection), "</section>"]))
    if differing:
        sections.append(("recipes", "Recipes", list(_recipes(runs, differing))))
    body = [f"<header><h1>{len(runs)} runs side by side</h1>{_key(runs)}</header>", '<nav aria-label="sections">']
    body += [f'<a href="#{key}">{title}</a>' for key, title, _ in sections]
    body.append("</nav>")
    for key, title, lines in sections:
        body += [f'<h2 id="{key}">{title}</h2>', *lines]
    write_text(path, document("comparison of runs", RUN_STYLE, body, RUN_SCRIPT))


def _key(runs: Sequence[RunContent]) -> str:
    """The runs with their colors."""
    items = "".join(
        f'<li><i class="c{number % 8}"></i><b>{isolated(run.name)}</b> <span class="dim">{isolated(run.folder)}: '
        f"{escaped(scope(run.analysis))}</span></li>"
        for number, run in enumerate(runs)
    )
    return f'<ul class="key">{items}</ul>'


def _overview(runs: Sequence[RunContent], paired: Mapping[str, Any] | None, warnings: Sequence[str]) -> Iterator[str]:
    for warning in warnings:
        yield f'<p class="card note">{isolated(warning)}</p>'
    if paired and paired["pairs"]:
        yield from _differences(paired)
    about = "In percent; the bar is the 95% interval. The highest value is bold."
    yield f'<section class="card">{heading("Metrics", about)}{_side_by_side("metric", runs)}'
    names = dict.fromkeys(name for run in runs for name in run.analysis["metrics"])
    for name in names:
        yield f'<tr><th title="{escaped(runs[0].meanings.get(name, ""))}">{escaped(name.replace("_", " "))}</th>'
        values = [run.analysis["metrics"].get(name) for run in runs]
        best = max((value for value in values if value is not None), default=None)
        for number, (run, value) in enumerate(zip(runs, values, strict=True)):
            yield _metric(run, name, value, number, value is not None and value == best)
        yield "</tr>"
    yield "</table></div></section>"


def _side_by_side(first: str, runs: Sequence[RunContent]) -> str:
    """The start of a table with a column per run, up to its head."""
    width = 100 + 112 * len(runs)  # pixels that it needs at least
    return f'<div class="scroll"><table class="sides" style="min-width:{width}px">{_heads(first, runs)}'


def _heads(first: str, runs: Sequence[RunContent]) -> str:
    """The head of a table with a column per run, after the first column."""
    names = "".join(
        f'<th class="text"><i class="c{number % 8}"></i> {isolated(ellipsized(run.name, _LONGEST_NAME))}</th>'
        for number, run in enumerate(runs)
    )
    return f"<tr><th>{first}</th>{names}</tr>"


def _metric(run: RunContent, name: str, value: float | None, number: int, best: bool) -> str:
    interval = (run.analysis.get("intervals") or {}).get(name)
    interval = None if not interval or interval[0] is None else interval
    text = f"<b>{percent(value)}</b>" if best else percent(value)
    range_text = f' <small class="dim">{percent(interval[0])} to {percent(interval[1])}</small>' if interval else ""
    return f'<td class="text side">{text}{range_text}{interval_track(value, interval, number)}</td>'


def _differences(paired: Mapping[str, Any]) -> Iterator[str]:
    """Each pair of runs with its difference, interval and verdict."""
    pairs = paired["pairs"]
    ends = [abs(end) for pair in pairs for end in (pair.get("interval") or ())]
    reach = max([_FINEST_SPAN, *ends]) * 1.05
    about = (
        "Second run minus first, in points, over the same images. A difference is real if its 95% interval excludes 0."
    )
    yield f'<section class="card">{heading("Which differences are real", about)}'
    yield '<div class="scroll"><table class="pairs wide"><tr><th>first</th><th class="text">second</th>'
    yield '<th class="text">metric</th><th>difference</th><th class="text track"></th>'
    yield '<th class="text">verdict</th></tr>'
    for pair in pairs:
        real = pair["verdict"] == "different"
        difference, interval = pair.get("difference"), pair.get("interval")
        number = "\u2013" if difference is None else f"{100 * difference:+.1f}"
        span = f"{100 * interval[0]:+.1f} to {100 * interval[1]:+.1f}" if interval else ""
        first, second = (isolated(ellipsized(str(pair[key]), _LONGEST_NAME)) for key in ("a", "b"))
        yield (
            f'<tr><th>{first}</th><td class="text">{second}</td><td class="text">{escaped(pair["metric"])}</td>'
            f'<td><b>{number}</b></td><td class="track">{_difference_track(difference, interval, reach, real)}'
            f'<small class="dim">{span}</small></td>{_verdict(pair["verdict"], difference if real else None)}</tr>'
        )
    yield "</table></div>"
    yield "".join(f'<p class="dim small">{isolated(note)}</p>' for note in paired["notes"]) + "</section>"


def _verdict(text: str, difference: float | None) -> str:
    """The cell of a verdict; with its direction if there is a real difference."""
    if difference is None:
        return f'<td class="text dim">{escaped(text)}</td>'
    direction = "higher" if difference > 0 else "lower"
    return f'<td class="text {direction}">{escaped(text)}: second is {direction}</td>'


def _difference_track(difference: float | None, interval: Sequence[float] | None, reach: float, real: bool) -> str:
    """A difference on a track from -reach to reach with a line at 0."""

    def place(value: float) -> float:
        return 50 + 50 * min(max(value / reach, -1), 1)

    style = "c7" if not real else "c2" if (difference or 0) > 0 else "c4"
    drawn = '<rect class="rail" x="0" y="5.5" width="100%" height="3" rx="1.5"/>'
    if interval is not None:
        low, high = map(place, interval)
        drawn += (
            f'<rect class="span {style}" x="{low:.2f}%" y="3" width="{max(high - low, 0.4):.2f}%" height="8" rx="4"/>'
        )
    drawn += '<rect class="zero" x="50%" y="0" width="1" height="14"/>'
    if difference is not None:
        drawn += f'<circle class="dot {style}" cx="{place(difference):.2f}%" cy="7" r="4"/>'
    return f'<svg class="track" aria-hidden="true">{drawn}</svg>'


def _training_plots(runs: Sequence[RunContent]) -> Iterator[str]:
    """The first metric and the loss of the trainings over the steps."""
    last = max(
        (records[-1]["step"] for run in runs for records in (run.training, run.evaluations) if records), default=0
    )
    steps = Axis("optimizer step", 0, max(last, 1))
    metric = next((name for name in METRICS if any(name in each for run in runs for each in run.evaluations)), None)
    if metric:
        lines = [
            Line(
                run.name,
                [point for point in series(run.evaluations, metric, None) if (point[1] or 0) >= 0],
                number,
                "dots",
            )
            for number, run in enumerate(runs)
        ]
        high = max((value for line in lines for _, value in line.points if value is not None), default=1.0)
        yield _plot(f"{metric} while training", lines, steps, Axis(metric, 0, rounded_up(high), percent=True))
    losses = [Line(run.name, series(run.training, "loss"), number) for number, run in enumerate(runs)]
    if any(line.points for line in losses):
        yield _plot("Training loss", losses, steps, loss_axis(losses))


def _curves(runs: Sequence[RunContent]) -> Iterator[str]:
    """Precision over recall and F1 over the confidence, of all classes."""
    for title, x, y, over, key in (
        ("Precision over recall", "recall", "precision", "recall", "precision"),
        ("F1 over confidence", "confidence threshold", "F1", "score", "F1"),
    ):
        lines = []
        for number, run in enumerate(runs):
            curves = run.analysis.get("curves")
            if curves:
                lines.append(Line(run.name, list(zip(curves[over], curves[key]["all"], strict=True)), number))
        if lines:
            yield _plot(title, lines, Axis(x, *UNIT) if over == "recall" else Axis(x, 0, 1), Axis(y, *UNIT))


def _coverage(runs: Sequence[RunContent]) -> Iterator[str]:
    """Accuracy over coverage of classifiers."""
    lines = []
    for number, run in enumerate(runs):
        curves = run.analysis.get("curves")
        if curves:
            rows = zip(curves["coverage"], curves["accuracy"], strict=True)
            lines.append(Line(run.name, sorted(row for row in rows if row[1] is not None), number))
    if lines:
        low = min((value for line in lines for _, value in line.points if value is not None), default=0.0)
        axis = Axis("accuracy", min(0.9, int(10 * low) / 10), 1.0, percent=True)
        yield _plot("Accuracy over coverage", lines, Axis("fraction of the images", *UNIT), axis)


def _plot(title: str, lines: Sequence[Line], x: Axis, y: Axis) -> str:
    shown = [line for line in lines if line.points]
    return f'<section class="card"><h3>{title}</h3>{legend(shown)}{line_plot(shown, x, y)}</section>'


def _errors(runs: Sequence[RunContent]) -> Iterator[str]:
    about = "Points of AP50 that a model would gain if all errors of a kind were corrected."
    yield f'<section class="card">{heading("What costs AP", about)}{_side_by_side("kind", runs)}'
    most = max([(run.analysis.get("errors") or {}).get(kind) or 0 for run in runs for kind in KINDS] or [0])
    for kind, about in KINDS.items():
        yield f'<tr><th title="{about}">{kind}</th>'
        for number, run in enumerate(runs):
            lost = (run.analysis.get("errors") or {}).get(kind)
            text = "\u2013" if lost is None else f"{100 * lost:.1f}"
            track = interval_track(None, (0, (lost or 0) / most if most else 0), number)
            yield f'<td class="text side">{text}{track}</td>'
        yield "</tr>"
    yield "</table></div></section>"


def _classes(runs: Sequence[RunContent], detection: bool) -> Iterator[str]:
    """A row per class name; the differences are those of the last run and the first."""
    metric, unit = ("AP", "objects") if detection else ("accuracy", "images")
    rows_of = [{each["name"]: each for each in run.analysis["classes"]} for run in runs]
    names = dict.fromkeys(name for rows in rows_of for name in rows)
    columns = [Column("class", "name in the data set", "name"), Column(unit, f"{unit} of the class", "count")]
    columns += [Column(ellipsized(run.name, _LONGEST_NAME), f"{metric} of {run.name}, percent", "bar") for run in runs]
    columns.append(Column("last minus first", f"difference of {metric} in points", "points"))
    table: list[list[object]] = []
    for name in names:
        values = [rows.get(name, {}).get(metric) for rows in rows_of]
        count = next((rows[name][unit] for rows in rows_of if name in rows), None)
        ends = values[0], values[-1]
        table.append([name, count, *values, None if None in ends else ends[1] - ends[0]])
    yield f'<p class="dim">{metric} of each class. Differences of single classes are often chance.</p>'
    yield from sortable_table(columns, table, "classes")


def _recipes(runs: Sequence[RunContent], differing: Sequence[tuple[str, Sequence[str]]]) -> Iterator[str]:
    yield f'<section class="card">{heading("What differs in the recipes")}<div class="scroll"><table class="pairs">'
    yield _heads("key", runs)
    for key, values in differing:
        cells = "".join(f'<td class="text">{isolated(ellipsized(value, _LONGEST_VALUE))}</td>' for value in values)
        yield f"<tr><th><code>{escaped(key)}</code></th>{cells}</tr>"
    yield "</table></div></section>"
