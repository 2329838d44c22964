"""Write a data set in another format, with its images.

  effdet convert /data/cells /data/cells-yolo --to yolo

The format of the data set is recognized. All its splits are written, test splits too. Images are copied as they are.
Prints what was repaired and what the new format cannot hold. data.classes=[...] selects and orders classes,
data.rename={auto: car} renames them. The new folder is there in the end or not at all; nothing is overwritten.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.data_sets import FORMATS, read_with_notes, refuse_inside, write_with_notes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `convert` to a parser."""
    parser.add_argument("data", type=Path, metavar="IN", help="folder of a data set, or its annotation file")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder to write to")
    parser.add_argument(
        "changes", nargs="*", metavar="data.key=value", help="such as data.classes=[cat,dog] or data.rename={auto: car}"
    )
    parser.add_argument("--to", choices=FORMATS, required=True, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--link", action="store_true", help="hard links to the images instead of copies")


def run(args: argparse.Namespace) -> int:
    """Writes the data set; the exit status is 0.

    Raises:
        EffdetError: the data set cannot be read, or the folder cannot be written.
    """
    refuse_inside(args.out, args.data)

    from effdet.data.convert import check_empty

    check_empty(args.out)
    data_set = read_with_notes(args.data, args.changes)
    write_with_notes(args.out, args.to, data_set.format, data_set.tables, data_set.names, args.link)
    return 0
