"""Draw what the network sees in the first batches of a training, as one picture.

  effdet show-batch configs/d0.yaml data.root=/data/coco augment.mosaic=1 --out mosaic.png

The images are those of the run itself: the same order, the same random changes. Boxes are drawn with the names of
their classes; images of a classifier tell their class, and where two are mixed the share of either.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.recipes import add_recipe_arguments, read_recipe
from effdet.errors import ConfigError

if TYPE_CHECKING:
    from effdet.data.images import Image

SUFFIXES = (".png", ".jpg", ".jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `show-batch` to a parser."""
    add_recipe_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="the picture (%(default)s)")
    parser.add_argument("--batches", type=int, default=1, metavar="N", help="how many batches (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Draws the sheet; the exit status is 0.

    Raises:
        EffdetError: recipe, data or weights cannot be used, or the picture cannot be written.
    """
    if args.batches < 1:
        raise ConfigError(f"--batches {args.batches}: nothing to draw; expected at least 1")
    if args.out.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"--out {args.out}: expected the name of a picture, ending in {', '.join(SUFFIXES)}")
    config = read_recipe(args)

    from rich.console import Console

    from effdet.data.images import write_image
    from effdet.report.sheet import contact_sheet
    from effdet.training.optim import make_schedule
    from effdet.training.tasks import make_task

    console = Console(soft_wrap=True, markup=False, highlight=False)
    task = make_task(config, console)
    schedule = make_schedule(config.optim, config.train, task.data.num_images)
    steps = min(args.batches, schedule.total_steps)
    names = task.data.train_table.label_map.names
    pictures: list[list[Image]] = []
    for step, batch in enumerate(task.data.batches(0, steps, pin_memory=False)):
        micro_batches = task.prepare(batch, step)
        pictures.append([picture for some in micro_batches for picture in task.draw(some.images, some.targets, names)])
    try:
        write_image(args.out, contact_sheet(pictures))
    except OSError as error:
        raise ConfigError(f"{args.out}: cannot be written ({error.strerror}); choose another --out") from None
    console.print(f"{sum(map(len, pictures))} images of {steps} {'batch' if steps == 1 else 'batches'}  {args.out}")
    return 0
