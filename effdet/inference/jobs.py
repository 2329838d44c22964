"""Prediction of many files by one or several processes, into one folder: who does what, the loop, and the summary.

The command line, notebooks and clusters call `predict_files`; the model is run by `predictor.py`, files are written by
`writers.py`, the output folder is prepared by `output_folder.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from effdet.distributed import SINGLE, Processes
from effdet.errors import ConfigError, DataError
from effdet.folders import owned_folder
from effdet.inference.output_folder import list_pictures, prepare_folder, remove_parts
from effdet.inference.predictor import Predictor
from effdet.inference.sources import Source, Sources, read_frames
from effdet.inference.writers import PictureWriter, ResultWriter, merge_results, part_name, picture_paths
from effdet.text import count_of, reason_of

_ELSEWHERE = "are on another machine; choose a folder that all machines see"


@dataclass
class Summary:
    """The outcome of a prediction job.

    Attributes:
        images: images and video frames that were predicted.
        frames: video frames among them.
        objects: detections in them; of a classifier, classes.
        failures: why files could not be read, one text each.
        notes: what else a user should know, one text each: files that were left out or passed over, videos without
            their sound.
        changes: number of images that decoding changed, by cause such as "alpha channel dropped".
        interrupted: whether Ctrl-C ended it; everything up to there is written.
    """

    images: int = 0
    frames: int = 0
    objects: int = 0
    failures: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: Counter[str] = field(default_factory=Counter)
    interrupted: bool = False

    @property
    def predicted(self) -> str:
        """What was predicted, in words: "3 images and 1 video frame"."""
        images, frames = count_of(self.images - self.frames, "image"), count_of(self.frames, "video frame")
        if not self.frames:
            return images
        return frames if self.images == self.frames else f"{images} and {frames}"


def predict_files(
    predictor: Predictor,
    sources: Sources,
    folder: Path,
    *,
    save_images: bool = True,
    overwrite: bool = False,
    console: Console | None = None,
    processes: Processes = SINGLE,
) -> Summary:
    """Predicts files into predictions.json, predictions.csv and annotated copies in `folder`.

    The copies are listed in pictures.csv. Files that cannot be read are skipped and listed in the summary. Ctrl-C ends
    the job and keeps what is done. Each of several processes predicts a block of the sources, writes its pictures and
    appends its results to files of its own; the main process merges these at the end, line by line. Memory does not
    grow with the number of images.

    Example:
        >>> predictor = effdet.Predictor("runs/mine/best.pt")
        >>> out = Path("out")
        >>> summary = predict_files(predictor, open_sources(["photos", "clip.mp4"], leave_out=[out]), out)
        >>> print(summary.images, summary.failures)

    Args:
        predictor: the model, the same in every process.
        sources: all files, the same in every process.
        folder: where the files go; one that all processes see.
        save_images: whether to write annotated copies.
        overwrite: whether to remove the results of an earlier prediction from the folder first.
        console: where progress is shown; None for nowhere.
        processes: the processes that predict together.

    Returns:
        The summary of all processes, the same in each.

    Raises:
        ConfigError: the folder holds files that would be overwritten, or another process writes to it.
        DataError: the folder or a file in it cannot be written.
    """
    paths = picture_paths(folder, sources) if save_images else {}
    try:
        with ExitStack() as owned:
            _prepare(folder, paths, overwrite, processes, owned)
            try:
                own = _predict_block(predictor, sources.files, folder, paths, console or Console(quiet=True), processes)
            except BaseException:
                if processes.size == 1:  # of several, the others are not done
                    _merge(folder, predictor, paths, 1)
                raise
            summaries = processes.gather(own)  # also waits until every process has closed its files
            if processes.is_main:
                missing = _merge(folder, predictor, paths, processes.size)
                if 0 in missing:
                    raise DataError(f"{folder}: the results in it were moved or removed meanwhile; predict again")
                opening = Summary(failures=[str(failure) for failure in sources.failures], notes=sources.notes())
                lost = [f"{folder}: the results of process {rank} {_ELSEWHERE}" for rank in missing]
                summaries = [opening, *summaries, Summary(failures=lost)]
    except OSError as error:
        parts = part_name("predictions.*", "*")
        kept = f"; the results so far are in {folder / parts}, one a line" if any(folder.glob(parts)) else ""
        raise DataError(
            f"{error.filename or folder}: cannot be written ({reason_of(error)}); free some space or choose another "
            f"folder{kept}"
        ) from None
    return processes.broadcast(_total(summaries))


def _prepare(folder: Path, paths: dict[Path, Path], overwrite: bool, processes: Processes, owned: ExitStack) -> None:
    """Makes the folder, which the main process owns, after it has removed earlier results or refused to."""
    refusal = None
    if processes.is_main:
        try:
            owned.enter_context(owned_folder(folder))
            prepare_folder(folder, paths, overwrite)
            remove_parts(folder)
        except ConfigError as error:
            refusal = str(error)
    refusal = processes.broadcast(refusal)
    if refusal is not None:
        raise ConfigError(refusal)
    folder.mkdir(parents=True, exist_ok=True)


def _merge(folder: Path, predictor: Predictor, paths: dict[Path, Path], size: int) -> list[int]:
    """Completes the files of the folder; gives the ranks of the processes that wrote elsewhere."""
    missing = merge_results(folder, predictor.task, size)
    if paths:
        list_pictures(folder, paths)
    return missing


def block_of(sources: Sequence[Source], rank: int, size: int) -> list[Source]:
    """The sources of one of `size` processes: a block of neighbors, so that ranks follow the order of the sources."""
    return [sources[number] for number in range(len(sources)) if number * size // len(sources) == rank]


def _total(summaries: Sequence[Summary]) -> Summary:
    """The summaries of all processes as one."""
    return Summary(
        images=sum(summary.images for summary in summaries),
        frames=sum(summary.frames for summary in summaries),
        objects=sum(summary.objects for summary in summaries),
        failures=[failure for summary in summaries for failure in summary.failures],
        notes=list(dict.fromkeys(note for summary in summaries for note in summary.notes)),
        changes=sum((summary.changes for summary in summaries), Counter[str]()),
        interrupted=any(summary.interrupted for summary in summaries),
    )


def _predict_block(
    predictor: Predictor,
    sources: Sequence[Source],
    folder: Path,
    paths: dict[Path, Path],
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
        pictures = stack.enter_context(PictureWriter(paths))
        progress = stack.enter_context(_progress_bar(console))
        bar = progress.add_task("predict", total=total)
        try:
            for frame, result in predictor.predict_frames(read_frames(block, failures, predictor.value_range)):
                results.write(frame, result)
                if paths:
                    pictures.write(frame, result.draw(frame.image))
                summary.images += 1
                summary.frames += frame.index is not None
                summary.objects += len(result)
                summary.changes.update(frame.changes)
                progress.update(bar, completed=summary.images + len(failures))
        except KeyboardInterrupt:
            summary.interrupted = True
    summary.failures, summary.notes = [str(failure) for failure in failures], pictures.notes
    return summary


def _progress_bar(console: Console) -> Progress:
    """A bar with the number of images, which needs no total."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
