"""The classes of labelled images: their order, and how names are matched with classes that are already known.

Data sets with boxes have category ids of their own; see their readers beside this file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from effdet.data.label_map import LabelMap
from effdet.errors import DataError

_WORDNET_ID = re.compile(r"n\d{8}")


def match_classes(
    source: Path | str, names: Iterable[str], label_map: LabelMap | None
) -> tuple[LabelMap, dict[str, int]]:
    """The classes, and the label of every name.

    Args:
        source: file or folder that the names were read from, for messages.
        names: the names in use.
        label_map: classes that the labels must follow; None uses the names themselves, sorted as numbers if all are
            numbers and as text otherwise. ImageNet's folders are named by WordNet ids, in whose order its labels are.

    Raises:
        DataError: a name is not among the classes of `label_map`, or there are fewer than two classes to distinguish.
    """
    ordered = _in_order(set(names))
    if label_map is None:
        if len(ordered) < 2:
            raise DataError(
                f"{source}: all images are of the class '{ordered[0]}'; a classifier needs at least two classes"
            )
        label_map = LabelMap(tuple(ordered), tuple(range(len(ordered))))
    labels = {name: label for label, name in enumerate(label_map.names)}
    if len(ordered) == len(labels) and not labels.keys() & set(ordered) and all(map(_WORDNET_ID.fullmatch, ordered)):
        labels = {name: label for label, name in enumerate(ordered)}
    unknown = [name for name in ordered if name not in labels]
    if unknown:
        near = difflib.get_close_matches(unknown[0], label_map.names, n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'?" if near else f"known are {_some(label_map.names)}"
        raise DataError(
            f"{source}: the class '{unknown[0]}' is not among the {len(labels)} classes of the model; {hint}"
        )
    return label_map, {name: labels[name] for name in ordered}


def _in_order(names: set[str]) -> list[str]:
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
