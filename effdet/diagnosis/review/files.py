"""The files of a review: all rows as JSON and CSV.

Corrected annotations are written in `proposals.py`, the page in `effdet/report/review_page.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from effdet.diagnosis.review.rows import KINDS, WORTH_A_LOOK, Row
from effdet.files import atomic_write, write_json
from effdet.text import name_cell, path_cell

_COLUMNS = (
    *("rank", "kind", "probability", "split", "file_name", "number", "x1", "y1", "x2", "y2"),
    *("given", "proposed", "confidence", "reason"),
)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """How many rows are worth a look, how many of them are expected to be errors, and the same by kind."""
    worth = [row for row in rows if row.probability >= WORTH_A_LOOK]
    return {
        "least_probability": WORTH_A_LOOK,
        "rows": len(worth),
        "images": len({(row.split, row.image) for row in worth}),
        "expected_errors": round(sum(row.probability for row in worth), 1),
        "kinds": {
            kind: {
                "rows": sum(row.kind == kind for row in worth),
                "expected_errors": round(sum(row.probability for row in worth if row.kind == kind), 1),
            }
            for kind in KINDS
        },
    }


def report_of(rows: Sequence[Row], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of review.json: the facts, how many rows are worth a look, and the rows with their ranks."""
    listed = [{"rank": rank, **asdict(row)} for rank, row in enumerate(rows, start=1)]
    return {**facts, "worth_a_look": summary(rows), "rows": listed}


def write_rows(folder: Path, report: Mapping[str, Any]) -> None:
    """Writes review.json and review.csv.

    Args:
        folder: where to write.
        report: as `report_of` gives it.
    """
    write_json(folder / "review.json", report)
    with (
        atomic_write(folder / "review.csv") as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        table = csv.DictWriter(file, _COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for row in report["rows"]:
            names = {"file_name": path_cell(row["file_name"])}
            names |= {key: name_cell(row[key]) for key in ("given", "proposed") if row[key]}
            table.writerow({**row, **names, **dict(zip(("x1", "y1", "x2", "y2"), row["box"], strict=True))})
