"""Draw the demo data set: scenes with six kinds of shapes, as a COCO folder, and a short video of the same kind.

  effdet synthetic runs/demo/data --train 768 --val 96

The same numbers give the same scenes on every machine; train on the folder like on any other with data.root=FOLDER.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.parsing import integer

VIDEO_FRAMES = 48


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `synthetic` to a parser."""
    parser.add_argument("folder", type=Path, help="folder of the data set")
    parser.add_argument("--train", type=integer(10**7), default=768, help="scenes to train on (%(default)s)")
    parser.add_argument("--val", type=integer(10**7), default=96, help="scenes held out (%(default)s)")
    parser.add_argument("--size", type=integer(16384), default=192, help="side of the scenes in pixels (%(default)s)")
    parser.add_argument("--seed", type=integer(2**63 - 1), default=0, help="seed of the scenes (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draws the data set and the video; the exit status is 0.

    Raises:
        DataError: the folder cannot be written, holds another data set, or a number makes no sense.
    """
    from effdet.data.synthetic import write_data_set, write_video

    size = (args.size, args.size)
    write_data_set(args.folder, args.train, args.val, size, args.seed)
    write_video(args.folder / "clip.mp4", VIDEO_FRAMES, size, args.seed)
    print(f"{args.train} scenes to train on, {args.val} held out and clip.mp4 are in {args.folder}")
    return 0
