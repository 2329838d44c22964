"""The check of a data set as one HTML page, which opens from the disk and loads nothing: charts and images are inside.

It shows the plain values that `effdet check --json` writes; the same as text is in `check_text.py`.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.files import write_text
from effdet.report.check_style import STYLE
from effdet.report.check_text import first_line, place_text, used_bins, verdict
from effdet.report.html_page import document, escaped
from effdet.report.pictures import encode_image
from effdet.text import count_of

_MOST_CLASSES = 25  # with a bar of their own before the rest is folded
_MOST_PLACES = 300  # listed on the page; all are in the JSON
_MOST_TEXTS = 6  # boxes of an image with their names written beside them
_BEYOND = 1.0  # of the image's sides, that is shown around it for boxes that extend beyond


class Picture(NamedTuple):
    """An image of a finding.

    Attributes:
        pixels: uint8 RGB [H, W, 3], possibly smaller than the image; None if it cannot be read.
        size: (H, W) of the image, to which the boxes refer.
        boxes: N boxes, xyxy in pixels of the image.
        names: N class names.
        marked: N; whether the finding is about the box.
        caption: what the image is.
    """

    pixels: NDArray[np.uint8] | None
    size: tuple[int, int]
    boxes: Sequence[Sequence[float]]
    names: Sequence[str]
    marked: Sequence[bool]
    caption: str


def write_check_page(path: Path, report: Mapping[str, Any], pictures: Callable[[int], list[list[Picture]]]) -> None:
    """Writes the page, in one step.

    Args:
        path: the file.
        report: as `DataCheck.to_dict` gives it.
        pictures: the images of the finding of a number, in groups that belong together.
    """
    title = f"{Path(report['data']).absolute().name}: check"
    write_text(path, document(title, STYLE, _body(report, pictures)))


def _body(report: Mapping[str, Any], pictures: Callable[[int], list[list[Picture]]]) -> Iterator[str]:
    name = escaped(Path(report["data"]).absolute().name)
    state = "problem" if report["problems"] else "clean"
    yield f"<header><h1>{name}</h1>"
    yield f'<p class="verdict {state}">{escaped(verdict(report))}</p>'
    yield f"<p>{escaped(first_line(report))}<br>{escaped(report['data'])}</p></header>"
    numbered = list(enumerate(report["findings"]))
    for severity, heading in (("problem", "Problems"), ("note", "Notes")):
        chosen = [(number, finding) for number, finding in numbered if finding["severity"] == severity]
        if chosen:
            yield f"<h2>{heading}</h2>"
        for number, finding in chosen:
            yield from _finding(finding, pictures(number))
    if report["splits"]:
        yield "<h2>Contents</h2>"
        yield from _contents(report)


def _contents(report: Mapping[str, Any]) -> Iterator[str]:
    """Table of the splits, classes and sizes."""
    columns = [key for key in report["splits"][0] if key not in ("name", "part")]
    head = "".join(f"<th>{escaped(column.replace('_', ' '))}</th>" for column in columns)
    yield f'<section class="card wide"><h3>Splits</h3><div class="scroll"><table><tr><th>split</th>{head}</tr>'
    for split in report["splits"]:
        cells = "".join(f"<td>{split[column]}</td>" for column in columns)
        yield f"<tr><th>{escaped(split['name'])}</th>{cells}</tr>"
    yield '</table></div></section><div class="charts">'
    things = "Objects" if report["task"] == "detection" else "Images"
    classes = report["classes"]
    splits = list(classes["counts"])
    rows = list(zip(classes["names"], zip(*classes["counts"].values(), strict=True), strict=True))
    yield f'<section class="card"><h3>{things} by class</h3>{_legend(splits)}'
    most = max((sum(counts) for _, counts in rows), default=0)
    yield from _bars(rows[:_MOST_CLASSES], most)
    if len(rows) > _MOST_CLASSES:
        rest = count_of(len(rows) - _MOST_CLASSES, "rarer class", "rarer classes")
        yield f"<details><summary>{rest}</summary>"
        yield from _bars(rows[_MOST_CLASSES:], most)
        yield "</details>"
    yield '</section><section class="card">'
    for histogram in report["box_sizes"]:
        yield f"<h3>Objects by size</h3><p class='dim'>Square root of the area in {escaped(histogram['title'])}</p>"
        bins = [(each["name"], (each["count"],)) for each in used_bins(histogram)]
        yield from _bars(bins, max((counts[0] for _, counts in bins), default=0))
    yield "</section></div>"


def _legend(splits: Sequence[str]) -> str:
    if len(splits) < 2:
        return ""
    items = (f'<span><i class="s{number % 4}"></i>{escaped(name)}</span>' for number, name in enumerate(splits))
    return f'<p class="legend">{"".join(items)}</p>'


def _bars(rows: Sequence[tuple[str, Sequence[int]]], most: int) -> Iterator[str]:
    """A line for each row: its name, a bar of a color for each split, its count."""
    yield '<div class="bars">'
    for name, counts in rows:
        rectangles, left = "", 0.0
        for number, count in enumerate(counts):
            width = 100 * count / most if most else 0
            rectangles += f'<rect class="s{number % 4}" x="{left:.3f}" width="{width:.3f}" height="10"/>'
            left += width
        shown = escaped(name)
        yield (
            f'<span title="{shown}">{shown}</span>'
            f'<svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">{rectangles}</svg>'
            f"<b>{sum(counts)}</b>"
        )
    yield "</div>"


def _finding(finding: Mapping[str, Any], groups: Sequence[Sequence[Picture]]) -> Iterator[str]:
    split = f'<span class="split">{escaped(finding["split"])}</span>' if finding["split"] else ""
    count = "" if finding["kind"] == "unreadable-annotations" else f" <b>{finding['count']}</b>"
    yield f'<section class="card finding {finding["severity"]}"><h3>{escaped(finding["cause"])}{count}{split}</h3>'
    if finding["advice"]:
        yield f"<p class='dim'>{escaped(finding['advice'])}</p>"
    if groups:
        yield '<div class="pictures">'
        for group in groups:
            yield f'<div class="group n{len(group)}">{"".join(map(figure, group))}</div>'
        yield "</div>"
    places = finding["places"]
    if places:
        items = "".join(f"<li>{escaped(place_text(place))}</li>" for place in places[:_MOST_PLACES])
        rest = f"<p>and {len(places) - _MOST_PLACES} more, see --json</p>" if len(places) > _MOST_PLACES else ""
        opened = " open" if not groups and len(places) <= 20 else ""
        thing = "class" if "class" in places[0] else "box" if "box" in places[0] else "image"
        summary = count_of(len(places), thing, {"image": "images"}.get(thing, f"{thing}es"))
        yield f"<details{opened}><summary>{summary}</summary><ul>{items}</ul>{rest}</details>"
    yield "</section>"


def figure(picture: Picture) -> str:
    """An image with its boxes and its caption as HTML; `STYLE` of `check_style.py` has its colors."""
    caption = escaped(picture.caption)
    if picture.pixels is None:
        return f'<figure><div class="nothing">no picture</div><figcaption>{caption}</figcaption></figure>'
    height, width = picture.size
    left, top, right, bottom = _shown_area(picture)
    data = base64.b64encode(encode_image("picture", ".jpg", picture.pixels)).decode()
    drawn = "".join(_boxes(picture, max(right - left, bottom - top) / 100))
    across, down = f"{right - left:.1f}", f"{bottom - top:.1f}"
    area = f'viewBox="{left:.1f} {top:.1f} {across} {down}"'
    clip = f'<svg x="{left:.1f}" y="{top:.1f}" width="{across}" height="{down}" {area}>'  # boxes may reach beyond it
    return (
        f'<figure><svg {area} role="img" aria-label="{caption}">{clip}<image width="{width}" height="{height}" '
        f'preserveAspectRatio="none" href="data:image/jpeg;base64,{data}"/>{drawn}</svg></svg>'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _shown_area(picture: Picture) -> tuple[float, float, float, float]:
    """The image, and some of its surroundings if a marked box is there: left, top, right, bottom."""
    height, width = picture.size
    area = [0.0, 0.0, float(width), float(height)]
    for box, marked in zip(picture.boxes, picture.marked, strict=True):
        if marked and all(map(math.isfinite, box)):
            for side, number in zip(box, (0, 1, 2, 3), strict=True):
                length = (width, height)[number % 2]
                limited = min(max(side, -_BEYOND * length), (1 + _BEYOND) * length)
                low, high = number % 2, number % 2 + 2
                area[low], area[high] = min(area[low], limited), max(area[high], limited)
    return area[0], area[1], area[2], area[3]


def _boxes(picture: Picture, unit: float) -> Iterator[str]:
    """Rectangles, the marked ones last and with their names; a ring around what is too small to be seen.

    Args:
        picture: the image.
        unit: a hundredth of the longer side of what is shown, in pixels of the image.
    """
    height, width = picture.size
    with_text = sum(picture.marked) <= _MOST_TEXTS
    order = sorted(range(len(picture.boxes)), key=lambda number: picture.marked[number])
    for number in order:
        box = picture.boxes[number]
        if not all(map(math.isfinite, box)):
            continue
        x1, y1, x2, y2 = (min(max(side, -10.0 * max(height, width)), 10.0 * max(height, width)) for side in box)
        left, top, across, down = min(x1, x2), min(y1, y2), abs(x2 - x1), abs(y2 - y1)
        kind, name = ("m" if picture.marked[number] else "o"), escaped(picture.names[number])
        yield (
            f'<rect class="{kind}" x="{left:.1f}" y="{top:.1f}" width="{max(across, unit / 10):.1f}" '
            f'height="{max(down, unit / 10):.1f}"><title>{name}</title></rect>'
        )
        if not picture.marked[number]:
            continue
        if max(across, down) < 3 * unit:
            x, y = left + across / 2, top + down / 2
            yield f'<circle class="m" cx="{x:.1f}" cy="{y:.1f}" r="{3 * unit:.1f}"/>'
        if with_text:
            x, end = (left, "") if left < width / 2 else (min(left + across, width), ' text-anchor="end"')
            y = min(max(top - unit, 5 * unit), height - unit)
            yield f'<text x="{max(x, 0):.1f}" y="{y:.1f}" font-size="{5 * unit:.1f}"{end}>{name}</text>'
