"""What the verbs that write data sets have in common: arguments, reading with the messages, and writing with a bar.

The verbs are `convert`, `split` and `merge`.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.errors import ConfigError
from effdet.files import full_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from effdet.config import DataConfig
    from effdet.data.data_set import DataSet

FORMATS = ("coco", "voc", "yolo", "csv", "folders")  # that can be written, of both tasks


def add_writing_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds --to, whose default is described by `default`, and --link."""
    parser.add_argument("--to", choices=FORMATS, metavar="FORMAT", help=f"{', '.join(FORMATS)} ({default})")
    parser.add_argument("--link", action="store_true", help="hard links to the images instead of copies")


def read_with_notes(path: Path, changes: Sequence[str], only: str | None = None) -> DataSet:
    """The data set at a path; prints its format, splits and repairs.

    Args:
        path: folder or annotation file.
        changes: `data.key=value` overrides.
        only: name of the only split to read.

    Raises:
        EffdetError: the path has no data set, or an override or a file cannot be used.
    """
    from effdet.data.data_set import read_data_set

    data_set = read_data_set(_section(path, changes), only)
    say(f"read {path}: {data_set.format}", *data_set.describe())
    notes = [note for table in data_set.tables.values() for note in table.notes()]
    say(*dict.fromkeys([*data_set.notes, *notes]), style="yellow")
    return data_set


def write_with_notes(
    out: Path,
    format_name: str | None,
    data_format: str,
    tables: Mapping[str, Any],
    names: Mapping[str, Sequence[str]],
    link: bool,
) -> None:
    """Writes a data set with a progress bar; prints what its format cannot hold and how to train on it.

    Args:
        out: the new folder.
        format_name: name of the format; None for that of the data set that was read.
        data_format: name of the format of the data set that was read.
        tables: the splits by name.
        names: the file names of the images of each split.
        link: hard links instead of copies.

    Raises:
        EffdetError: the format cannot be written for this task, or the folder cannot be written.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from effdet.console import PlainConsole
    from effdet.data.convert import writable_formats, write_data_set
    from effdet.data.data_set import describe_table
    from effdet.text import count_of

    task = next(iter(tables.values())).task
    known = writable_formats(task)
    format_name = format_name or data_format
    if format_name not in known:
        raise ConfigError(f"--to: {format_name} is not a format of {task} to write; choose --to {' or '.join(known)}")
    console = PlainConsole(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("images", total=sum(map(len, tables.values())))
        written = write_data_set(out, format_name, tables, names, link, lambda: progress.advance(bar))
    width = max(map(len, tables))
    say(f"written to {out}: {format_name}")
    say(*(f"  {split:{width}}  {describe_table(table)}" for split, table in tables.items()))
    if written.renamed:
        say(f"{count_of(written.renamed, 'image')} got a number behind the name, because another has it too")
    say(*(f"{format_name} cannot hold: {cause}: {count}" for cause, count in written.lost.items()), style="yellow")
    say(f"train on it with: effdet train {shlex.quote(f'data.root={out}')}")


def renames(texts: Sequence[str]) -> dict[str, str]:
    """The classes of --rename OLD=NEW.

    Raises:
        ConfigError: a text is no such pair.
    """
    pairs = [text.partition("=")[::2] for text in texts]
    for text, (old, new) in zip(texts, pairs, strict=True):
        if not old.strip() or not new.strip():
            raise ConfigError(f"--rename {text}: expected OLD=NEW, such as auto=car")
    return dict(pairs)


def refuse_inside(out: Path, *sources: Path) -> None:
    """Does nothing if a folder to write to is outside of those that are read.

    Raises:
        ConfigError: it is inside of one.
    """
    for source in sources:
        if full_path(out).resolve().is_relative_to(full_path(source).resolve()):
            raise ConfigError(f"{out} is inside of {source}, which is read; write to a folder outside of it")


def say(*lines: str, style: str | None = None) -> None:
    """Prints lines as they are."""
    from effdet.console import PlainConsole

    console = PlainConsole()
    for line in lines:
        console.print(line, style=style)


def _section(path: Path, changes: Sequence[str]) -> DataConfig:
    """Section `data` of a recipe for the data set at a path, of the task that it is for."""
    from effdet.config import make_config
    from effdet.data.data_set import task_at

    for change in changes:
        if not change.startswith("data.") or "=" not in change:
            raise ConfigError(f"'{change}': expected data.key=value, such as data.classes=[cat,dog]")
        if change.startswith(("data.root=", "data.val", "data.train.split")):
            raise ConfigError(f"'{change}': all splits of the data set are read; leave it out")
    tree = {"task": task_at(full_path(path)), "data": {"root": str(full_path(path))}}
    return make_config(tree, changes, source=str(path)).data
