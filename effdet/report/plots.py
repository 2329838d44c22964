"""Plots as SVG inside a page: lines over two axes, reliability bars, an interval on a track.

Colors are classes of the style sheet, so that a plot follows light and dark. What is plotted is decided elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from effdet.report.html_page import escaped
from effdet.text import percent

WIDTH, HEIGHT = 480, 270  # of a plot, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 22, 12, 44  # margins
_WIDEST_LABEL = 7  # letters of a number at the vertical axis


class Line(NamedTuple):
    """One line of a plot.

    Attributes:
        name: shown in the legend and beside the pointer.
        points: (x, y); a y of None or NaN interrupts the line.
        color: number of a color, 0..7.
        kind: "" for a plain line, or classes of the style sheet such as "thin", "dashed" or "pale".
    """

    name: str
    points: Sequence[tuple[float, float | None]]
    color: int = 0
    kind: str = ""


class Axis(NamedTuple):
    """One axis of a plot.

    Attributes:
        title: with the unit.
        low: smallest value.
        high: greatest value.
        percent: whether values are fractions that are shown in percent.
        log: whether the scale is logarithmic; then 0 < low < high.
    """

    title: str
    low: float
    high: float
    percent: bool = False
    log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, 0 at `low` and 1 at `high`; values beyond are at the end."""
        low, high, own = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, own = math.log(low), math.log(high), math.log(own)
        return (own - low) / (high - low) if high > low else 0.5


UNIT = (0.0, 1.0, True)  # an axis of fractions


def line_plot(
    lines: Sequence[Line], x: Axis, y: Axis, marks: Sequence[tuple[float, float]] = (), name: str = ""
) -> str:
    """A plot of lines; `report/run_script.py` shows values at the pointer.

    Args:
        lines: in the order of drawing.
        x: the horizontal axis.
        y: the vertical axis.
        marks: points that are marked by a ring.
        name: by which the script finds the plot to add a line to.
    """
    box = f"{_LEFT} {WIDTH - _RIGHT} {_TOP} {HEIGHT - _BOTTOM}"
    frame = f"{box} {x.low:g} {x.high:g} {int(x.percent)} {y.low:g} {y.high:g} {int(y.percent)} {int(y.log)}"
    drawn = "".join(f'<g class="curve" data-name="{escaped(line.name)}">{_path(line, x, y)}</g>' for line in lines)
    rings = "".join(f'<circle class="ring" cx="{_across(x, a):.1f}" cy="{_down(y, b):.1f}" r="5"/>' for a, b in marks)
    label = escaped(f"{y.title} over {x.title}")
    named = f' data-plot="{escaped(name)}"' if name else ""
    return (
        f'<div class="plot"{named}><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}" '
        f'data-frame="{frame}">{"".join(_axes(x, y))}{drawn}{rings}</svg></div>'
    )


def legend(lines: Sequence[Line]) -> str:
    """Names of lines with their colors."""
    items = dict.fromkeys((line.name, line.color) for line in lines)
    return (
        '<p class="legend">'
        + "".join(f'<span><i class="c{color % 8}"></i><bdi>{escaped(name)}</bdi></span>' for name, color in items)
        + "</p>"
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers inside a range."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    step = 10.0 ** math.floor(math.log10(span / most))
    step *= next(factor for factor in (1, 2, 5, 10, 20) if span / (factor * step) <= most)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten inside a range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = [1, 2, 5] if high < 100 * low else [1]
    return [value for power in powers for value in (factor * 10.0**power for factor in every) if low <= value <= high]


def _axes(x: Axis, y: Axis) -> Iterator[str]:
    for value in ticks(x.low, x.high):
        place = _across(x, value)
        low = HEIGHT - _BOTTOM + 17
        yield f'<text class="tick" x="{place:.1f}" y="{low}" text-anchor="middle">{_text(x, value)}</text>'
    for value in log_ticks(y.low, y.high) if y.log else ticks(y.low, y.high, 5):
        place = _down(y, value)
        yield f'<path class="grid" d="M{_LEFT} {place:.1f}H{WIDTH - _RIGHT}"/>'
        yield f'<text class="tick" x="{_LEFT - 7}" y="{place + 4:.1f}" text-anchor="end">{_text(y, value)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {HEIGHT - _BOTTOM}H{WIDTH - _RIGHT}"/>'
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    yield f'<text class="name" x="{middle}" y="{HEIGHT - 7}" text-anchor="middle">{escaped(x.title)}</text>'


def _text(axis: Axis, value: float) -> str:
    if axis.percent:
        return f"{100 * value:.0f}%" if axis.high - axis.low > 0.04 else f"{100 * value:.1f}%"
    text = f"{value:g}"
    return text if len(text) <= _WIDEST_LABEL else f"{value:.0e}"


def _across(axis: Axis, value: float) -> float:
    return _LEFT + (WIDTH - _LEFT - _RIGHT) * axis.place(value)


def _down(axis: Axis, value: float) -> float:
    return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * axis.place(value)


def _path(line: Line, x: Axis, y: Axis) -> str:
    steps, drawing = [], False
    for a, b in line.points:
        if b is None or not math.isfinite(b) or (y.log and b <= 0):
            drawing = False
            continue
        steps.append(f"{'L' if drawing else 'M'}{_across(x, a):.1f} {_down(y, b):.1f}")
        drawing = True
    style = f"line c{line.color % 8} {line.kind}".strip()
    path = f'<path class="{style}" d="{"".join(steps)}"/>'
    if len(steps) == 1 or (len(steps) <= 30 and line.kind == "dots"):
        path += "".join(
            f'<circle class="dot c{line.color % 8}" cx="{place[0]}" cy="{place[1]}" r="3.4"/>'
            for place in (step[1:].split(" ") for step in steps)
        )
    return path


def interval_track(value: float | None, interval: Sequence[float] | None, color: int = 0) -> str:
    """A value in 0..1 as a dot on a track, with its interval as a bar."""
    bar = dot = ""
    if interval is not None:
        low, high = (100 * min(max(end, 0), 1) for end in interval)
        wide = max(high - low, 0.4)
        bar = f'<rect class="span c{color % 8}" x="{low:.2f}%" y="3" width="{wide:.2f}%" height="8" rx="4"/>'
    if value is not None and value >= 0:
        dot = f'<circle class="dot c{color % 8}" cx="{100 * min(value, 1):.2f}%" cy="7" r="4"/>'
    return (
        '<svg class="track" aria-hidden="true"><rect class="rail" x="0" y="5.5" width="100%" height="3" rx="1.5"/>'
        f"{bar}{dot}</svg>"
    )


def reliability_plot(bins: Sequence[Mapping[str, Any]], title: str) -> str:
    """Bars of the measured precision over the score; the diagonal is a score that means what it says.

    Args:
        bins: with low, high, count, score (mean) and precision of each bin; None for those of an empty bin.
        title: of the vertical axis.
    """
    x, y = Axis("mean score of the bin", *UNIT), Axis(title, *UNIT)
    drawn = "".join(_axes(x, y))
    for each in bins:
        if not each["count"] or each["precision"] is None or each["score"] is None:
            continue
        left, right = _across(x, each["low"]) + 1.5, _across(x, each["high"]) - 1.5
        top, expected = _down(y, each["precision"]), _down(y, each["score"])
        text = (
            f"score {each['low']:g} to {each['high']:g}: {each['count']} predictions, mean score "
            f"{percent(each['score'])}%, {percent(each['precision'])}% correct"
        )
        wide, style = max(right - left, 1), "over" if expected < top else "under"
        drawn += (
            f'<g><title>{text}</title><rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" '
            f'height="{HEIGHT - _BOTTOM - top:.1f}"/><rect class="{style}" x="{left:.1f}" y="{min(top, expected):.1f}" '
            f'width="{wide:.1f}" height="{abs(top - expected):.1f}"/></g>'
        )
    diagonal = f'<path class="line dashed ideal" d="M{_across(x, 0)} {_down(y, 0)}L{_across(x, 1)} {_down(y, 1)}"/>'
    label = escaped(f"{title} over score")
    return (
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn}{diagonal}</svg>'
        "</div>"
    )


def count_strip(bins: Sequence[Mapping[str, Any]]) -> str:
    """How many predictions each bin holds, as bars under a reliability plot; the scale is logarithmic."""
    most = max((math.log1p(each["count"]) for each in bins), default=0)
    inner = WIDTH - _LEFT - _RIGHT
    drawn = ""
    for each in bins:
        tall = 40 * math.log1p(each["count"]) / most if most else 0
        left, wide = _LEFT + inner * each["low"], inner * (each["high"] - each["low"])
        drawn += (
            f'<rect class="bar" x="{left + 1.5:.1f}" y="{58 - tall:.1f}" width="{max(wide - 3, 1):.1f}" '
            f'height="{tall:.1f}"><title>{each["count"]} predictions</title></rect>'
        )
        if wide > 34:
            drawn += (
                f'<text class="tick" x="{left + wide / 2:.1f}" y="{53 - tall:.1f}" text-anchor="middle">'
                f"{_short(each['count'])}</text>"
            )
    return (
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} 62" role="img" aria-label="predictions per bin">'
        f'{drawn}<path class="axis" d="M{_LEFT} 58H{WIDTH - _RIGHT}"/></svg></div>'
    )


def _short(count: int) -> str:
    """A count in few letters: 950, 1.2k, 34k, 5M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{letter}" if count < 10 * size else f"{count / size:.0f}{letter}"
    return str(count)
