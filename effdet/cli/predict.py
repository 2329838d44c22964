"""`predict`: objects or classes of images, folders and videos, as annotated pictures, JSON and CSV.

The work is done by `effdet.inference`; here are the arguments, the progress and the summary.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.errors import DataError
from effdet.inference import BATCH_SIZE, SCORE_THRESHOLD, TOP

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.distributed import Processes
    from effdet.inference.predictor import Predictor
    from effdet.inference.sources import Source

INTERRUPTED = 130  # exit status of a program ended by Ctrl-C
TIMEOUT_MINUTES = 24 * 60  # how long processes wait for the slowest share


@dataclass
class _Tally:
    """What came of a run."""

    images: int = 0
    objects: int = 0
    failures: list[DataError] = field(default_factory=list)
    interrupted: bool = False

    def add(self, other: _Tally) -> None:
        """Takes in what came of another process."""
        self.images, self.objects = self.images + other.images, self.objects + other.objects
        self.failures.extend(other.failures)
        self.interrupted = self.interrupted or other.interrupted


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

    from effdet.distributed import process_group
    from effdet.inference.sources import open_sources

    sources = open_sources(args.sources)
    with process_group(args.device, TIMEOUT_MINUTES) as (together, device):
        console = Console(soft_wrap=True, quiet=not together.is_main)
        return _run(args, sources, together, str(device), console)


def _run(args: argparse.Namespace, sources: list[Source], together: Processes, device: str, console: Console) -> int:
    """Predicts with the processes that there are; the exit status."""
    from effdet.inference.predictor import Predictor

    predictor = Predictor(
        args.weights,
        device,
        score_threshold=args.conf,
        nms=args.nms,
        iou_threshold=args.iou,
        max_detections=args.max_det,
        top=args.top,
        batch_size=args.batch_size,
    )
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tally = _predict(sources, predictor, args.out, not args.no_images, together, console)
    except OSError as error:
        raise DataError(
            f"{error.filename or args.out}: cannot be written: {error.strerror or error};"
            " choose another folder with --out or make room"
        ) from None
    _print_summary(tally, predictor.task, args.out, not args.no_images, console)
    if predictor.task == "detection" and tally.images and not tally.objects:
        threshold = SCORE_THRESHOLD if args.conf is None else args.conf
        console.print(f"nothing reaches a score of {threshold}; a smaller --conf shows more", markup=False)
    # One status of all, told once everything is written: torchrun ends the others when one process fails.
    return together.broadcast(INTERRUPTED if tally.interrupted else 1 if tally.failures else 0)


def _predict(
    sources: list[Source], predictor: Predictor, out: Path, save_images: bool, together: Processes, console: Console
) -> _Tally:
    """Run the sources through the network and write what is found; Ctrl-C ends it with what is done.

    Of several processes each takes a share of the sources and draws its pictures; the main one writes the tables.
    """
    from contextlib import ExitStack

    from rich.progress import Progress

    from effdet.inference.sources import read_frames
    from effdet.inference.writers import PictureWriter, TableWriter

    share = [
        sources[number] for number in range(len(sources)) if number * together.size // len(sources) == together.rank
    ]
    lengths = [source.num_frames for source in share]
    total = None if None in lengths else sum(length or 0 for length in lengths)
    tally, kept = _Tally(), []
    with ExitStack() as stack:
        if together.is_main:
            tables = stack.enter_context(TableWriter(out, predictor.label_map, predictor.task))
        pictures = stack.enter_context(PictureWriter(out, [source.path for source in sources]))
        progress = stack.enter_context(Progress(console=console, transient=True))
        pictures.reserve(sources)
        task = progress.add_task("predict", total=total)
        try:
            for frame, found in predictor.predict_frames(read_frames(share, tally.failures)):
                if together.is_main:
                    tables.write(frame, found)
                else:
                    kept.append((replace(frame, image=frame.image[:0].copy()), found))  # a view would hold it all
                if save_images:
                    pictures.write(frame, found.draw(frame.image))
                tally.images += 1
                tally.objects += len(found)
                progress.update(task, completed=tally.images + len(tally.failures))
        except KeyboardInterrupt:
            tally.interrupted = True
        for others, others_kept in together.gather((tally, kept))[1:]:
            tally.add(others)
            for frame, found in others_kept:
                tables.write(frame, found)
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
