"""Prediction of many files by one or several processes, into one folder: who does what, the loop, and the summary.

The command line, notebooks and clusters call `predict_files`; the model is run by `predictor.py`, files are written by
`writers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from effdet.distributed import SINGLE, Processes
from effdet.errors import DataError
from effdet.inference.predictor import Predictor
from effdet.inference.sources import Source, read_frames
from effdet.inference.writers import PictureWriter, ResultWriter, merge_results


@dataclass
class Summary:
    """The outcome of a prediction job.

    Attributes:
        images: images and video frames that were predicted.
        objects: detections in them; of a classifier, classes.
        failures: why files could not be read, one text each.
        interrupted: whether Ctrl-C ended it; everything up to there is written.
    """

    images: int = 0
    objects: int = 0
    failures: list[str] = field(default_factory=list)
    interrupted: bool = False


def predict_files(
    predictor: Predictor,
    sources: Sequence[Source],
    folder: Path,
    *,
    save_images: bool = True,
    console: Console | None = None,
    processes: Processes = SINGLE,
) -> Summary:
    """Predicts files into predictions.json, predictions.csv and annotated copies in `folder`.

    Files that cannot be read are skipped and listed in the summary. Ctrl-C ends the job and keeps what is done. Each of
    several processes predicts a block of the sources, writes its pictures and appends its results to files of its own;
    the main process merges these at the end, line by line. Memory does not grow with the number of images.

    Example:
        >>> predictor = effdet.Predictor("runs/mine/best.pt")
        >>> summary = predict_files(predictor, open_sources(["photos", "clip.mp4"]), Path("out"))
        >>> print(summary.images, summary.failures)

    Args:
        predictor: the model, the same in every process.
        sources: all files, the same in every process.
        folder: where the files go; one that all processes see.
        save_images: whether to write annotated copies.
        console: where progress is shown; None for nowhere.
        processes: the processes that predict together.

    Returns:
        The summary of all processes, the same in each.

    Raises:
        DataError: the folder or a file in it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            own = _predict_block(predictor, sources, folder, save_images, console or Console(quiet=True), processes)
        except BaseException:
            if processes.size == 1:  # of several, the others are not done
                merge_results(folder, predictor.task)
            raise
        summaries = processes.gather(own)  # also waits until every process has closed its files
        if processes.is_main:
            missing = merge_results(folder, predictor.task, processes.size)
            summaries[0].failures += [
                f"{folder}: the results of process {rank} are on another machine; choose a folder that all machines see"
                for rank in missing
            ]
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{error.filename or folder}: cannot be written: {reason}; choose another folder or make room"
        ) from None
    return processes.broadcast(_total(summaries))


def block_of(sources: Sequence[Source], rank: int, size: int) -> list[Source]:
    """The sources of one of `size` processes: a block of neighbors, so that ranks follow the order of the sources."""
    return [sources[number] for number in range(len(sources)) if number * size // len(sources) == rank]


def _total(summaries: Sequence[Summary]) -> Summary:
    """The summaries of all processes as one."""
    return Summary(
        images=sum(summary.images for summary in summaries),
        objects=sum(summary.objects for summary in summaries),
        failures=[failure for summary in summaries for failure in summary.failures],
        interrupted=any(summary.interrupted for summary in summaries),
    )


def _predict_block(
    predictor: Predictor,
    sources: Sequence[Source],
    folder: Path,
    save_images: bool,
    console: Console,
    processes: Processes,
) -> Summary:
    """Predicts and writes the sources of this process."""
    block = block_of(sources, processes.rank, processes.size)
    lengths = [source.num_frames for source in block]
    total = None if None in lengths else sum(length or 0 for length in lengths)
    summary, failures = Summary(), list[DataError]()
    with ExitStack() as stack:
        results = stack.enter_context(ResultWriter(folder, predictor.label_map, predictor.task, processes.rank))
        pictures = stack.enter_context(PictureWriter(folder, sources if save_images else []))
        progress = stack.enter_context(Progress(console=console, transient=True))
        bar = progress.add_task("predict", total=total)
        try:
            for frame, result in predictor.predict_frames(read_frames(block, failures)):
                results.write(frame, result)
                if save_images:
                    pictures.write(frame, result.draw(frame.image))
                summary.images += 1
                summary.objects += len(result)
                progress.update(bar, completed=summary.images + len(failures))
        except KeyboardInterrupt:
            summary.interrupted = True
    summary.failures = [str(failure) for failure in failures]
    return summary
