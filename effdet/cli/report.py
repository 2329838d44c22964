"""Write the report of a run as an HTML page, or put several runs side by side and say which differences are real.

  effdet report runs/d0
  effdet report runs/d0 runs/d2 --out comparison.html
  effdet report runs/d0/eval-best --images /data/photos

RUN is the folder of a run or of an evaluation; report.html in it is written again. Several runs are compared in one
page: metrics with intervals, differences paired over the images, curves, classes and recipes. They must be evaluated on
the same images. The pages load nothing and open from the disk.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from effdet.errors import ConfigError
from effdet.files import full_path

_COMPARISON = "comparison.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `report` to a parser."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run or of an evaluation")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"page of several runs (default: {_COMPARISON} in the working directory)",
    )
    parser.add_argument(
        "--images", type=Path, metavar="FOLDER", help="folder of the images (default: those of the run's config.yaml)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the page and prints what differs; the exit status is 0.

    Raises:
        EffdetError: a folder holds no analysis, or the page cannot be written.
    """
    folders = [full_path(folder) for folder in args.runs]
    if len(folders) == 1 and args.out is not None:
        raise ConfigError(
            f"--out {args.out}: the report of one run is written to its folder; give more runs, or no --out"
        )
    if len(folders) > 1 and args.images is not None:
        raise ConfigError(f"--images {args.images}: the page of several runs shows no images; leave it out")
    if args.images is not None and not full_path(args.images).is_dir():
        raise ConfigError(f"--images {args.images}: no such folder; give the folder of the images")
    try:
        if len(folders) == 1:
            from effdet.evaluation.run_report import write_run_report

            print(f"report: {write_run_report(folders[0], args.images)}")
        else:
            from effdet.evaluation.run_comparison import write_comparison

            out = full_path(args.out or _COMPARISON)
            _print_differences(write_comparison(folders, out))
            print(f"comparison: {out}")
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror}); choose another file") from None
    return 0


def _print_differences(paired: dict[str, Any] | None) -> None:
    """A line for each pair of runs."""
    if paired is None:
        print("the runs are not paired over images; the page says why")
        return
    for pair in paired["pairs"]:
        interval, metric = pair["interval"], pair["metric"]
        if pair["difference"] is None or interval is None:
            print(f"{pair['b']} against {pair['a']}: {metric} cannot be compared")
            continue
        low, high = (f"{100 * end:+.1f}" for end in interval)
        print(
            f"{pair['b']} against {pair['a']}: {metric} {100 * pair['difference']:+.1f} points, 95% interval {low} to "
            f"{high}: {pair['verdict']}"
        )
    for note in paired["notes"]:
        print(note)
