"""Metrics for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from effdet.evaluation import accuracy, average_precision

MEANINGS = {**average_precision.MEANINGS, **accuracy.MEANINGS}


def metrics_table(metrics: Mapping[str, float]) -> Table:
    """Metrics as a table: name, value in percent, meaning; a dash for -1, which stands for none."""
    table = Table("metric", box=None, pad_edge=False)
    table.add_column("%", justify="right")
    table.add_column("meaning", style="dim")
    for name, value in metrics.items():
        table.add_row(name, "\u2013" if value < 0 else f"{100 * value:.1f}", MEANINGS.get(name, ""))
    return table
