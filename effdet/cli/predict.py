"""`predict`: objects in images, folders and videos, as annotated pictures, COCO results and CSV.

The work is done by `effdet.inference`; here are the arguments, the progress and the summary.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.errors import DataError
from effdet.inference import BATCH_SIZE, SCORE_THRESHOLD

if TYPE_CHECKING:
    from rich.console import Console

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
    parser.add_argument("--weights", required=True, help="checkpoint, such as runs/NAME/best.pt")
    parser.add_argument("--out", type=Path, default=Path("runs/predict"), help="folder for the results (%(default)s)")
    parser.add_argument("--conf", type=float, default=SCORE_THRESHOLD, help="smallest score shown (%(default)s)")
    parser.add_argument("--iou", type=float, help="overlap above which the lower score is dropped (as trained)")
    parser.add_argument("--max-det", type=int, help="most objects of an image (as trained)")
    parser.add_argument("--nms", choices=("class", "agnostic", "soft"), help="suppression of duplicates (as trained)")
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
    _print_summary(tally, args.out, not args.no_images, console)
    if tally.images and not tally.objects:
        console.print(f"nothing reaches a score of {args.conf}; a smaller --conf shows more", markup=False)
    return INTERRUPTED if tally.interrupted else 1 if tally.failures else 0


def _predict(sources: list[Source], predictor: Predictor, out: Path, save_images: bool, console: Console) -> _Tally:
    """Run the sources through the network and write what is found; Ctrl-C ends it with what is done."""
    from rich.progress import Progress

    from effdet.inference.drawing import draw_detections
    from effdet.inference.sources import read_frames
    from effdet.inference.writers import CocoResultsWriter, CsvWriter, PictureWriter

    lengths = [source.num_frames for source in sources]
    total = None if None in lengths else sum(length or 0 for length in lengths)
    tally = _Tally()
    with (
        CocoResultsWriter(out / "predictions.json", predictor.label_map) as results,
        CsvWriter(out / "predictions.csv", predictor.label_map) as lines,
        PictureWriter(out, [source.path for source in sources]) as pictures,
        Progress(console=console, transient=True) as progress,
    ):
        task = progress.add_task("predict", total=total)
        try:
            for frame, detections in predictor.predict_frames(read_frames(sources, tally.failures)):
                results.write(frame, detections)
                lines.write(frame, detections)
                if save_images:
                    pictures.write(frame, draw_detections(frame.image, detections))
                tally.images += 1
                tally.objects += len(detections)
                progress.update(task, completed=tally.images + len(tally.failures))
        except KeyboardInterrupt:
            tally.interrupted = True
    return tally


def _print_summary(tally: _Tally, out: Path, save_images: bool, console: Console) -> None:
    def tell(line: str, style: str | None = None) -> None:
        console.print(line, style=style, markup=False, highlight=False)

    if tally.interrupted:
        tell("interrupted; the results up to here are kept")
    for failure in tally.failures:
        tell(str(failure), "red")
    tell(f"objects       {tally.objects} in {tally.images} images and video frames")
    tell(f"unreadable    {len(tally.failures)} files", "red" if tally.failures else None)
    if save_images and tally.images:
        tell(f"pictures      {out}")
    tell(f"COCO results  {out / 'predictions.json'}")
    tell(f"table         {out / 'predictions.csv'}")
