"""The classes of a data set: names as they are compared, and how a table follows classes that are chosen or known.

Every format goes through `follow_classes`; what the classes of its files are is known to the readers beside this file.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable, Table
from effdet.data.label_map import LabelMap
from effdet.errors import DataError
from effdet.text import count_of

_WORDNET_ID = re.compile(r"n\d{8}")
_OBJECTS = {"detection": "objects", "classification": "images"}


def clean_name(name: object) -> str:
    """A class name as it is compared and shown: composed Unicode (NFC), without blanks at its ends."""
    return unicodedata.normalize("NFC", str(name)).strip()


def ordered_names(names: Iterable[str]) -> tuple[str, ...]:
    """Different names, sorted as numbers if all are numbers and as text otherwise."""
    different = set(names)
    if all(name.isdecimal() for name in different):
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
    if label_map is None:
        target = _chosen(table, names, classes)
        if table.task == "classification" and len(target) < 2:
            raise DataError(
                f"{table.source}: all images are of the class '{target.names[0]}'; a classifier needs at least two "
                f"classes"
            )
    else:
        target = label_map.in_ids_of(LabelMap(names, own.category_ids)) if own_ids else label_map
    label_of = {clean_name(name): label for label, name in enumerate(target.names)}
    new_labels = np.array([label_of.get(name, -1) for name in names], np.int64)
    used = np.bincount(table.labels, minlength=len(own)) > 0
    new_labels, by_case = _match_case(names, new_labels, used, target)
    if _named_by_wordnet(names, new_labels, target):
        new_labels = np.arange(len(names))
    table = table.with_repairs("classes matched in another case", len(by_case), by_case)
    unknown = (new_labels < 0) & used
    if unknown.any():
        if classes is None:
            raise DataError(_unknown_classes(table, [names[label] for label in np.flatnonzero(unknown)], target))
        count = int(unknown[table.labels].sum())
        left_out = [names[label] for label in np.flatnonzero(unknown)]
        cause = f"{_OBJECTS[table.task]} of classes that are not in data.classes left out"
        table = table.with_repairs(cause, count, left_out)
    if target == own and (new_labels == np.arange(len(own))).all():
        return table
    return table.with_labels(new_labels, target)


def _renamed(table: ImageTable, rename: Mapping[str, str]) -> tuple[str, ...]:
    """Name of each label once classes are renamed, [K]."""
    names = tuple(map(clean_name, table.label_map.names))
    new = {clean_name(old): clean_name(name) for old, name in rename.items()}
    unknown = [old for old in new if old not in names and new[old] not in names]
    if unknown:
        raise DataError(f"{table.source}: data.rename: there is no class '{unknown[0]}'; {_hint(unknown[0], names)}")
    return tuple(new.get(name, name) for name in names)


def _chosen(table: ImageTable, names: tuple[str, ...], classes: Sequence[str] | None) -> LabelMap:
    """The classes of a table by their new names: all in their order, or `classes`."""
    ids: dict[str, int] = {}
    for name, category_id in zip(names, table.label_map.category_ids, strict=True):
        ids.setdefault(name, category_id)
    if classes is None:
        return LabelMap(tuple(ids), tuple(ids.values()))
    wanted = [clean_name(name) for name in classes]
    double = [name for name in wanted if wanted.count(name) > 1]
    if double:
        raise DataError(f"data.classes names '{double[0]}' twice; keep one")
    if not wanted:
        raise DataError("data.classes is empty; name at least one class, or set it to null for all")
    absent = [name for name in wanted if name not in ids and name.casefold() not in map(str.casefold, ids)]
    if len(absent) == len(wanted):
        raise DataError(f"{table.source}: data.classes: there is no class '{absent[0]}'; {_hint(absent[0], ids)}")
    return LabelMap(tuple(wanted), tuple(range(len(wanted)))).in_ids_of(LabelMap(tuple(ids), tuple(ids.values())))


def _match_case(
    names: tuple[str, ...], new_labels: NDArray[np.int64], used: NDArray[np.bool_], target: LabelMap
) -> tuple[NDArray[np.int64], list[str]]:
    """The labels with those added whose names differ from a class in case alone, and a description of each such."""
    folded = [clean_name(name).casefold() for name in target.names]
    new_labels, described = new_labels.copy(), []
    for label in np.flatnonzero((new_labels < 0) & used):
        name = names[label].casefold()
        if folded.count(name) == 1:
            new_labels[label] = folded.index(name)
            described.append(f"'{names[label]}' as '{target.names[folded.index(name)]}'")
    return new_labels, described


def _named_by_wordnet(names: tuple[str, ...], new_labels: NDArray[np.int64], target: LabelMap) -> bool:
    """Whether classes are ImageNet's folders, named by WordNet ids in the order of its labels."""
    return len(names) == len(target) and bool(np.all(new_labels < 0)) and all(map(_WORDNET_ID.fullmatch, names))


def _unknown_classes(table: ImageTable, unknown: Sequence[str], target: LabelMap) -> str:
    listed = ", ".join(f"'{name}'" for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
    return (
        f"{table.source}: the {'class' if len(unknown) == 1 else 'classes'} {listed} {'is' if len(unknown) == 1 else 'are'} "
        f"not among the {count_of(len(target), 'class', 'classes')} of the training split or of the model; "
        f"{_hint(unknown[0], target.names)}. Rename with data.rename, or leave out with data.classes"
    )


def _hint(name: str, names: Iterable[str]) -> str:
    """The nearest class, or those that there are."""
    known = list(names)
    near = difflib.get_close_matches(name.casefold(), [other.casefold() for other in known], n=1, cutoff=0.6)
    if near:
        return f"did you mean '{next(other for other in known if other.casefold() == near[0])}'?"
    return f"the classes are {', '.join(known[:10])}" + (", ..." if len(known) > 10 else "")
