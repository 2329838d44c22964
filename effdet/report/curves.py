"""Training curves as a picture: losses, metrics, learning rate, gradient norm and speed over the steps.

They are drawn from log.jsonl alone, so they can be drawn again later; `training/records/logs.py` writes it.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effdet.errors import DataError
from effdet.files import atomic_write, read_text
from effdet.plain_data import parse_json, shortened, shown
from effdet.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HIGH_DATA_WAIT = 0.2  # fraction of the time spent waiting for data from which a change of settings pays

_METRICS = ("AP", "AP50", "AP75", "top1", "top5", "mean_class_accuracy")
_COLORS = ("#1f5fa8", "#d9722b", "#2f8f5b", "#a23b72", "#6b6b6b")
_INK, _FAINT, _GRID = "#333333", "#7a7a7a", "#e4e4e4"
_NOTE = (
    "A record of log.jsonl is the mean over the steps since the previous one. Loss terms are drawn unweighted.\n"
    "In long runs the strong line is a running mean of the pale one; the pale area spans the smallest to the largest "
    "record. Beyond 10,000 records every second, third ... is drawn."
)
_MOST_RECORDS = 10_000  # of training; in longer logs every second, third ... record is read
_MOST_STEPS = 2**53
_MOST_POINTS = 500  # of a line; more are drawn as the mean and the range of this many groups
_SMOOTHED_FROM = 40  # points
_LOG_SCALE_FROM = 20.0  # largest value over smallest


def draw_curves(folder: Path) -> Path:
    """Draws log.jsonl in a run's folder as curves.png beside it, written in one step; returns its path.

    Raises:
        DataError: log.jsonl is missing, or is not a log.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    training, evaluations = read_log(folder / "log.jsonl")
    figure = Figure(figsize=(13, 12), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    # Fixed margins: a layout that measures every text takes as long as the drawing.
    figure.subplots_adjust(left=0.065, right=0.985, bottom=0.095, top=0.92, wspace=0.16, hspace=0.3)
    name = printable(folder.resolve().name).replace("$", r"\$")  # matplotlib reads formulas between dollar signs
    headline = _headline(name, training, evaluations)
    figure.text(0.065, 0.958, headline, fontsize=14, fontweight="bold", color=_INK)
    figure.text(0.065, 0.016, _NOTE, fontsize=9, color=_FAINT)
    axes = figure.subplots(3, 2)
    _losses(axes[0, 0], training)
    _metrics(axes[0, 1], evaluations)
    _learning_rate(axes[1, 0], training)
    _gradient_norm(axes[1, 1], training)
    _speed(axes[2, 0], training)
    _data_wait(axes[2, 1], training)
    last = max((records[-1]["step"] for records in (training, evaluations) if records), default=1)
    for panel in axes.flat:
        _finish(panel, last)
    path = folder / "curves.png"
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png")
    return path


def read_log(path: Path) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Records of training and of evaluations; an incomplete last line is skipped.

    Beyond 10,000 training records only every second, third ... is read, which keeps long logs quick to draw.

    Raises:
        DataError: the file is missing, or is not a log.
    """
    try:
        *lines, _ = read_text(path).split("\n")
        training = [line for line in lines if '"learning_rate"' in line]
        every = len(training) // _MOST_RECORDS + 1
        newest_and_before = training[::-every]
        evaluations = [_record(line) for line in lines if '"learning_rate"' not in line]
        return [_record(line) for line in reversed(newest_and_before)], evaluations
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); pass the folder of a run") from None
    except ValueError as error:
        raise DataError(f"{path}: not a log of a run ({error}); expected a JSON object per line") from None


def _record(line: str) -> dict[str, float]:
    """A line of a log.

    Raises:
        ValueError: it is no record with a step, an epoch and seconds, whose values are numbers.
    """
    record = parse_json(line)
    if not isinstance(record, dict) or not {"step", "epoch", "seconds"} <= record.keys():
        raise ValueError("a line has no step, epoch and seconds")
    for name, value in record.items():
        if type(value) not in (int, float, type(None)) or (type(value) is int and abs(value) > _MOST_STEPS):
            raise ValueError(f"{shortened(name)} is {shown(value)}, which is no number of a log")
    if not all(type(record[name]) in (int, float) and math.isfinite(record[name]) for name in ("step", "seconds")):
        raise ValueError("step or seconds is no number")
    return record


def _headline(name: str, training: list[dict[str, float]], evaluations: list[dict[str, float]]) -> str:
    if not training and not evaluations:
        return f"{name}: nothing logged yet"
    newest = max((records[-1] for records in (training, evaluations) if records), key=lambda record: record["step"])
    minutes = newest["seconds"] / 60
    length = (
        f"{minutes / 60:.1f} h" if minutes >= 90 else f"{minutes:.0f} min" if minutes >= 2 else f"{minutes:.1f} min"
    )
    return f"{name}: epoch {newest['epoch']}, step {newest['step']:,}, after {length} of training"


def _losses(axes: Axes, training: list[dict[str, float]]) -> None:
    recorded = dict.fromkeys(
        name for record in training[:1] + training[-1:] for name in record
    )  # a resumed run may have other losses
    names = [name for name in recorded if name == "loss" or name.endswith("_loss")]
    for name, color in zip(names, _COLORS, strict=False):
        label = "loss (total)" if name == "loss" and len(names) > 1 else name.replace("_", " ")
        _line(axes, *_series(training, name), color, label, width=2.2 if name == "loss" else 1.6)
    _title(axes, "Training loss and its terms" if len(names) > 1 else "Training loss", "loss")
    _scale(axes)


def _metrics(axes: Axes, evaluations: list[dict[str, float]]) -> None:
    names = [name for name in _METRICS if any(record.get(name, -1) >= 0 for record in evaluations)]
    for name, color in zip(names, _COLORS, strict=False):
        steps, values = _series(evaluations, name)
        measured = values >= 0
        steps, values = steps[measured], 100 * values[measured]
        best = values.argmax()
        label = f"{name.replace('_', ' ')}, best {values[best]:.1f}% after step {steps[best]:,.0f}"
        few = len(values) <= 60
        axes.plot(steps, values, color=color, label=label, linewidth=1.8, marker="o" if few else None, markersize=4)
        star = axes.plot(steps[best], values[best], "*", color=color, markersize=13, markeredgecolor="white")
        star[0].set(zorder=5, clip_on=False)
    _title(axes, "Metrics on the validation split (star: best)", "percent")
    axes.set_ylim(0, 1.08 * axes.get_ylim()[1])


def _learning_rate(axes: Axes, training: list[dict[str, float]]) -> None:
    axes.plot(
        *_series(training[:: len(training) // _MOST_POINTS + 1], "learning_rate"), color=_COLORS[0], linewidth=1.6
    )
    _title(axes, "Learning rate", "learning rate")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter("{x:g}")


def _gradient_norm(axes: Axes, training: list[dict[str, float]]) -> None:
    _line(axes, *_series(training, "gradient_norm"), _COLORS[3])
    _title(axes, "Gradient norm before clipping", "norm")
    _scale(axes)


def _speed(axes: Axes, training: list[dict[str, float]]) -> None:
    _line(axes, *_series(training, "images_per_second"), _COLORS[2])
    _title(axes, "Training speed, without evaluations", "images per second")
    axes.set_ylim(bottom=0)


def _data_wait(axes: Axes, training: list[dict[str, float]]) -> None:
    steps, fractions = _series(training, "data_wait")
    _line(axes, steps, 100 * fractions, _COLORS[1], "time spent waiting for data")
    limit = 100 * HIGH_DATA_WAIT
    axes.axhline(
        limit, color=_COLORS[4], linewidth=1, linestyle="--", label=f"{limit:.0f}%: above it, speed up data loading"
    )
    _title(axes, "Waiting for data", "percent of the time")
    axes.set_ylim(0, max(1.25 * limit, axes.get_ylim()[1]))


def _line(
    axes: Axes,
    steps: NDArray[np.float64],
    values: NDArray[np.float64],
    color: str,
    label: str | None = None,
    width: float = 1.6,
) -> None:
    """Draws one line; many values become a thin pale line with their running mean over it."""
    if len(values) > _MOST_POINTS:
        steps, values, low, high = _grouped(steps, values)
        axes.fill_between(steps, low, high, color=color, alpha=0.18, linewidth=0)
    if len(values) >= _SMOOTHED_FROM:
        axes.plot(steps, values, color=color, alpha=0.3, linewidth=0.8)
        values = _running_mean(values)
    axes.plot(steps, values, color=color, label=label, linewidth=width, marker="o" if len(values) == 1 else None)


def _series(records: list[dict[str, float]], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of a field, from the records that have it."""
    pairs = [(record["step"], record[name]) for record in records if name in record]
    steps, values = np.array(pairs, np.float64).reshape(-1, 2).T
    return steps, values


def _grouped(
    steps: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Mean step, and mean, smallest and largest value of groups of neighboring records."""
    size = -(-len(values) // _MOST_POINTS)
    starts = np.arange(0, len(values), size)
    counts = np.diff([*starts, len(values)])
    return (
        np.add.reduceat(steps, starts) / counts,
        np.add.reduceat(values, starts) / counts,
        np.minimum.reduceat(values, starts),
        np.maximum.reduceat(values, starts),
    )


def _running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centered mean over a fortieth of the values; the window shrinks towards both ends."""
    index = np.arange(len(values))
    reach = np.minimum(np.minimum(index, index[::-1]), max(len(values) // 80, 2))
    sums = np.concatenate([[0.0], values.cumsum()])
    mean: NDArray[np.float64] = (sums[index + reach + 1] - sums[index - reach]) / (2 * reach + 1)
    return mean


def _scale(axes: Axes) -> None:
    """A logarithmic scale if values differ by more than an order of magnitude, otherwise a linear one from 0."""
    least, greatest = axes.dataLim.intervaly
    if greatest > _LOG_SCALE_FROM * least > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_ylabel(f"{axes.get_ylabel()} (log scale)")
    else:
        axes.set_ylim(bottom=0)


def _title(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, loc="left", y=1.0, fontsize=11, fontweight="bold", color=_INK)
    axes.set_ylabel(unit, color=_INK)


def _finish(axes: Axes, last_step: float) -> None:
    """What all panels have in common: the axis of steps, grid and legend, and a note in empty ones."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, max(last_step, 1) * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("optimizer step", color=_INK)
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, labelsize=9)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if not any(len(np.atleast_1d(line.get_xdata())) for line in axes.lines if line.get_linestyle() != "--"):
        axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", color=_FAINT)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=_INK)
