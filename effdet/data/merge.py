"""Merging data sets by the names of their classes and splits.

Each data set is read in `data_set.py`; the result is written in `convert.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.annotations import Annotations
from effdet.data.data_set import DataSet, joined_tables, split_role
from effdet.data.formats.classes import clean_name, follow_classes
from effdet.data.formats.split_files import WHOLE
from effdet.data.image_table import ImageTable
from effdet.data.label_map import LabelMap
from effdet.data.splitting import content_groups
from effdet.errors import DataError
from effdet.files import full_path

SAME_BOX = 0.5  # pixels by which boxes of one object may differ between two data sets


class Merged(NamedTuple):
    """Several data sets as one.

    Attributes:
        tables: the splits by name.
        names: the file names of the images of each split.
        prefixed: number of images that got the name of their data set in front, because another has their name.
        repeated: number of images left out, because an earlier data set has them with the same labels.
        conflicting: file names of images that another data set has too, with other labels or in another split; all are
            kept.
    """

    tables: dict[str, Any]
    names: dict[str, list[str]]
    prefixed: int
    repeated: int
    conflicting: list[str]


def merge(data_sets: Mapping[Path, DataSet], rename: Mapping[str, str] | None = None) -> Merged:
    """One data set of several.

    Classes of one name become one; they are numbered in the order in which they appear. Splits for training, validation
    and test become one each.

    Args:
        data_sets: the data sets by their paths.
        rename: new name of each class to rename, in the data sets that have it.

    Raises:
        DataError: no data set has a class to rename, names of classes differ in case alone, or images are in tar files.
    """
    tables = _with_same_classes(data_sets, rename or {})
    split_of = _split_names(data_sets)
    keys = list(tables)
    whole = joined_tables([tables[key] for key in keys])
    lengths = [len(tables[key]) for key in keys]
    paths = list(data_sets)
    owner = np.repeat([paths.index(path) for path, _ in keys], lengths)
    targets = list(dict.fromkeys(split_of.values()))
    target = np.repeat([targets.index(split_of[key]) for key in keys], lengths)
    kept, conflicting = _without_repeated(whole, owner, target)
    wanted = [name for path, split in keys for name in data_sets[path].names[split]]
    names, prefixed = _prefixed(wanted, owner, kept, _labels(paths))
    rows = {split: np.flatnonzero(kept & (target == number)) for number, split in enumerate(targets)}
    return Merged(
        {split: whole.subset(of_split) for split, of_split in rows.items() if len(of_split)},
        {split: [names[row] for row in of_split.tolist()] for split, of_split in rows.items() if len(of_split)},
        prefixed,
        int((~kept).sum()),
        [names[row] for row in conflicting],
    )


def _with_same_classes(
    data_sets: Mapping[Path, DataSet], rename: Mapping[str, str]
) -> dict[tuple[Path, str], ImageTable]:
    """The table of each split of each data set, with the classes of all."""
    new = {clean_name(old): clean_name(name) for old, name in rename.items()}
    tables: dict[tuple[Path, str], ImageTable] = {}
    seen: dict[str, Path] = {}
    used: set[str] = set()
    for path, data_set in data_sets.items():
        for split, table in data_set.tables.items():
            own = {old: name for old, name in new.items() if old in table.label_map.names}
            used |= own.keys()
            tables[path, split] = follow_classes(table, rename=own) if own else table
            for name in tables[path, split].label_map.names:
                seen.setdefault(name, path)
    absent = [old for old in new if old not in used]
    if absent:
        raise DataError(f"--rename: there is no class '{absent[0]}'; the classes are {', '.join(seen)}")
    folded: dict[str, str] = {}
    for name, path in seen.items():
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise DataError(
                f"{path} has the class '{name}', {seen[other]} has '{other}'; if they are the same, add "
                f"--rename '{name}={other}', else rename one to tell them apart"
            )
    union = LabelMap(tuple(seen), tuple(range(1, len(seen) + 1)))
    return {key: follow_classes(table, label_map=union) for key, table in tables.items()}


def _split_names(data_sets: Mapping[Path, DataSet]) -> dict[tuple[Path, str], str]:
    """The name of the split that each split of each data set becomes."""
    own = [(path, split) for path, data_set in data_sets.items() for split in data_set.tables]
    role_of = {key: split_role(key[1]) or key[1].lower() for key in own}
    for key in own:
        if key[1] == WHOLE and "train" in role_of.values():
            role_of[key] = "train"
    written = {role: {split for (_, split), other in role_of.items() if other == role} for role in role_of.values()}
    return {key: key[1] if len(written[role]) == 1 else role for key, role in role_of.items()}


def _without_repeated(
    whole: ImageTable, owner: NDArray[np.int64], target: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], list[int]]:
    """Which images to keep, [I], and the rows of those that are kept although an earlier data set has them."""
    groups = content_groups(whole)
    kept, conflicting = np.ones(len(whole), np.bool_), []
    counts = np.bincount(groups)
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.cumsum(counts)[:-1]):
        earlier: list[int] = []
        for row in rows.tolist() if len(rows) > 1 else []:
            others = [other for other in earlier if owner[other] != owner[row]]
            if any(target[other] == target[row] and _same_labels(whole, other, row) for other in others):
                kept[row] = False
                continue
            if others:
                conflicting.append(row)
            earlier.append(row)
    return kept, sorted(conflicting)


def _same_labels(table: ImageTable, first: int, second: int) -> bool:
    """Whether two images have the same class, or the same objects to within `SAME_BOX`."""
    if not isinstance(table, Annotations):
        return bool(table.labels[first] == table.labels[second])
    ours, theirs = table.rows(first), table.rows(second)
    if ours.stop - ours.start != theirs.stop - theirs.start:
        return False
    left = list(range(theirs.start, theirs.stop))
    for row in range(ours.start, ours.stop):
        same = [
            other
            for other in left
            if table.labels[other] == table.labels[row]
            and np.abs(table.boxes[other] - table.boxes[row]).max() <= SAME_BOX
        ]
        if not same:
            return False
        left.remove(same[0])
    return True


def _prefixed(
    names: Sequence[str], owner: NDArray[np.int64], kept: NDArray[np.bool_], labels: Sequence[str]
) -> tuple[list[str], int]:
    """The names, with that of the data set in front where an earlier one has an image of the name; how many have it."""
    first: dict[str, int] = {}
    given, prefixed = list(names), 0
    for row in np.flatnonzero(kept).tolist():
        stem = names[row].rpartition(".")[0].casefold()
        if first.setdefault(stem, int(owner[row])) != owner[row]:
            given[row] = f"{labels[owner[row]]}_{names[row]}"
            prefixed += 1
    return given, prefixed


def _labels(paths: Sequence[Path]) -> list[str]:
    """A short name of each data set: that of its folder, with a number if another has it too."""
    labels: list[str] = []
    for path in paths:
        name = full_path(path).absolute()
        stem = name.stem if name.is_file() else name.name
        number = sum(label.rpartition("-")[0] == stem or label == stem for label in labels)
        labels.append(f"{stem}-{number + 1}" if number else stem)
    return labels
