"""`predict`: objects or classes of images, folders and videos, as annotated pictures, JSON and CSV.

The work is done by `effdet.inference`; here are the arguments, the progress and the summary.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.errors import DataError
from effdet.inference import BATCH_SIZE, SCORE_THRESHOLD, TOP

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.data.images import Image
    from effdet.inference.predictor import Predictor
    from effdet.inference.sources import Source

INTERRUPTED = 130  # exit status of a program ended by Ctrl-C


@dataclass
class _Tally:
    """What came of a run."""

    images: int = 0
    objects: int = 0
    failures: list[DataError] = field(default_factory=list)
    interrupted: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `predict` to a parser."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="image, folder, quoted glob such as '*.jpg', or video"
    )
    parser.add_argument(
        "--weights",
        required=True,
        help="checkpoint such as runs/NAME/best.pt, or public weights such as efficientdet_d0",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/predict"), help="folder for the results (%(default)s)")
    parser.add_argument("--conf", type=float, help=f"detectors: smallest score shown ({SCORE_THRESHOLD})")
    parser.add_argument(
        "--iou", type=float, help="detectors: overlap above which the lower score is dropped (as trained)"
    )
    parser.add_argument("--max-det", type=int, help="detectors: most objects of an image (as trained)")
    parser.add_argument(
        "--nms", choices=("class", "agnostic", "soft"), help="detectors: suppression of duplicates (as trained)"
    )
    parser.add_argument("--top", type=int, help=f"classifiers: classes told of an image ({TOP})")
    parser.add_argument("--device", help="such as cpu or cuda:0 (a GPU where there is one)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help="images at a time (%(default)s)")
    parser.add_argument("--no-images", action="store_true", help="write predictions.json and predictions.csv only")


def run(args: argparse.Namespace) -> int:
    """Predict; the exit status is 0, 1 where files could not be read, 130 after Ctrl-C.

    Raises:
        EffdetError: a source, the weights or an argument cannot be used.
    """
    from rich.console import Console

    from effdet.inference.predictor import Predictor
    from effdet.inference.sources import open_sources

    console = Console(soft_wrap=True)
    sources = open_sources(args.sources)
    predictor = Predictor(
        args.weights,
        args.device,
        score_threshold=args.conf,
        suppression=args.nms,
        iou_threshold=args.iou,
        max_detections=args.max_det,
        top=args.top,
        batch_size=args.batch_size,
    )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tally = _predict(sources, predictor, args.out, not args.no_images, console)
    except OSError as error:
        raise DataError(
            f"{error.filename or args.out}: cannot be written: {error.strerror or error};"
            " choose another folder with --out or make room"
        ) from None
    _print_summary(tally, predictor.task, args.out, not args.no_images, console)
    if predictor.task == "detection" and tally.images and not tally.objects:
        threshold = SCORE_THRESHOLD if args.conf is None else args.conf
        console.print(f"nothing reaches a score of {threshold}; a smaller --conf shows more", markup=False)
    return INTERRUPTED if tally.interrupted else 1 if tally.failures else 0


def _predict(sources: list[Source], predictor: Predictor, out: Path, save_images: bool, console: Console) -> _Tally:
    """Run the sources through the network and write what is found; Ctrl-C ends it with what is done."""
    from rich.progress import Progress

    from effdet.inference.drawing import draw_classification, draw_detections
    from effdet.inference.sources import read_frames
    from effdet.inference.writers import (
        ClassificationCsvWriter,
        ClassificationJsonWriter,
        CocoResultsWriter,
        CsvWriter,
        PictureWriter,
    )

    json_writer: type[Any] = CocoResultsWriter
    csv_writer: type[Any] = CsvWriter
    draw: Callable[..., Image] = draw_detections
    if predictor.task == "classification":
        json_writer, csv_writer, draw = ClassificationJsonWriter, ClassificationCsvWriter, draw_classification

    lengths = [source.num_frames for source in sources]
    total = None if None in lengths else sum(length or 0 for length in lengths)
    tally = _Tally()
    with (
        json_writer(out / "predictions.json", predictor.label_map) as results,
        csv_writer(out / "predictions.csv", predictor.label_map) as lines,
        PictureWriter(out, [source.path for source in sources]) as pictures,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("predict", total=total)
        try:
            for frame, found in predictor.predict_frames(read_frames(sources, tally.failures)):
                results.write(frame, found)
                lines.write(frame, found)
                if save_images:
                    pictures.write(frame, draw(frame.image, found))
                tally.images += 1
                tally.objects += len(found)
                progress.update(task, completed=tally.images + len(tally.failures))
        except KeyboardInterrupt:
            tally.interrupted = True
    return tally


def _print_summary(tally: _Tally, task: str, out: Path, save_images: bool, console: Console) -> None:
    def tell(line: str, style: str | None = None) -> None:
        console.print(line, style=style, markup=False, highlight=False)

    if tally.interrupted:
        tell("interrupted; the results up to here are kept")
    for failure in tally.failures:
        tell(str(failure), "red")
    if task == "detection":
        tell(f"objects       {tally.objects} in {tally.images} images and video frames")
    else:
        tell(f"classified    {tally.images} images and video frames")
    tell(f"unreadable    {len(tally.failures)} files", "red" if tally.failures else None)
    if save_images and tally.images:
        tell(f"pictures      {out}")
    tell(f"{'COCO results' if task == 'detection' else 'classes':12}  {out / 'predictions.json'}")
    tell(f"table         {out / 'predictions.csv'}")
