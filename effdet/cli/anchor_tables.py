"""The report of `effdet anchors` as tables for a terminal of 80 columns or more.

It shows the plain values that `effdet anchors --json` writes; they are computed in
`effdet/diagnosis/anchors/coverage.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from effdet.text import count_of

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from effdet.diagnosis.anchors.suggestion import Suggestion

MOST_CLASSES = 15
NONE = "\u2013"  # where there are no objects


def print_report(report: Mapping[str, Any], console: Console) -> None:
    """Prints what the anchors reach: in all, by size, class and level.

    Args:
        report: as `effdet.diagnosis.anchors.coverage.analyze` gives it.
        console: where to print.
    """
    height, width = report["image_size"]
    aspects = ", ".join(f"{across:.3g} x {down:.3g}" for across, down in report["anchor_aspects"])
    console.print(
        f"\n{report['model']}, input {height} x {width}: {report['anchors']:,} anchors of scale "
        f"{report['anchor_scale']:g}, aspects {aspects}"
    )
    left_out = [
        count_of(report[key], noun)
        for key, noun in (("crowds", "crowd region"), ("objects_of_unknown_size", "object in an unreadable image"))
        if report[key]
    ]
    console.print(f"{count_of(report['objects'], 'object')}" + (f"; without {', '.join(left_out)}" if left_out else ""))
    console.print(
        f"recall ceiling of the anchors: {_percent(report['recall_ceiling'])} of the objects have an anchor of IoU 0.5 "
        "or more, before box regression"
    )
    console.print(
        f"claim only: {_percent(report['claimed_only'])} are trained by their best anchor alone, whose IoU is below "
        f"0.5; none: {_percent(report['without'])} have no positive anchor"
    )
    console.print(
        "input px: side of the objects at the network input as median (5%-95%); positives: per object; sizes as in COCO"
    )
    console.print()
    console.print(_group_table("size", report["sizes"]))
    console.print()
    hardest = sorted(report["classes"], key=lambda row: (row["recall_ceiling"] is None, row["recall_ceiling"]))
    console.print(_group_table("class", hardest[:MOST_CLASSES]))
    if len(hardest) > MOST_CLASSES:
        console.print(f"... and {len(hardest) - MOST_CLASSES} classes with a higher ceiling or without objects")
    console.print()
    console.print(_level_table(report["levels"]))


def print_suggestion(suggestion: Suggestion, cautions: Sequence[str], console: Console) -> None:
    """Prints what single changes bring, and what is suggested."""
    from rich.table import Table

    from effdet.diagnosis.anchors.suggestion import changed_keys

    table = Table(box=None, pad_edge=False)
    table.add_column("change", overflow="fold")
    for column in ("ceiling", "of classes", "mean IoU", "positives", "cost"):
        table.add_column(column, justify="right", no_wrap=True)
    present, together = suggestion.present, suggestion.together
    rows = [("none", present)]
    rows += [(_as_arguments(changed_keys(each.spec, present.spec)), each) for each in suggestion.alone]
    if suggestion.changes and together.spec not in [each.spec for each in suggestion.alone]:
        rows.append((_as_arguments(suggestion.changes), together))
    for change, each in rows:
        numbers = (_percent(each.recall_ceiling), _percent(each.class_mean), f"{each.best_iou:.3f}")
        table.add_row(change, *numbers, f"{each.positives:.1f}", f"x {each.multiply_adds:.2f}")
    console.print()
    console.print("of classes: mean of the ceilings of the classes; cost: multiply-adds, about the time of a step")
    console.print(table)
    if suggestion.sampled < suggestion.objects:
        console.print(f"compared with {suggestion.sampled:,} objects, evenly chosen from each class")
    console.print()
    if suggestion.reason:
        console.print(f"suggestion: keep the settings; {suggestion.reason}")
        return
    console.print(f"suggestion: {_as_arguments(suggestion.changes)}")
    console.print(
        f"  ceiling {_percent(present.recall_ceiling)} -> {_percent(together.recall_ceiling)}, mean of the classes "
        f"{_percent(present.class_mean)} -> {_percent(together.class_mean)}, "
        f"multiply-adds x {together.multiply_adds:.2f}"
    )
    for line in cautions:
        console.print(f"  {line}")


def _group_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table with a row for each group of objects."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column(title, no_wrap=True, max_width=20)
    for column in ("objects", "input px", "ceiling", "claim only", "none", "mean IoU", "positives"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        if not row["objects"]:
            table.add_row(row["name"], "0", *[NONE] * 6)
            continue
        side = row["side_at_input"]
        table.add_row(
            row["name"],
            f"{row['objects']:,}",
            f"{side['median']:.0f} ({side['5%']:.0f}-{side['95%']:.0f})",
            *(_percent(row[key]) for key in ("recall_ceiling", "claimed_only", "without")),
            f"{row['best_iou']:.3f}",
            f"{row['positives']:.1f}",
        )
    return table


def _level_table(levels: Sequence[Mapping[str, Any]]) -> Table:
    """A table with a row for each level."""
    from rich.table import Table

    table = Table("level", box=None, pad_edge=False)
    for column in ("stride", "anchor sides", "anchors", "positives", "of all", "objects with one"):
        table.add_column(column, justify="right")
    for row in levels:
        low, high = row["anchor_sides"]
        counts = (f"{row['positives']:,}", _percent(row["positive_fraction"]), f"{row['objects']:,}")
        table.add_row(row["name"], str(row["stride"]), f"{low:.0f}-{high:.0f}", f"{row['anchors']:,}", *counts)
    return table


def _as_arguments(changes: Mapping[str, Any]) -> str:
    """Keys of the section `model` as they are written on the command line."""
    return " ".join(f"model.{key}={_text(value)}" for key, value in changes.items())


def _text(value: Any) -> str:
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else f"{value:g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}%"
