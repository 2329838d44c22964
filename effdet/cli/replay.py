"""Take a step again whose loss or gradient was not finite, from the bundle that it left in the run's folder.

  effdet replay runs/d0/bundle-120
  effdet replay runs/d0/bundle-120 --precision fp32 --device cpu

Neither the data set nor the recipe is needed. Without options the step is computed as in the training. The exit
status is 0 if everything is finite now, and 1 if it is not.
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

    from effdet.training.debug.dump import Bundle
    from effdet.training.debug.nan_trace import Findings

SHOWN = 10  # of the parameters, those whose gradients are the largest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `replay` to a parser."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder, or its bundle.pt")
    parser.add_argument("--device", help="such as cpu or cuda:0 (the step's kind of device where there is one)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), help="arithmetic of the network (that of the step)"
    )


def run(args: argparse.Namespace) -> int:
    """Takes the step again; the exit status is 0 if it is finite, else 1.

    Raises:
        EffdetError: there is no bundle, or it is of another version of this package.
    """
    from rich.console import Console

    from effdet.devices import autocast_dtype
    from effdet.training.debug.dump import read_bundle, rerun

    bundle = read_bundle(args.bundle)
    device = _device(args.device, bundle)
    precision = args.precision or bundle.precision
    findings = rerun(bundle, device, autocast_dtype(precision, device))
    console = Console(soft_wrap=True, markup=False, highlight=False)
    then, now = f"{bundle.precision} on {bundle.device}", f"{precision} on {device.type}"
    rank, size = bundle.process
    share = f", the share of process {rank} of {size} alone" if size > 1 else ""
    console.print(
        f"step {bundle.step + 1}, epoch {bundle.epoch + 1}: {bundle.card.spec.name}, "
        f"{len(bundle.examples.images)} images{share}"
    )
    console.print(_figures(bundle, findings, then, now))
    if findings.gradients:
        console.print(_gradients(findings))
    for line in _verdict(bundle, findings, precision, device.type):
        console.print(line)
    return 0 if findings.finite else 1


def _device(name: str | None, bundle: Bundle) -> torch.device:
    """The device that is asked for, else one of the step's kind, else any."""
    from effdet.devices import pick_device
    from effdet.errors import ConfigError

    if name is not None:
        return pick_device(name)
    try:
        return pick_device(bundle.device)
    except ConfigError:  # the bundle comes from another machine
        return pick_device(None)


def _figures(bundle: Bundle, findings: Findings, then: str, now: str) -> Table:
    from rich.table import Table

    table = Table("", box=None, pad_edge=False)
    table.add_column(f"then ({then})", justify="right")
    table.add_column(f"now ({now})", justify="right")
    for name, value in {**findings.losses, "gradient_norm": findings.gradient_norm}.items():
        table.add_row(name.replace("_", " "), f"{bundle.figures[name]:.6g}", f"{value:.6g}")
    table.add_row("learning rate", f"{bundle.figures['learning_rate']:.6g}", "")
    return table


def _gradients(findings: Findings) -> Table:
    from rich.table import Table

    faulty = sum(not math.isfinite(norm) for norm in findings.gradients.values())
    told = f"{faulty} not finite" if faulty else "the largest"
    table = Table(f"gradients of {len(findings.gradients)} parameters, {told}", box=None, pad_edge=False)
    table.add_column("norm", justify="right")
    for name, norm in list(findings.gradients.items())[:SHOWN]:
        table.add_row(name, f"{norm:.6g}")
    return table


def _verdict(bundle: Bundle, findings: Findings, precision: str, device: str) -> Iterator[str]:
    if not findings.finite:
        again = "again" if (precision, device) == (bundle.precision, bundle.device) else "either"
        yield f"not finite {again}: it begins in {findings.origin}"
    elif precision != bundle.precision:
        cure = "float32" if precision == "fp32" else precision
        yield f"finite: {cure} cures it; set train.precision={precision}"
    elif device != bundle.device:
        yield f"finite: on {device} it does not happen"
    else:
        yield "finite: it does not happen again"
