"""Downloading weights with a progress bar in the terminal."""

from __future__ import annotations

from pathlib import Path

from effdet.weights.download import cached_path, weights_path
from effdet.weights.zoo_entry import ZooEntry


def fetch(entry: ZooEntry) -> Path:
    """The verified file of an entry; a download shows a progress bar on the error stream.

    Raises:
        WeightsError: the file cannot be downloaded, or fails verification.
    """
    cached = cached_path(entry)
    if cached is not None:
        return cached
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from effdet.console import PlainConsole

    console = PlainConsole(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden) as progress:
        task = progress.add_task(entry.name, total=None)
        return weights_path(entry, lambda done, total: progress.update(task, completed=done, total=total))
