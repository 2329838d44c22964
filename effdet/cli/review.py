"""Find wrong labels with a model: missed objects, boxes without an object, and boxes with the wrong class.

  effdet review runs/mine --folds 5
  effdet review runs/mine --split val
  effdet review runs/mine --split val --predictions other.json
  effdet review lite0 --folds 5 data.root=/data/mine

A model hides errors in labels that it was trained on. --folds N divides the training images into N folds and trains a
model for each of them on the others, by the recipe of the run; each image is then predicted by the model that has not
seen it. Trained folds are used again, and stopped ones are continued. Validation images are predicted by best.pt.

Writes review.html, review.json, review.csv and a corrected copy of the annotations of each split, proposals-SPLIT.json
(COCO), to RUN/review, for a recipe to runs/NAME/review. With output_dir=FOLDER these files and the models of the folds
go to FOLDER/review. The data set itself is never changed.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.cli.parsing import integer
from effdet.files import full_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from effdet.console import PlainConsole
    from effdet.diagnosis.review.rows import Row
    from effdet.diagnosis.review.run import Review


_WIDTH = 160  # columns of the table, where the terminal has fewer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `review` to a parser."""
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="folder of a run, a checkpoint, or a recipe such as lite0"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="changes to its recipe, such as data.root=/data/coco"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "all"), default="train", help="images to review (%(default)s)"
    )
    parser.add_argument(
        "--folds",
        type=integer(1000),
        metavar="N",
        help="train N models for the training split, each without a fold of it",
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE", help="COCO results of another model on the images of --split"
    )
    parser.add_argument(
        "--rows", type=integer(10**9), default=20, metavar="N", help="rows in the terminal (%(default)s)"
    )
    parser.add_argument(
        "--images", type=integer(10**9), default=500, metavar="N", help="most rows on the page (%(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the results (RUN/review)")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    """Reviews the labels; the exit status is 0.

    Raises:
        EffdetError: run, data, predictions or an argument cannot be used.
    """
    from effdet.console import PlainConsole
    from effdet.diagnosis.review.run import review_run
    from effdet.errors import ConfigError
    from effdet.report.review_page import headline

    for name in ("rows", "images"):
        if getattr(args, name) < 0:
            raise ConfigError(f"--{name} {getattr(args, name)}: expected 0 or more")
    console = PlainConsole()
    review = review_run(
        full_path(args.run),
        args.split,
        args.overrides,
        console,
        folds=args.folds,
        predictions=args.predictions,
        device=args.device,
    )
    folder = args.out or review.folder
    report = _write(folder, review, args.images)
    for note in review.facts["notes"]:
        console.print(note, style="yellow")
    if args.rows and review.rows:
        _print(console, review.rows[: args.rows])
    more = len(review.rows) - args.rows
    console.print(f"{headline(report['worth_a_look'])}{f'; {more} more rows in the files' if more > 0 else ''}")
    console.print(f"look through {folder / 'review.html'}; all files are in {folder}")
    return 0


def _write(folder: Path, review: Review, most: int) -> dict[str, Any]:
    """Writes all files, and gives the content of review.json.

    Raises:
        ConfigError: the folder cannot be written, or another process writes to it.
    """
    from effdet.diagnosis.review.files import report_of, write_rows
    from effdet.diagnosis.review.pictures import row_pictures
    from effdet.diagnosis.review.proposals import write_proposals
    from effdet.diagnosis.review.rows import WORTH_A_LOOK
    from effdet.errors import ConfigError
    from effdet.folders import owned_folder
    from effdet.report.review_page import write_review_page

    report = report_of(review.rows, review.facts)
    try:
        with owned_folder(folder):
            write_rows(folder, report)
            for split, table in review.tables.items():
                changes = [row for row in review.rows if row.split == split and row.probability >= WORTH_A_LOOK]
                write_proposals(folder / f"proposals-{split}.json", table, changes)
            write_review_page(folder / "review.html", report, row_pictures(review.rows[:most], review.tables))
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror}); choose another --out") from None
    return report


def _print(console: PlainConsole, rows: Sequence[Row]) -> None:
    """Prints rows as a table, which is not folded where the terminal is narrow."""
    from rich.table import Table
    from rich.text import Text

    from effdet.console import PlainConsole

    table = Table(box=None, pad_edge=False)
    for name in ("rank", "probability", "kind", "class", "confidence", "box", "file"):
        table.add_column(name, justify="right" if name in ("rank", "probability", "confidence") else "left")
    for rank, row in enumerate(rows, start=1):
        change = {"missed": f"+ {row.proposed}", "misnamed": f"{row.given} \u2192 {row.proposed}"}
        cells = (
            *(str(rank), f"{row.probability:.0%}", row.kind, change.get(row.kind, f"- {row.given}")),
            *(f"{row.confidence:.2f}", " ".join(f"{side:.0f}" for side in row.box), row.file_name),
        )
        table.add_row(*map(Text, cells))
    PlainConsole(width=max(console.width, _WIDTH), soft_wrap=False).print(table)
