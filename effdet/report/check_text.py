"""The check of a data set as text for a terminal of 80 columns or more.

It shows the plain values that `effdet check --json` writes; the same as a page is in `check_page.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from effdet.text import count_of

_MOST_CLASSES = 15
_MOST_PLACES = 3
_STYLES = {"problem": "bold red", "note": "yellow"}
_FORMATS = {"coco": "COCO", "voc": "Pascal VOC", "yolo": "YOLO", "csv": "CSV", "folders": "Class folder"}


def check_text(report: Mapping[str, Any]) -> Group:
    """The report of a data set: its splits, histograms and findings; the verdict is left to `verdict_text`.

    Args:
        report: as `DataCheck.to_dict` gives it.
    """
    return Group(*_lines(report))


def first_line(report: Mapping[str, Any]) -> str:
    """The data set in a line: its format and splits."""
    splits = [split["name"] for split in report["splits"]]
    which = f"{'split' if len(splits) == 1 else 'splits'} {', '.join(splits)}" if splits else "no split can be read"
    repeating = f"; {', '.join(report['repeating_splits'])} repeats their images" if report["repeating_splits"] else ""
    return f"{_FORMATS.get(report['format'], report['format'])} data set: {which}{repeating}"


def verdict_text(report: Mapping[str, Any]) -> Text:
    """The verdict in its color."""
    return Text(verdict(report), style=f"bold {'red' if report['problems'] else 'green'}")


def verdict(report: Mapping[str, Any]) -> str:
    """Problems and notes in a line."""
    notes = count_of(report["notes"], "note")
    if not report["problems"]:
        return f"no problems, {notes}"
    return f"{count_of(report['problems'], 'problem')}, {notes}"


def _lines(report: Mapping[str, Any]) -> Iterator[RenderableType]:
    yield Text(first_line(report))
    if report["splits"]:
        yield ""
        yield _split_table(report["splits"])
        yield ""
        yield from _classes(report["classes"], "objects" if report["task"] == "detection" else "images")
    for histogram in report["box_sizes"]:
        yield ""
        yield Text(f"objects by size: square root of the area in {histogram['title']}", style="bold")
        yield _bars([(each["name"], [each["count"]]) for each in used_bins(histogram)])
    for severity in ("problem", "note"):
        findings = [finding for finding in report["findings"] if finding["severity"] == severity]
        if findings:
            yield ""
            yield Text(f"{severity}s", style="bold")
        for finding in findings:
            yield from _finding(finding)


def used_bins(histogram: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The bins of a histogram without the empty ones at its ends."""
    bins: list[Mapping[str, Any]] = histogram["bins"]
    used = [number for number, each in enumerate(bins) if each["count"]]
    return bins[used[0] : used[-1] + 1] if used else []


def _split_table(splits: Sequence[Mapping[str, Any]]) -> Table:
    columns = [key for key in splits[0] if key not in ("name", "part")]
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right")
    for split in splits:
        table.add_row(escape(split["name"]), *(str(split[column]) for column in columns))
    return table


def _classes(classes: Mapping[str, Any], things: str) -> Iterator[RenderableType]:
    yield Text(
        f"{things} by class{'' if len(classes['counts']) == 1 else ': ' + ', '.join(classes['counts'])}", style="bold"
    )
    names = classes["names"]
    rows = list(zip(names, zip(*classes["counts"].values(), strict=True), strict=True))
    yield _bars([(name, list(counts)) for name, counts in rows[:_MOST_CLASSES]])
    if len(rows) > _MOST_CLASSES:
        yield Text(f"and {count_of(len(rows) - _MOST_CLASSES, 'rarer class', 'rarer classes')}", style="dim")


def _finding(finding: Mapping[str, Any]) -> Iterator[RenderableType]:
    split = f"{finding['split']}: " if finding["split"] else ""
    line = Text(f"{split}{finding['cause']}: ", style=_STYLES[finding["severity"]])
    if finding["kind"] == "unreadable-annotations":
        line = Text(f"{split}{finding['cause']}", style=_STYLES[finding["severity"]])
    else:
        line.append(str(finding["count"]))
    yield Padding(line, (0, 0, 0, 2), expand=False)
    places = [place_text(place) for place in finding["places"][:_MOST_PLACES]]
    more = len(finding["places"]) - len(places)
    if places:
        more_text = f", and {more} more" if more else ""
        yield Padding(Text(", ".join(places) + more_text), (0, 0, 0, 4), expand=False)
    if finding["advice"]:
        yield Padding(Text(finding["advice"], style="dim"), (0, 0, 0, 4), expand=False)


def place_text(place: Mapping[str, Any]) -> str:
    """A place in the data set, such as "cat.jpg box 3: 0 x 12"."""
    box = f" box {place['box']}" if "box" in place else ""
    detail = f" ({place['detail']})" if "detail" in place else ""
    text = f"{place.get('file') or place.get('class', '')}{box}{detail}"
    if "other" not in place:
        return text
    other = place["other"]
    split = "" if other["split"] == place["split"] else f"{other['split']} "
    return f"{text} = {split}{other['file']}"


class _Bar:
    """A bar of a fraction of the width that is left."""

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("█" * (max(1, round(self.fraction * options.max_width)) if self.fraction else 0), style="cyan")


def _bars(rows: Sequence[tuple[str, Sequence[int]]]) -> Table:
    """Names, counts, and a bar of their sum."""
    table = Table(box=None, pad_edge=False, show_header=False, expand=True)
    table.add_column(max_width=28, no_wrap=True, overflow="ellipsis")
    for _ in rows[0][1] if rows else ():
        table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, no_wrap=True)
    most = max((sum(counts) for _, counts in rows), default=0)
    for name, counts in rows:
        table.add_row(escape(name), *map(str, counts), _Bar(sum(counts) / most if most else 0))
    return table
