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
    from effdet.structures import Batch, LabelBatch
    from effdet.training.tasks.classification import ClassificationTask
    from effdet.training.tasks.detection import DetectionTask

SUFFIXES = (".png", ".jpg", ".jpeg")
SMALLEST_SHARE = 0.005  # of a class in a mixed image; what is less reads 0.00


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
    from effdet.training.setup import make_task

    console = Console(soft_wrap=True, markup=False, highlight=False)
    task = make_task(config, console)
    schedule = make_schedule(config.optim, config.train, task.num_images)
    steps = min(args.batches, schedule.total_steps)
    pictures: list[list[Image]] = []
    for batch in task.batches(0, steps, pin_memory=False):
        step = len(pictures)
        pictures.append(_drawn(task, batch, step // schedule.steps_per_epoch, step))
    try:
        write_image(args.out, contact_sheet(pictures))
    except OSError as error:
        raise ConfigError(f"{args.out}: cannot be written ({error.strerror}); choose another --out") from None
    console.print(f"{sum(map(len, pictures))} images of {steps} {'batch' if steps == 1 else 'batches'}  {args.out}")
    return 0


def _drawn(task: DetectionTask | ClassificationTask, batch: Batch | LabelBatch, epoch: int, step: int) -> list[Image]:
    from effdet.structures import Batch
    from effdet.training.tasks.detection import DetectionTask

    if isinstance(task, DetectionTask):
        assert isinstance(batch, Batch)
        return _with_boxes(batch, task.train_table.label_map.names)
    assert not isinstance(batch, Batch)
    return _with_classes(task, batch, epoch, step)


def _with_boxes(batch: Batch, names: tuple[str, ...]) -> list[Image]:
    import torch

    from effdet.report.drawing import draw_detections
    from effdet.report.sheet import in_sheet
    from effdet.structures import Detections

    pictures = []
    for image, target in zip(batch.images, batch.targets, strict=True):
        picture, scale = in_sheet(image)
        found = Detections(target.boxes * scale, torch.ones(len(target.labels)), target.labels, names)
        pictures.append(draw_detections(picture, found))
    return pictures


def _with_classes(task: ClassificationTask, batch: LabelBatch, epoch: int, step: int) -> list[Image]:
    from effdet.report.drawing import draw_classification
    from effdet.report.sheet import in_sheet
    from effdet.structures import Classification

    images, targets = task.mixed(batch, epoch, step)
    names = task.train_table.label_map.names
    pictures = []
    for image, shares in zip(images, targets, strict=True):
        scores, labels = shares.topk(min(2, len(shares)))
        some = scores >= SMALLEST_SHARE
        picture, _ = in_sheet(image)
        pictures.append(draw_classification(picture, Classification(scores[some], labels[some], names)))
    return pictures
