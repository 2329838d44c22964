"""Merge data sets into one, by the names of their classes.

  effdet merge /data/cells /data/more-cells /data/all-cells

Classes of one name become one; names that differ in case alone are refused until --rename says what they are. Splits
for training become one, so do those for validation and for test. An image that a data set shares with an earlier one is
left out if its objects are the same. Of two different images of one name, the second gets the name of its data set in
front. The result is written to a new folder, in the format of the first data set or in that of --to.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.data_sets import add_writing_arguments, read_with_notes, refuse_inside, renames, say, write_with_notes
from effdet.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `merge` to a parser."""
    parser.add_argument(
        "data", nargs="+", type=Path, metavar="IN", help="folders of data sets or annotation files, two or more"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder to write to")
    parser.add_argument(
        "--rename", action="append", default=[], metavar="OLD=NEW", help="rename a class, such as auto=car; repeatable"
    )
    add_writing_arguments(parser, "that of the first")


def run(args: argparse.Namespace) -> int:
    """Writes the merged data set; the exit status is 0.

    Raises:
        EffdetError: a data set cannot be read, their classes do not fit, or the folder cannot be written.
    """
    if len(args.data) < 2:
        raise ConfigError("one data set is given; expected two or more, and the new folder behind them")
    double = [path for path in args.data if args.data.count(path) > 1]
    if double:
        raise ConfigError(f"{double[0]} is given twice")
    new_names = renames(args.rename)
    refuse_inside(args.out, *args.data)

    from effdet.data.convert import check_empty
    from effdet.data.merge import merge
    from effdet.text import count_of

    check_empty(args.out)
    data_sets = {path: read_with_notes(path, []) for path in args.data}
    merged = merge(data_sets, new_names)
    if merged.repeated:
        say(f"{count_of(merged.repeated, 'image')} left out: an earlier data set has them with the same labels")
    if merged.conflicting:
        some = ", ".join(merged.conflicting[:3]) + (", ..." if len(merged.conflicting) > 3 else "")
        say(
            f"{count_of(len(merged.conflicting), 'image')} kept although an earlier data set has them, with other "
            f"labels or in another split: {some}",
            style="yellow",
        )
    if merged.prefixed:
        say(f"{count_of(merged.prefixed, 'image')} got the name of the data set in front of the name")
    first = data_sets[args.data[0]]
    write_with_notes(args.out, args.to, first.format, merged.tables, merged.names, args.link)
    return 0
