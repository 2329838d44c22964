"""A table of a page that sorts by every column and can be searched; `run_script.py` does both in the browser.

What its rows hold is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from effdet.report.html_page import ellipsized, escaped, isolated, score_text
from effdet.text import percent

MOST_ROWS = 3000  # on a page; analysis.json has all
_SEARCH_FROM = 12  # rows
_LONGEST_NAME = 60  # letters


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: its head.
        about: an explanation, shown at the pointer.
        kind: "name", "count", "percent" for fractions, "bar" for fractions with a bar, "score", or "interval".
    """

    title: str
    about: str
    kind: str


def sortable_table(columns: Sequence[Column], rows: Sequence[Sequence[object]], thing: str) -> Iterator[str]:
    """A table whose first column names the rows.

    Args:
        columns: of the table.
        rows: a value per column; None for what was not measured.
        thing: what a row is, in the plural, such as "classes".
    """
    shown = rows[:MOST_ROWS]
    if len(rows) > MOST_ROWS:
        yield f'<p class="dim">The first {MOST_ROWS} of {len(rows)} {thing}; analysis.json lists all.</p>'
    yield '<div class="sortable">'
    if len(shown) >= _SEARCH_FROM:
        yield (
            f'<p class="tools"><input type="search" class="search" placeholder="search {thing}" '
            f'aria-label="search {thing}"> <span class="dim count" aria-live="polite">{len(shown)} {thing}</span></p>'
        )
    yield '<div class="scroll tall"><table class="rows"><thead><tr>'
    for column in columns:
        kind = "text" if column.kind == "name" else "number"
        yield (
            f'<th scope="col" class="{kind}" aria-sort="none"><button type="button" title="{escaped(column.about)}">'
            f"{escaped(column.title)}</button></th>"
        )
    yield "</tr></thead><tbody>"
    for row in shown:
        cells = "".join(_cell(column, value) for column, value in zip(columns[1:], row[1:], strict=True))
        yield f"<tr>{_name(row[0])}{cells}</tr>"
    yield "</tbody></table></div></div>"


def _name(value: object) -> str:
    text = str(value)
    cut = ellipsized(text, _LONGEST_NAME)
    title = f' title="{escaped(text)}"' if cut != text else ""
    return f'<th scope="row"{title}>{isolated(cut)}</th>'


def _cell(column: Column, value: object) -> str:
    if value is None:
        return f"<td{' class=text' if column.kind == 'name' else ''}>\u2013</td>"
    if column.kind == "name":
        return f'<td class="text">{isolated(ellipsized(str(value), _LONGEST_NAME))}</td>'
    if column.kind == "interval":
        assert isinstance(value, Sequence)
        return f"<td>{percent(value[0])} to {percent(value[1])}</td>"
    if column.kind == "count":
        return f"<td>{escaped(value)}</td>"
    assert isinstance(value, (int, float))
    if column.kind == "score":
        return f"<td>{score_text(value)}</td>"
    if column.kind == "points":
        return f"<td>{100 * value:+.1f}</td>"
    text = percent(value)
    if column.kind == "bar" and value >= 0:
        return f'<td class="bar" style="--f:{100 * min(value, 1):.1f}%">{text}</td>'
    return f"<td>{text}</td>"


def detection_rows(classes: Sequence[Mapping[str, object]]) -> tuple[list[Column], list[list[object]]]:
    """The table of a detector's classes."""
    columns = [
        Column("class", "name in the data set", "name"),
        Column("images", "images with an object of the class", "count"),
        Column("objects", "objects of the class", "count"),
        Column("AP", "average precision, IoU 0.50 to 0.95, in percent", "bar"),
        Column("95% interval", "of AP, in percent; only with enough images", "interval"),
        Column("AP50", "average precision at IoU 0.50", "percent"),
        Column("AP75", "average precision at IoU 0.75", "percent"),
        Column("APs", "AP of small objects, area below 32\u00b2 pixels", "percent"),
        Column("APm", "AP of medium objects, 32\u00b2 to 96\u00b2", "percent"),
        Column("APl", "AP of large objects, above 96\u00b2", "percent"),
        Column("AR100", "average recall with 100 detections per image", "percent"),
        Column("threshold", "confidence threshold with the best F1 of the class", "score"),
        Column("F1", "at that threshold, IoU 0.50", "percent"),
        Column("precision", "at that threshold", "percent"),
        Column("recall", "at that threshold", "percent"),
    ]
    keys = ["name", "images", "objects", "AP", "interval", *(column.title for column in columns[5:])]
    return columns, [[each.get(key) for key in keys] for each in classes]


def classification_rows(classes: Sequence[Mapping[str, object]]) -> tuple[list[Column], list[list[object]]]:
    """The table of a classifier's classes."""
    columns = [
        Column("class", "name in the data set", "name"),
        Column("images", "images of the class", "count"),
        Column("accuracy", "images of the class that are classified correctly (recall), in percent", "bar"),
        Column("95% interval", "of the accuracy, in percent", "interval"),
        Column("precision", "images predicted as the class that are of it", "percent"),
        Column("F1", "harmonic mean of precision and recall", "percent"),
        Column("confused with", "class most often predicted instead", "name"),
    ]
    keys = ["name", "images", "accuracy", "interval", "precision", "F1", "confused_with"]
    return columns, [[each.get(key) for key in keys] for each in classes]
