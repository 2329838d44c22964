"""Detect objects in images, folders and videos, or classify them; write annotated copies, JSON and CSV.

  effdet predict street.jpg clip.mp4 photos/ "more/*.png" --weights runs/d0/best.pt
  effdet predict photos/ --weights runs/d0/best.pt --conf 0.4

predictions.json is a COCO results file; its image_id is the path of the image relative to the folder that was given. A
classifier writes the most probable classes of each image. Files that cannot be read are listed and the others are
predicted (status 3). Ctrl-C keeps what is done (status 130).
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli import status
from effdet.cli.parsing import integer, real
from effdet.cli.runtime_arguments import add_runtime_arguments
from effdet.inference import BATCH_SIZE, SCORE_THRESHOLD, TOP
from effdet.text import count_of

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.inference.jobs import Summary
    from effdet.inference.sources import Sources

TIMEOUT_MINUTES = 24 * 60  # how long processes wait for the slowest one


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `predict` to a parser."""
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE", help="image, folder, quoted glob such as '*.jpg', or video"
    )
    parser.add_argument(
        "--weights",
        required=True,
        help="checkpoint such as runs/NAME/best.pt, exported file such as best.onnx, or public weights such as "
        "efficientdet_d0",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the results (default: the first free one of runs/predict, runs/predict-2 ...)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the results of an earlier prediction from the folder first"
    )
    parser.add_argument(
        "--conf",
        type=_confidence,
        default="auto",
        metavar="NUMBER|auto|class",
        help="detectors: confidence threshold; lower scores are not shown. auto is that of the best F1 on the "
        f"validation split, which best.pt and exported files store ({SCORE_THRESHOLD} if there is none); class is that "
        "of each class (%(default)s)",
    )
    parser.add_argument(
        "--calibrated",
        action="store_true",
        help="detectors: calibrate scores by the stored temperature, so that a score is about the fraction of such "
        "detections that are correct; a NUMBER of --conf is then a calibrated score",
    )
    parser.add_argument(
        "--iou", type=real(1e9), help="detectors: IoU threshold of NMS (default: as the model was evaluated)"
    )
    parser.add_argument(
        "--max-det",
        type=integer(100_000),
        help="detectors: most detections per image (default: as the model was evaluated)",
    )
    parser.add_argument(
        "--nms",
        choices=("class", "agnostic", "soft"),
        help="detectors: NMS within a class, across classes, or soft-NMS (default: as the model was evaluated)",
    )
    parser.add_argument(
        "--top", type=integer(10**6), help=f"classifiers: number of most probable classes per image ({TOP})"
    )
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: a GPU if there is one)")
    parser.add_argument(
        "--batch-size", type=integer(65536), default=BATCH_SIZE, help="images per forward pass (%(default)s)"
    )
    parser.add_argument("--no-images", action="store_true", help="write predictions.json and predictions.csv only")
    add_runtime_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Predicts; the exit status is 0, 3 if files could not be read, 130 after Ctrl-C.

    Raises:
        EffdetError: a source, the weights or an argument cannot be used, or the results cannot be written.
    """
    from effdet.console import PlainConsole
    from effdet.distributed import process_group
    from effdet.folders import new_folder
    from effdet.inference.jobs import predict_files
    from effdet.inference.output_folder import DEFAULT_FOLDER, numbered_folders
    from effdet.inference.predictor import Predictor
    from effdet.inference.sources import open_sources

    sources = open_sources(args.sources, numbered_folders() if args.out is None else [args.out])
    with process_group(args.device, TIMEOUT_MINUTES) as (together, device), ExitStack() as made:
        console = PlainConsole(quiet=not together.is_main)
        is_new = args.out is None and together.is_main
        folder = together.broadcast(made.enter_context(new_folder(DEFAULT_FOLDER)) if is_new else args.out)
        console.print(_announcement(sources, folder), markup=False, highlight=False)
        predictor = Predictor(
            args.weights,
            str(device),
            score_threshold=args.conf,
            calibrated=args.calibrated,
            nms=args.nms,
            iou_threshold=args.iou,
            max_detections=args.max_det,
            top=args.top,
            batch_size=args.batch_size,
            threads=args.threads,
            metadata=args.metadata,
        )
        if predictor.confidence:
            console.print(predictor.confidence, markup=False, highlight=False)
        summary = predict_files(
            predictor,
            sources,
            folder,
            save_images=not args.no_images,
            overwrite=args.overwrite,
            console=console,
            processes=together,
        )
        _print_summary(summary, predictor.task, folder, args, console)
        together.broadcast(None)  # the others wait for that: torchrun ends all if one process has a status other than 0
    # The same status in every process, after everything is written.
    if summary.interrupted:
        return status.INTERRUPTED
    return status.BAD_INPUTS if summary.failures else status.DONE


def _confidence(text: str) -> float | str:
    """The value of --conf."""
    if text in ("auto", "class"):
        return text
    try:
        return real(1e9)(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is neither a number, auto nor class") from None


def _announcement(sources: Sources, folder: Path) -> str:
    videos = sum(source.is_video for source in sources)
    counts = (len(sources) - videos, "image"), (videos, "video")
    return f"predict {' and '.join(count_of(*count) for count in counts if count[0])} into {folder}"


def _print_summary(summary: Summary, task: str, folder: Path, args: argparse.Namespace, console: Console) -> None:
    def show(line: str, style: str | None = None) -> None:
        console.print(line, style=style, markup=False, highlight=False)

    if summary.interrupted:
        show("interrupted; the results up to here are saved")
    for failure in summary.failures:
        show(failure, "red")
    for note in summary.notes:
        show(note)
    for cause, number in sorted(summary.changes.items()):
        show(f"{cause}: {count_of(number, 'image')}")
    if task == "detection":
        show(f"objects       {summary.objects} in {summary.predicted}")
    else:
        show(f"classified    {summary.predicted}")
    show(f"unreadable    {count_of(len(summary.failures), 'file')}", "red" if summary.failures else None)
    if not args.no_images and summary.images:
        show(f"pictures      {folder}")
    show(f"{'COCO results' if task == 'detection' else 'classes':12}  {folder / 'predictions.json'}")
    show(f"table         {folder / 'predictions.csv'}")
    if task == "detection" and summary.images and not summary.objects:
        show("no detection reaches the confidence threshold; lower --conf to see more")
