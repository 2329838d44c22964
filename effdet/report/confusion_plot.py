"""The confusion matrix of a page: counts in cells for few classes, a heat map for many, and the commonest confusions.

The picture of the matrix beside a classifier's results is drawn in `confusion.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from effdet.report.html_page import ellipsized, escaped, heading, isolated

MOST_WITH_COUNTS = 24  # classes; with more, cells have no numbers
_MOST_CLASSES = 120  # with a row of their own; of more, those with most confusions
_MOST_CONFUSIONS = 20  # in the list
_LONGEST_NAME = 18  # letters

Entries = Sequence[Sequence[int]]


def confusion_card(entries: Entries, names: Sequence[str], background: bool, note: str) -> Iterator[str]:
    """The matrix and the list.

    Args:
        entries: true class, predicted class, count; K stands for background.
        names: K class names.
        background: whether there is a row and a column for background.
        note: which predictions are counted.
    """
    kept = _kept_classes(entries, len(names))
    yield f'<section class="card">{heading("Confusion matrix", escaped(note))}'
    if len(kept) < len(names):
        yield f'<p class="dim">The {len(kept)} classes with most confusions of {len(names)}.</p>'
    yield '<div class="confusion"><div class="scroll">'
    if not entries:
        yield '<p class="nothing">nothing to count</p>'
    elif len(kept) <= MOST_WITH_COUNTS:
        yield _matrix(entries, names, kept, background)
    else:
        yield _heat_map(entries, names, kept, background)
    yield "</div>"
    yield from _commonest(entries, names)
    yield "</div></section>"


def _kept_classes(entries: Entries, classes: int) -> list[int]:
    """All classes, or those with the most confusions in their own order."""
    if classes <= _MOST_CLASSES:
        return list(range(classes))
    wrong = [0] * (classes + 1)
    for true, predicted, count in entries:
        if true != predicted:
            wrong[true] += count
            wrong[predicted] += count
    return sorted(sorted(range(classes), key=lambda label: -wrong[label])[: _MOST_CLASSES // 2])


def _cells(entries: Entries, kept: Sequence[int], background: int) -> Iterator[tuple[int, int, int, int, int, float]]:
    """True label, predicted label, row, column, count and the fraction of the row, of the entries that are shown."""
    place = {label: number for number, label in enumerate([*kept, background])}
    totals: dict[int, int] = {}
    for true, _, count in entries:
        totals[true] = totals.get(true, 0) + count
    for true, predicted, count in entries:
        if true in place and predicted in place and count:
            yield true, predicted, place[true], place[predicted], count, count / totals[true]


def _name(label: int, names: Sequence[str], of_truth: bool) -> str:
    if label < len(names):
        return names[label]
    return "background" if of_truth else "missed"


def _title(true: int, predicted: int, count: int, fraction: float, names: Sequence[str]) -> str:
    return (
        f"<title>true {escaped(_name(true, names, True))}, predicted {escaped(_name(predicted, names, False))}: "
        f"{count} ({100 * fraction:.1f}% of the row)</title>"
    )


def _shade(true: int, predicted: int, fraction: float) -> str:
    style = "right" if true == predicted else "wrong"
    return f'class="{style}" fill-opacity="{0.12 + 0.88 * math.sqrt(fraction):.2f}"'


def _matrix(entries: Entries, names: Sequence[str], kept: Sequence[int], background: bool) -> str:
    size = len(kept) + background
    cell = 72 if size <= 5 else 60 if size <= 7 else 46 if size <= 12 else 36
    longest = max((min(len(_name(label, names, True)), _LONGEST_NAME) for label in kept), default=4)
    left = min(150, 24 + 7.4 * max(longest, 10 if background else 4))
    top = 26.0 if 7.2 * max(longest, 6) < cell else left * 0.88
    side = size * cell
    last = [len(names)] if background else []
    drawn = []
    for number, label in enumerate([*kept, *last]):
        middle = (number + 0.5) * cell
        row, column = (ellipsized(_name(label, names, truth), _LONGEST_NAME) for truth in (True, False))
        dim = ' class="other"' if label == len(names) else ""
        drawn.append(f'<text{dim} x="{left - 8}" y="{top + middle + 5:.0f}" text-anchor="end">{escaped(row)}</text>')
        if top == 26.0:
            drawn.append(f'<text{dim} x="{left + middle:.0f}" y="18" text-anchor="middle">{escaped(column)}</text>')
        else:
            turned = f'transform="translate({left + middle + 4:.0f} {top - 8:.0f}) rotate(-50)"'
            drawn.append(f"<text{dim} {turned}>{escaped(column)}</text>")
    drawn.append(f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}" rx="4"/>')
    for true, predicted, row_at, column_at, count, fraction in _cells(entries, kept, len(names)):
        x, y = left + column_at * cell, top + row_at * cell
        style = " light" * (fraction > 0.3) + " long" * (count > 999)
        drawn.append(
            f"<g>{_title(true, predicted, count, fraction, names)}<rect {_shade(true, predicted, fraction)} "
            f'x="{x + 1:.1f}" y="{y + 1:.1f}" width="{cell - 2}" height="{cell - 2}" rx="3"/>'
            f'<text class="number{style}" x="{x + cell / 2:.1f}" y="{y + cell / 2 + 5:.1f}" '
            f'text-anchor="middle">{count}</text></g>'
        )
    width, height = left + side + (60 if top != 26.0 else 4), top + side + 26
    drawn.append(
        f'<text class="name" x="{left + side / 2:.0f}" y="{height - 5:.0f}" text-anchor="middle">predicted</text>'
    )
    return _svg(drawn, width, height, "matrix fit" if size <= 8 else "matrix")


def _heat_map(entries: Entries, names: Sequence[str], kept: Sequence[int], background: bool) -> str:
    size = len(kept) + background
    cell = 16 if size <= 40 else 8 if size <= 90 else 6
    named = cell >= 16
    left = 130.0 if named else 20.0
    top, side = 6.0, size * cell
    drawn = [f'<rect class="frame" x="{left}" y="{top}" width="{side}" height="{side}"/>']
    if named:
        for number, label in enumerate([*kept, *([len(names)] if background else [])]):
            row = escaped(ellipsized(_name(label, names, True), _LONGEST_NAME))
            drawn.append(
                f'<text class="fine" x="{left - 6}" y="{top + number * cell + 12}" text-anchor="end">{row}</text>'
            )
    if background:
        edge = left + (size - 1) * cell, top + (size - 1) * cell
        drawn.append(f'<path class="axis" d="M{edge[0]} {top}V{top + side}M{left} {edge[1]}H{left + side}"/>')
    for true, predicted, row_at, column_at, count, fraction in _cells(entries, kept, len(names)):
        drawn.append(
            f'<rect {_shade(true, predicted, fraction)} x="{left + column_at * cell}" y="{top + row_at * cell}" '
            f'width="{cell}" height="{cell}">{_title(true, predicted, count, fraction, names)}</rect>'
        )
    caption = "predicted class; last column: missed, last row: background" if background else "predicted class"
    height = top + side + 22
    drawn.append(
        f'<text class="name" x="{left + side / 2:.0f}" y="{height - 5:.0f}" text-anchor="middle">{caption}</text>'
    )
    if not named:
        middle = top + side / 2
        drawn.append(
            f'<text class="name" transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">true</text>'
        )
    width = left + side + 4
    return _svg(drawn, width, height, "matrix")


def _svg(drawn: Sequence[str], width: float, height: float, style: str) -> str:
    return (
        f'<svg class="{style}" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="confusion matrix">{"".join(drawn)}</svg>'
    )


def _commonest(entries: Entries, names: Sequence[str]) -> Iterator[str]:
    """The confusions of two classes, the most frequent first."""
    both = [entry for entry in entries if entry[0] != entry[1] and max(entry[0], entry[1]) < len(names)]
    if not both:
        return
    totals: dict[int, int] = {}
    for true, _, count in entries:
        totals[true] = totals.get(true, 0) + count
    yield '<div class="scroll"><table class="pairs"><tr><th>true</th><th class="text">predicted</th><th>count</th>'
    yield "<th>of the row</th></tr>"
    for true, predicted, count in sorted(both, key=lambda entry: -entry[2])[:_MOST_CONFUSIONS]:
        pair = [isolated(ellipsized(names[label], _LONGEST_NAME)) for label in (true, predicted)]
        yield (
            f'<tr><th>{pair[0]}</th><td class="text">{pair[1]}</td><td>{count}</td>'
            f"<td>{100 * count / totals[true]:.0f}%</td></tr>"
        )
    yield "</table>"
    if len(both) > _MOST_CONFUSIONS:
        yield f'<p class="dim small">and {len(both) - _MOST_CONFUSIONS} rarer confusions</p>'
    yield "</div>"
