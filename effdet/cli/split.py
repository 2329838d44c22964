r"""Split a data set anew into images to train on, to validate on and to test with.

  effdet split /data/cells /data/cells-split --val 0.2 --test 0.1

All splits of the data set are joined first. Each class has about the same fraction of its objects in each split. Images
of identical content stay together, and with --group-by those of one group: --group-by folder, or a regular expression
on the file name such as 'patient_(\d+)'. The same data set and --seed give the same splits, whatever the order of the
images. The data set is written to a new folder, in its own format or in that of --to.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.data_sets import add_writing_arguments, read_with_notes, refuse_inside, say, write_with_notes
from effdet.cli.parsing import integer
from effdet.errors import ConfigError

if TYPE_CHECKING:
    from effdet.data.split_data import Resplit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `split` to a parser."""
    parser.add_argument("data", type=Path, metavar="IN", help="folder of a data set, or its annotation file")
    parser.add_argument("out", type=Path, metavar="OUT", help="new folder to write to")
    parser.add_argument(
        "changes", nargs="*", metavar="data.key=value", help="such as data.classes=[cat,dog] or data.rename={auto: car}"
    )
    parser.add_argument("--val", type=float, required=True, metavar="FRACTION", help="of the images, to validate on")
    parser.add_argument(
        "--test", type=float, default=0.0, metavar="FRACTION", help="of the images, to test with (none)"
    )
    parser.add_argument(
        "--seed", type=integer(2**63 - 1), default=0, help="another seed gives other splits (%(default)s)"
    )
    parser.add_argument("--group-by", metavar="folder|REGEX", help="keep images of one group in one split")
    parser.add_argument(
        "--split", metavar="NAME", help="split this split of the data set alone, leaving out the others"
    )
    add_writing_arguments(parser, "that of IN")


def run(args: argparse.Namespace) -> int:
    """Writes the data set with its new splits; the exit status is 0.

    Raises:
        EffdetError: the fractions or the data set cannot be used, or the folder cannot be written.
    """
    if not (0 < args.val < 1 and 0 <= args.test < 1 and args.val + args.test < 1):
        raise ConfigError(
            f"--val {args.val:g} --test {args.test:g}: expected fractions between 0 and 1 that leave some to train on"
        )
    refuse_inside(args.out, args.data)

    from effdet.data.convert import check_empty
    from effdet.data.split_data import resplit

    check_empty(args.out)
    data_set = read_with_notes(args.data, args.changes, args.split)
    fractions = {"train": 1 - args.val - args.test, "val": args.val, "test": args.test}
    chosen = resplit(
        data_set, {name: part for name, part in fractions.items() if part}, seed=args.seed, group_by=args.group_by
    )
    _describe(chosen)
    write_with_notes(args.out, args.to, data_set.format, chosen.tables, chosen.names, args.link)
    return 0


def _describe(chosen: Resplit) -> None:
    """Prints the counts of each class in each split, and the groups."""
    from effdet.text import count_of

    rows = [("images", [len(table) for table in chosen.tables.values()]), *chosen.class_counts()]
    width = max(len(name) for name, _ in rows)
    say(f"  {'':{width}}" + "".join(f"{split:>9}" for split in chosen.tables))
    say(*(f"  {name:{width}}" + "".join(f"{value:>9}" for value in values) for name, values in rows))
    if chosen.identical:
        say(f"{count_of(chosen.identical, 'image')} of identical content: each is in the split of its copies")
    if chosen.groups:
        alone = f", and {count_of(chosen.alone, 'image')} in no group" if chosen.alone else ""
        say(f"{count_of(chosen.groups, 'group')}{alone}")
