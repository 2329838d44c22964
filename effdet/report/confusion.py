"""A confusion matrix as a picture: which classes a model predicts for the images or objects of which class.

It is drawn from the non-zero entries, so that memory does not grow with the square of the number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effdet.files import atomic_write
from effdet.terminal import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_WITH_NAMES = 30  # classes; with more there is no room for names and counts
_MOST_CELLS = 400  # along a side; more classes are drawn in groups
_LONGEST_NAME = 24  # letters
_DPI = 100
_DARK = 0.3  # fraction of a row from which white text is easier to read
_INK, _FAINT, _GRID = "#333333", "#7a7a7a", "#d7d7d7"


def draw_confusion(
    path: Path,
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    counts: NDArray[np.int64],
    class_names: Sequence[str],
    counted: str = "images",
) -> None:
    """Draws a confusion matrix as a PNG file, written in one step: a row per true class, a column per predicted one.

    The color of a cell is its fraction of what is counted in its row. Up to 30 classes have their names at the axes and
    counts in the cells; more are a heat map, in which neighboring classes have a cell in common beyond 400.

    Args:
        path: the file.
        rows: [P], true class of each entry of the matrix that is not zero, 0..K-1.
        columns: [P], predicted class of each entry.
        counts: [P], images or objects of each entry.
        class_names: K names.
        counted: what was counted, for the legend.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    classes = len(class_names)
    side = max(3.0, classes * max(0.45, 0.8 - 0.02 * classes)) if classes <= _MOST_WITH_NAMES else 8.0  # inches
    figure = Figure(figsize=(side + 3, side + 2), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((1.8 / (side + 3), 1.2 / (side + 2), side / (side + 3), side / (side + 2)))
    fractions = _fractions(rows, columns, counts, classes, min(classes, _MOST_CELLS))
    _heat_map(figure, axes, fractions, classes, counted)
    if classes <= _MOST_WITH_NAMES:
        _names(axes, class_names)
        for row, column, count in zip(rows.tolist(), columns.tolist(), counts.tolist(), strict=True):
            points = min(11.0, 0.9 * side / classes * 72 / (0.62 * len(str(count))))
            color = "white" if fractions[row, column] > _DARK else _INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=points, color=color)
    with atomic_write(path) as partial:
        figure.savefig(partial, format="png", bbox_inches="tight", pad_inches=0.15)


def _fractions(
    rows: NDArray[np.int64], columns: NDArray[np.int64], counts: NDArray[np.int64], classes: int, cells: int
) -> NDArray[np.float64]:
    """Fraction of the images of the classes of a cell's row that are predicted as those of its column: [cells, cells].

    Each class counts equally in a row of several; classes without images do not count.
    """
    images = np.bincount(rows, weights=counts, minlength=classes)
    present = np.bincount(np.arange(classes) * cells // classes, weights=images > 0, minlength=cells)
    entries = (rows * cells // classes) * cells + columns * cells // classes
    sums = np.bincount(entries, weights=counts / images[rows], minlength=cells**2).reshape(cells, cells)
    fractions: NDArray[np.float64] = sums / np.maximum(present, 1)[:, None]
    return fractions


def _heat_map(figure: Figure, axes: Axes, fractions: NDArray[np.float64], classes: int, counted: str) -> None:
    from matplotlib.colors import PowerNorm
    from matplotlib.ticker import MaxNLocator

    norm = PowerNorm(0.5, vmin=0, vmax=1)  # the square root, so that a few percent are visible
    edges = (-0.5, classes - 0.5, classes - 0.5, -0.5)
    image = axes.imshow(fractions, cmap="Blues", norm=norm, extent=edges, interpolation="antialiased")
    height = min(0.8, 3 / figure.get_figheight())
    left, bottom, width, top = axes.get_position().bounds
    bar_axes = figure.add_axes(
        (left + width + 0.25 / figure.get_figwidth(), bottom + (top - height) / 2, 0.018, height)
    )
    bar = figure.colorbar(image, cax=bar_axes, format="{x:.0%}", ticks=[0, 0.01, 0.1, 0.25, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9, colors=_INK)
    bar.set_label(f"of the {counted} of the true class", color=_FAINT, fontsize=9)
    axes.set_xlabel("predicted class", color=_INK)
    axes.set_ylabel("true class", color=_INK)
    axes.set_title("Confusion matrix", loc="left", fontsize=11, fontweight="bold", color=_INK)
    axes.tick_params(colors=_INK, labelsize=9)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def _names(axes: Axes, class_names: Sequence[str]) -> None:
    """Class names at both axes, and lines between the cells."""
    classes = len(class_names)
    # Matplotlib prints characters that its font lacks in a warning.
    names = [printable(name[: _LONGEST_NAME + 1]) for name in class_names]
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 2]}.." for name in names]
    names = [name.replace("$", r"\$") for name in names]  # matplotlib reads formulas between dollar signs
    axes.set_xticks(range(classes), names, rotation=90 if max(map(len, names)) > 3 else 0)
    axes.set_yticks(range(classes), names)
    edges = np.arange(1, classes) - 0.5
    axes.vlines(edges, -0.5, classes - 0.5, color=_GRID, linewidth=0.6)
    axes.hlines(edges, -0.5, classes - 0.5, color=_GRID, linewidth=0.6)
    axes.tick_params(length=0)
