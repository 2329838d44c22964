"""The training curves of a page: losses, metrics on the validation split and the learning rate over the steps.

They are drawn from the records of log.jsonl, as `read_log` in `curves.py` gives them; plots are made in `plots.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from effdet.report.html_page import escaped
from effdet.report.plots import Axis, Line, legend, line_plot
from effdet.text import percent

_MOST_POINTS = 240  # of a line; more are drawn as means of groups
_LOG_SCALE_FROM = 20.0  # largest value over smallest
METRICS = ("AP", "AP50", "AP75", "top1", "top5", "mean_class_accuracy")

Records = Sequence[Mapping[str, float]]


def training_cards(training: Records, evaluations: Records) -> Iterator[str]:
    """A card per plot; nothing without records."""
    last = max((records[-1]["step"] for records in (training, evaluations) if records), default=0)
    steps = Axis("optimizer step", 0, max(last, 1))
    losses = loss_lines(training)
    if losses:
        yield _card("Training loss", losses, steps, loss_axis(losses))
    metrics, best = metric_lines(evaluations)
    if metrics:
        high = max((value for line in metrics for _, value in line.points if value is not None), default=1.0)
        axis = Axis("validation metric", 0, max(rounded_up(high), 0.01), percent=True)
        note = f"best {escaped(metrics[0].name)} {percent(best[1])}% after step {best[0]:.0f}" if best else ""
        yield _card("Metrics on the validation split", metrics, steps, axis, note, [best] if best else [])
    rates = Line("learning rate", series(training, "learning_rate"))
    if rates.points:
        high = max((value for _, value in rates.points if value is not None), default=0.0) or 1.0
        yield _card("Learning rate", [rates], steps, Axis("learning rate", 0, 1.05 * high))


def loss_lines(training: Records) -> list[Line]:
    """The total loss and its terms."""
    recorded = dict.fromkeys(name for record in (*training[:1], *training[-1:]) for name in record)
    names = [name for name in recorded if name == "loss" or name.endswith("_loss")]
    shown = {"loss": "total" if len(names) > 1 else "loss"}
    lines = [
        Line(shown.get(name, name.removesuffix("_loss").replace("_", " ")), series(training, name), number)
        for number, name in enumerate(names)
    ]
    return [line for line in lines if line.points]


def loss_axis(lines: Sequence[Line]) -> Axis:
    """A logarithmic scale if losses differ by more than an order of magnitude, otherwise a linear one from 0."""
    values = [value for line in lines for _, value in line.points if value is not None]
    low, high = min((value for value in values if value > 0), default=0.0), max(values, default=1.0)
    if high > _LOG_SCALE_FROM * low > 0:
        return Axis("loss", low * 0.9, high * 1.1, log=True)
    return Axis("loss", 0, 1.05 * high if high > 0 else 1.0)


def metric_lines(evaluations: Records) -> tuple[list[Line], tuple[float, float] | None]:
    """The metrics over the steps, and step and value of the best evaluation by the first one."""
    lines = []
    for number, name in enumerate(METRICS):
        points = [(step, value) for step, value in series(evaluations, name, None) if value is None or value >= 0]
        if points:
            lines.append(Line(name.replace("_", " "), points, number % 3, "dots"))
    measured = [(step, value) for step, value in lines[0].points if value is not None] if lines else []
    return lines, max(measured, key=lambda point: point[1], default=None)


def series(records: Records, name: str, most: int | None = _MOST_POINTS) -> list[tuple[float, float | None]]:
    """(step, value) of a field, from the records that have it; None for NaN and Inf."""
    pairs = [(float(record["step"]), float(record[name])) for record in records if record.get(name) is not None]
    size = 1 if most is None else -(-len(pairs) // most) or 1
    groups = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    points = []
    for group in groups:
        values = [value for _, value in group if math.isfinite(value)]
        step = sum(step for step, _ in group) / len(group)
        points.append((step, sum(values) / len(values) if values else None))
    return points


def rounded_up(fraction: float) -> float:
    """An upper end of an axis of fractions: a multiple of 10%, or of 1% for small ones."""
    unit = 0.1 if fraction > 0.1 else 0.01
    return min(1.0, math.ceil(fraction / unit + 1e-9) * unit)


def _card(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    note: str = "",
    marks: Sequence[tuple[float, float]] = (),
) -> str:
    scale = ", log scale" if y.log else ""
    text = note or ("" if not scale else "logarithmic scale")
    return (
        f'<section class="card"><h3>{title}</h3><p class="dim small">{text or "&nbsp;"}</p>{legend(lines)}'
        f"{line_plot(lines, x, y, marks)}</section>"
    )
