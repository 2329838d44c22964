"""A review of labels as one HTML page to look through: an image of every row, with the box in question and the reason.

It shows the plain values of review.json; the images are cut out in `effdet/diagnosis/review/pictures.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet.files import write_text
from effdet.report.check_page import Picture, figure
from effdet.report.check_style import STYLE
from effdet.report.html_page import document, escaped
from effdet.text import count_of

MEANINGS = {
    "missed": "an object without a box",
    "misnamed": "a box with the wrong class",
    "spurious": "a box without an object",
}
_STYLE = (
    STYLE
    + """
.kinds { margin-top: 10px; } .kinds input { position: absolute; opacity: 0; pointer-events: none; }
.kinds > label { display: inline-block; margin: 0 6px 8px 0; padding: 4px 14px; border: 1px solid var(--line);
  border-radius: 99px; background: var(--card); cursor: pointer; }
.kinds input:checked + label { border-color: var(--s0); box-shadow: inset 0 0 0 1px var(--s0); font-weight: 600; }
.kinds input:focus-visible + label { outline: 2px solid var(--s0); outline-offset: 2px; }
#show-missed:checked ~ .rows > :not(.missed), #show-misnamed:checked ~ .rows > :not(.misnamed),
#show-spurious:checked ~ .rows > :not(.spurious) { display: none; }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 14px;
  margin-top: 6px; }
.rows .card { margin: 0; padding: 10px 12px; font-size: 14px; } .rows figure svg { max-height: 300px; }
.rows h3 { display: flex; justify-content: space-between; gap: 8px; margin-bottom: 8px; font-size: 14px; }
.rows h3 span { color: var(--dim); font-weight: 400; } .rows p { margin: 4px 0 0; overflow-wrap: anywhere; }
td:last-child, th:last-child { text-align: left; color: var(--dim); }
@media (max-width: 600px) { .rows { gap: 10px; } .kinds > label { padding: 4px 10px; } }
"""
)


def write_review_page(path: Path, report: Mapping[str, Any], pictures: Iterable[Picture]) -> None:
    """Writes the page, in one step.

    Args:
        path: the file.
        report: as review.json has it.
        pictures: of the first rows; the others are counted only.
    """
    name = Path(report["data"]).name or str(report["data"])
    write_text(path, document(f"{name}: label review", _STYLE, _body(name, report, pictures)))


def headline(worth: Mapping[str, Any]) -> str:
    """How many rows are worth a look, in a sentence; `worth` is as in review.json."""
    if not worth["rows"]:
        return "no label is more likely wrong than right"
    rows = f"{count_of(worth['rows'], 'row')} in {count_of(worth['images'], 'image')}"
    return f"{rows} worth a look: about {worth['expected_errors']:.0f} are label errors"


def _body(name: str, report: Mapping[str, Any], pictures: Iterable[Picture]) -> Iterator[str]:
    worth, rows = report["worth_a_look"], report["rows"]
    state = "problem" if worth["rows"] else "clean"
    yield f"<header><h1>{escaped(name)}: label review</h1>"
    yield f'<p class="verdict {state}">{escaped(headline(worth))}</p>'
    counts = [
        f"{split}: {count_of(count['images'], 'image')}, {count_of(count['objects'], 'object')}"
        for split, count in report["splits"].items()
    ]
    yield f"<p>{escaped('; '.join(counts))}<br>{escaped(report['data'])}</p>"
    yield "".join(f"<p>{escaped(note)}</p>" for note in report["notes"])
    yield '</header><section class="card wide"><div class="scroll"><table>'
    yield "<tr><th>kind</th><th>rows</th><th>expected errors</th><th>meaning</th></tr>"
    for kind, count in worth["kinds"].items():
        yield f"<tr><th>{kind}</th><td>{count['rows']}</td><td>{count['expected_errors']:.0f}</td>"
        yield f"<td>{MEANINGS[kind]}</td></tr>"
    yield "</table></div></section>"
    yield from _rows(rows, list(pictures))


def _rows(rows: Iterable[Mapping[str, Any]], pictures: list[Picture]) -> Iterator[str]:
    listed = list(rows)
    yield "<h2>Rows, the most probable errors first</h2>"
    yield '<p class="dim">Red: the box in question. Blue: the other boxes of the image.</p><div class="kinds">'
    shown = listed[: len(pictures)]
    for kind in ("all", *MEANINGS):
        count = sum(kind in ("all", row["kind"]) for row in shown)
        checked = " checked" if kind == "all" else ""
        yield f'<input type="radio" name="kind" id="show-{kind}"{checked}>'
        yield f'<label for="show-{kind}">{kind} {count}</label>'
    yield '<div class="rows">'
    for row, picture in zip(shown, pictures, strict=True):
        yield (
            f'<section class="card {row["kind"]}"><h3>{row["rank"]} {row["kind"]}'
            f"<span>{row['probability']:.0%}</span></h3>{figure(picture)}<p>{escaped(row['reason'])}</p></section>"
        )
    yield "</div></div>"
    if len(listed) > len(shown):
        yield f'<p class="dim">{count_of(len(listed) - len(shown), "more row")} in review.csv</p>'
