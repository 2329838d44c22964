"""Copy a data set into shards: tar files of equal size, to train on from a network drive or an object store.

  effdet shards d0 data.root=/data/coco --out /data/coco-shards

Images are copied byte by byte into tar files of the WebDataset convention; an index of each split holds boxes and
classes. Training images are shuffled with the recipe's seed, so that reading shards in order gives random images;
--order table keeps the order of the data set.
"""

from __future__ import annotations

import argparse
import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.cli.recipes import add_recipe_arguments, read_recipe
from effdet.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from effdet.config import ClassificationConfig, DetectionConfig
    from effdet.data.image_table import ImageTable
    from effdet.types import Part

MEGABYTE = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `shards` to a parser."""
    add_recipe_arguments(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write")
    parser.add_argument(
        "--split", choices=("train", "val", "both"), default="both", help="which split to write (%(default)s)"
    )
    parser.add_argument(
        "--shard-mb", type=float, default=256, metavar="MB", help="size of a tar file in MB (%(default)s)"
    )
    parser.add_argument(
        "--order", choices=("shuffled", "table"), default="shuffled", help="of the training images (%(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Writes the shards; the exit status is 0.

    Raises:
        EffdetError: recipe or data cannot be used, or the folder holds shards already or cannot be written.
    """
    if not 0 < args.shard_mb < math.inf:
        raise ConfigError(f"--shard-mb {args.shard_mb:g}: expected a size above 0")
    config = read_recipe(args)

    from effdet.console import PlainConsole
    from effdet.data.shard_writer import check_free
    from effdet.folders import owned_folder

    splits: list[Part] = [args.split]
    if args.split == "both":
        splits = ["train", "val"] if config.data.val is not None else ["train"]
    for split in splits:
        check_free(args.out, split)
    console = PlainConsole()
    tables = _tables(config, splits, console)
    if "train" in tables and args.order == "shuffled":
        tables["train"] = _shuffled(tables["train"], config.seed)
    with owned_folder(args.out):
        for split, table in tables.items():
            console.print(_write(table, args.out, split, int(args.shard_mb * MEGABYTE)))
    if "train" in tables:
        console.print(f"train on them with {' '.join(_overrides(config, args.out, splits))}")
    return 0


def _tables(
    config: DetectionConfig | ClassificationConfig, splits: list[Part], console: Console
) -> dict[Part, ImageTable]:
    """The table of each split, with the labels of the first; prints their notes."""
    from effdet.data.formats import read_table

    tables: dict[Part, ImageTable] = {}
    for split in splits:
        label_map = next((table.label_map for table in tables.values()), None)
        tables[split] = read_table(config.data, split, label_map)
        for note in tables[split].notes():
            console.print(note, style="yellow")
    return tables


def _shuffled(table: ImageTable, seed: int) -> ImageTable:
    import numpy as np

    return table.subset(np.random.Generator(np.random.PCG64(seed)).permutation(len(table)))


def _write(table: ImageTable, folder: Path, split: str, shard_bytes: int) -> str:
    """Writes a split with a progress bar on stderr; returns a line on what was written."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from effdet.console import PlainConsole
    from effdet.data.shard_writer import write_shards

    console = PlainConsole(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(split, total=len(table))
        paths = write_shards(table, folder, split, shard_bytes, lambda: progress.advance(bar))
    size = sum(path.stat().st_size for path in paths) / MEGABYTE
    shards = "1 shard" if len(paths) == 1 else f"{len(paths)} shards"
    return f"{split}: {len(table)} images in {shards} of {size:.1f} MB in total, in {folder}"


def _overrides(config: DetectionConfig | ClassificationConfig, folder: Path, splits: list[Part]) -> list[str]:
    """The changes of the recipe with which it trains on the shards."""
    changes = ["data.format=shards", shlex.quote(f"data.root={folder}")]
    if config.data.url is not None:
        changes.append("data.url=null")
    changes += [f"data.train.{key}=null" for key, value in config.data.train if value is not None]
    if "val" not in splits:
        changes.append("data.val=null")
    else:
        changes += [f"data.val.{key}=null" for key, value in config.data.val or () if value is not None]
    if config.data.classes is not None:
        changes.append("data.classes=null")
    if config.data.rename:
        changes.append("data.rename={}")
    return changes
