"""The classes of a data set: names as they are compared, and how a table follows classes that are chosen or known.

Every format goes through `follow_classes`; what the classes of its files are is known to the readers beside this file.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable, Table
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.text import HALF, count_of

LONGEST_NAME = 1000  # characters
MOST_DIGITS = 1000  # of names that are sorted as numbers
_WORDNET_ID = re.compile(r"n\d{8}")
_OBJECTS = {"detection": "objects", "classification": "images"}


def clean_name(name: object) -> str:
    """A class name as it is compared and shown: composed Unicode (NFC), without blanks at its ends."""
    return unicodedata.normalize("NFC", str(name)).strip()


def ordered_names(names: Iterable[str]) -> tuple[str, ...]:
    """Different names, sorted as numbers if all are numbers and as text otherwise."""
    different = set(names)
    if all(name.isdecimal() and len(name) <= MOST_DIGITS for name in different):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def follow_classes(
    table: Table,
    classes: Sequence[str] | None = None,
    rename: Mapping[str, str] | None = None,
    label_map: LabelMap | None = None,
    own_ids: bool = False,
) -> Table:
    """The table with classes renamed, merged, selected and ordered.

    Names are compared as `clean_name` gives them. A name that differs in case alone is accepted where it is
    unambiguous, and counted. What is left out is counted too.

    Args:
        table: images with the classes of their files.
        classes: names of the classes in label order; others are left out. None keeps all.
        rename: new name of each class to rename; classes of one name become one.
        label_map: classes that the labels must follow, such as those of the training split or of a model.
        own_ids: whether category ids are the data set's own, and not made up by the reader: then the table keeps them.

    Raises:
        DataError: a class to rename or to keep does not exist, or a class is not in `label_map`.
    """
    own = table.label_map
    names = _renamed(table, rename or {})
    long = max(names, key=len, default="")
    if len(long) > LONGEST_NAME:
        raise DataError(
            f"{table.source}: the class name '{long[:40]}...' has {len(long)} characters, expected at most "
            f"{LONGEST_NAME}; correct the annotations"
        )
    half = next((name for name in names if HALF.search(name)), None)
    if half is not None:
        raise DataError(f"{table.source}: the class name {half!r} is no text; rename it, or its folder")
    used = np.bincount(table.labels, minlength=len(own)) > 0
    wanted = _wanted(table, names, classes) if label_map is None else label_map.names
    names, by_case = _spelled(names, wanted, used)
    ids: dict[str, int] = {}
    for name, category_id in zip(names, own.category_ids, strict=True):
        ids.setdefault(name, category_id)
    in_file = LabelMap(tuple(ids), tuple(ids.values()))
    if label_map is None:
        target = in_file if classes is None else LabelMap(wanted, tuple(range(len(wanted)))).in_ids_of(in_file)
        _check_num_classes(table, target)
    else:
        target = label_map.in_ids_of(in_file) if own_ids else label_map
    label_of = {name: label for label, name in enumerate(target.names)}
    new_labels = np.array([label_of.get(name, -1) for name in names], np.int64)
    if _named_by_wordnet(names, new_labels, target):
        new_labels = np.arange(len(names))
    table = table.with_repairs("classes matched in another case", len(by_case), by_case)
    unknown = (new_labels < 0) & used
    if unknown.any():
        left_out = [names[label] for label in np.flatnonzero(unknown)]
        if classes is None:
            raise DataError(_unknown_classes(table, left_out, target))
        cause = f"{_OBJECTS[table.task]} of classes that are not in data.classes left out"
        table = table.with_repairs(cause, int(unknown[table.labels].sum()), left_out)
    if target == own and (new_labels == np.arange(len(own))).all():
        return table
    return table.with_labels(new_labels, target)


def _renamed(table: ImageTable, rename: Mapping[str, str]) -> tuple[str, ...]:
    """Name of each label once classes are renamed, [K]."""
    names = tuple(map(clean_name, table.label_map.names))
    new = {clean_name(old): clean_name(name) for old, name in rename.items()}
    known = set(names)
    unknown = [old for old in new if old not in known and new[old] not in known]
    if unknown:
        raise DataError(f"{table.source}: data.rename: there is no class '{unknown[0]}'; {_hint(unknown[0], names)}")
    return tuple(new.get(name, name) for name in names)


def _wanted(table: ImageTable, names: tuple[str, ...], classes: Sequence[str] | None) -> tuple[str, ...]:
    """The names of the classes in label order: all of the table, or `classes`, of which some must exist."""
    if classes is None:
        return tuple(dict.fromkeys(names))
    wanted = tuple(map(clean_name, classes))
    double = [name for name, count in Counter(wanted).items() if count > 1]
    if double:
        raise DataError(f"data.classes names '{double[0]}' twice; keep one")
    if not wanted:
        raise DataError("data.classes is empty; name at least one class, or set it to null for all")
    existing = {name.casefold() for name in names}
    if not any(name.casefold() in existing for name in wanted):
        raise DataError(f"{table.source}: data.classes: there is no class '{wanted[0]}'; {_hint(wanted[0], names)}")
    return wanted


def _check_num_classes(table: ImageTable, target: LabelMap) -> None:
    if table.task == "classification" and len(target) < 2:
        raise DataError(
            f"{table.source}: all images are of the class '{target.names[0]}'; a classifier needs at least two classes"
        )


def _spelled(
    names: tuple[str, ...], wanted: Sequence[str], used: NDArray[np.bool_]
) -> tuple[tuple[str, ...], list[str]]:
    """The names in the spelling of the classes that they mean, and a description of those of another case."""
    exact = {clean_name(name): name for name in wanted}
    folded = Counter(name.casefold() for name in exact)
    other_case = {clean.casefold(): name for clean, name in exact.items() if folded[clean.casefold()] == 1}
    spelled = tuple(exact.get(name) or other_case.get(name.casefold()) or name for name in names)
    described = [
        f"'{name}' as '{new}'"
        for name, new, has_objects in zip(names, spelled, used.tolist(), strict=True)
        if has_objects and name != clean_name(new)
    ]
    return spelled, described


def _named_by_wordnet(names: tuple[str, ...], new_labels: NDArray[np.int64], target: LabelMap) -> bool:
    """Whether classes are ImageNet's folders, named by WordNet ids in the order of its labels."""
    return len(names) == len(target) and bool(np.all(new_labels < 0)) and all(map(_WORDNET_ID.fullmatch, names))


def _unknown_classes(table: ImageTable, unknown: Sequence[str], target: LabelMap) -> str:
    listed = ", ".join(f"'{name}'" for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    verb = f"the class {listed} is" if len(unknown) == 1 else f"the classes {listed} are"
    return (
        f"{table.source}: {verb} not among the {count_of(len(target), 'class', 'classes')} of the training split or of "
        f"the model; rename with data.rename, or leave out with data.classes; {_hint(unknown[0], target.names)}"
    )


def _hint(name: str, names: Iterable[str]) -> str:
    """The nearest class, or those that there are."""
    known = list(names)
    near = difflib.get_close_matches(name.casefold(), [other.casefold() for other in known], n=1, cutoff=0.6)
    if near:
        return f"did you mean '{next(other for other in known if other.casefold() == near[0])}'?"
    return f"the classes are {', '.join(known[:10])}" + (", ..." if len(known) > 10 else "")
