"""Rerun a training step that produced NaN or Inf, from its debug dump in the run's folder.

  effdet replay runs/d0/debug-120
  effdet replay runs/d0/debug-120 --precision fp32 --device cpu

Needs neither the data set nor the recipe. Without options the step is computed as in the training. The exit status is 0
if all losses and gradients are finite now, and 1 if not.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from rich.table import Table

    from effdet.training.debug.dump import DebugDump
    from effdet.training.debug.nan_trace import NanTrace

SHOWN = 10  # parameters, those with the largest gradients


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `replay` to a parser."""
    parser.add_argument("dump", type=Path, metavar="DUMP", help="folder of the debug dump, or its dump.pt")
    parser.add_argument("--device", help="such as cpu or cuda:0 (default: as in the training)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="precision of the network (default: as in the training)"
    )


def run(args: argparse.Namespace) -> int:
    """Reruns the step; the exit status is 0 if it is finite, else 1.

    Raises:
        EffdetError: there is no debug dump, or it is of another version of this package.
    """
    from effdet.console import PlainConsole
    from effdet.devices import autocast_dtype
    from effdet.training.debug.dump import read_dump
    from effdet.training.debug.replay import replay

    dump = read_dump(args.dump)
    device = _device(args.device, dump)
    precision = args.precision or dump.precision
    traced = replay(dump, device, autocast_dtype(precision, device))
    console = PlainConsole()
    then, now = f"{dump.precision} on {dump.device}", f"{precision} on {device.type}"
    rank, size = dump.process
    process = f", of process {rank} of {size} alone" if size > 1 else ""
    console.print(
        f"step {dump.step + 1}, epoch {dump.epoch + 1}: {dump.card.spec.name}, {len(dump.images)} images{process}"
    )
    console.print(_metrics(dump, traced, then, now))
    if traced.gradients:
        console.print(_gradients(traced))
    for line in _verdict(dump, traced, precision, device.type):
        console.print(line)
    return 0 if traced.finite else 1


def _device(name: str | None, dump: DebugDump) -> torch.device:
    """The device that is asked for, else one of the kind that the step ran on, else any."""
    from effdet.devices import pick_device
    from effdet.errors import ConfigError

    if name is not None:
        return pick_device(name)
    try:
        return pick_device(dump.device)
    except ConfigError:  # the dump comes from another machine
        return pick_device(None)


def _metrics(dump: DebugDump, traced: NanTrace, then: str, now: str) -> Table:
    from rich.table import Table

    table = Table("", box=None, pad_edge=False)
    table.add_column(f"then ({then})", justify="right")
    table.add_column(f"now ({now})", justify="right")
    for name, value in {**traced.losses, "gradient_norm": traced.gradient_norm}.items():
        table.add_row(name.replace("_", " "), f"{dump.metrics[name]:.6g}", f"{value:.6g}")
    table.add_row("learning rate", f"{dump.metrics['learning_rate']:.6g}", "")
    return table


def _gradients(traced: NanTrace) -> Table:
    from rich.table import Table

    faulty = sum(not math.isfinite(norm) for norm in traced.gradients.values())
    which = f"{faulty} with NaN or Inf" if faulty else "the largest"
    table = Table(f"gradients of {len(traced.gradients)} parameters, {which}", box=None, pad_edge=False)
    table.add_column("norm", justify="right")
    for name, norm in list(traced.gradients.items())[:SHOWN]:
        table.add_row(name, f"{norm:.6g}")
    return table


def _verdict(dump: DebugDump, traced: NanTrace, precision: str, device: str) -> Iterator[str]:
    if not traced.finite:
        again = "again" if (precision, device) == (dump.precision, dump.device) else "too"
        yield f"NaN or Inf {again}: it begins in {traced.source}"
    elif precision != dump.precision:
        cure = "float32" if precision == "fp32" else precision
        yield f"finite in {cure}; set train.precision={precision}"
    elif device != dump.device:
        yield f"finite on {device}"
    else:
        yield "finite this time"
