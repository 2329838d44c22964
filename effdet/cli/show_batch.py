"""Draw the first training batches as one picture, exactly as the model will get them.

  effdet show-batch d0 data.root=/data/coco augment.mosaic=1 --out mosaic.png

Order and augmentation are those of the run itself. Boxes are drawn with their class names. Images of a classifier show
their class, and two classes with their probabilities where mixup or cutmix combines two images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.cli.parsing import integer
from effdet.cli.recipes import add_recipe_arguments, read_recipe
from effdet.errors import ConfigError

SUFFIXES = (".png", ".jpg", ".jpeg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `show-batch` to a parser."""
    add_recipe_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("batch.png"), help="the picture to write (%(default)s)")
    parser.add_argument(
        "--batches", type=integer(10**6), default=1, metavar="N", help="number of batches (%(default)s)"
    )


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

    from effdet.console import PlainConsole
    from effdet.report.pictures import write_image
    from effdet.report.sheet import stack_sheets
    from effdet.training.optim import make_schedule
    from effdet.training.tasks import make_task

    console = PlainConsole()
    task = make_task(config, console)
    steps = min(args.batches, make_schedule(config.optim, config.train, task.data.num_images).total_steps)
    names = task.data.train_table.label_map.names
    sheets, images = [], 0
    for step, batch in enumerate(task.data.batches(0, steps, pin_memory=False)):
        for micro_batch in task.prepare(batch, step):
            sheets.append(task.draw(micro_batch.images, micro_batch.targets, names))
            images += len(micro_batch.images)
    try:
        write_image(args.out, stack_sheets(sheets))
    except OSError as error:
        raise ConfigError(f"{args.out}: cannot be written ({error.strerror}); choose another --out") from None
    console.print(f"{images} images of {steps} {'batch' if steps == 1 else 'batches'}  {args.out}")
    return 0
