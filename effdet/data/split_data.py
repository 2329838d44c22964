"""Splitting the images of a data set anew: groups stay together, and each class is in each split.

The method is in `splitting.py`; the splits are written in `convert.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from effdet.data.data_set import DataSet, pool
from effdet.data.splitting import content_groups, joint_groups, named_groups, stratified_subsets
from effdet.errors import DataError


class Resplit(NamedTuple):
    """A data set that is split anew.

    Attributes:
        tables: the splits by name.
        names: the file names of the images of each split.
        identical: number of images whose content another image has too; they are in its split.
        groups: number of groups by name, 0 without such.
        alone: number of images that are a group of their own, because their name matches no group.
    """

    tables: dict[str, Any]
    names: dict[str, list[str]]
    identical: int
    groups: int
    alone: int

    def class_counts(self) -> list[tuple[str, list[int]]]:
        """Objects (images with one class each: images) of each class in each split, and images without any."""
        rows = []
        names = next(iter(self.tables.values())).label_map.names
        counts = [np.bincount(table.labels, minlength=len(names)).tolist() for table in self.tables.values()]
        for label, name in enumerate(names):
            rows.append((name, [of_split[label] for of_split in counts]))
        without = [len(table) - len(np.unique(table.image_of_label())) for table in self.tables.values()]
        return [*rows, ("images without objects", without)] if any(without) else rows


def resplit(data_set: DataSet, fractions: Mapping[str, float], seed: int = 0, group_by: str | None = None) -> Resplit:
    """The images of all splits of a data set, split anew: stratified, deterministic, and independent of their order.

    Args:
        data_set: the data set.
        fractions: fraction of the images of each split by name; they sum to 1.
        seed: another seed gives another choice.
        group_by: 'folder', or a regular expression on the file name, see `named_groups`; None for no groups.

    Raises:
        DataError: there are fewer groups than splits, or no image is in a group.
    """
    table, names = pool(data_set)
    groups = content_groups(table)
    sizes = np.bincount(groups)
    count = alone = 0
    if group_by is not None:
        by_name, alone = named_groups(names, group_by)
        count = int(by_name.max()) + 1 - alone
        groups = joint_groups(groups, by_name)
    num_groups = len(np.unique(groups))
    if num_groups < len(fractions):
        raise DataError(
            f"{table.source.parent}: {len(table)} images in {num_groups} groups cannot be split into {len(fractions)}; "
            "choose smaller groups"
        )
    subsets = stratified_subsets(table, groups, list(fractions.values()), seed)
    tables, own = {}, {}
    for number, split in enumerate(fractions):
        rows = np.flatnonzero(subsets == number)
        tables[split] = table.subset(rows)
        own[split] = [names[row] for row in rows.tolist()]
    return Resplit(tables, own, int(sizes[sizes > 1].sum()), count, alone)
