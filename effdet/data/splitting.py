"""Which images are for validation where a data set does not say: a fixed rule, grouped and stratified.

Writing the splits of a data set as files is in `convert.py`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable
from effdet.errors import DataError


def automatic_fraction(num_images: int) -> float:
    """Fraction of the images to validate on: 20% of small data sets, 10% of large ones."""
    return 0.2 if num_images < 1000 else 0.15 if num_images < 5000 else 0.1


def listed_rows(table: ImageTable, path: Path) -> NDArray[np.bool_]:
    """Which images of a table are in a list of file names, [I].

    Raises:
        DataError: the list cannot be read, or none or all images of the table are in it.
    """
    try:
        lines = path.expanduser().read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: the list of validation images cannot be read: {error.strerror}; set data.val.file_list to it, or "
            "data.val.fraction to choose the images anew"
        ) from None
    names = set(filter(None, map(str.strip, lines)))
    listed = np.array([table.file_name(row) in names for row in range(len(table))], np.bool_)
    if not listed.any() or listed.all():
        which = "none" if not listed.any() else "all"
        raise DataError(
            f"{path}: {which} of the {len(table)} images are listed as validation images; expected some, named as in "
            f"the data set, such as {table.file_name(0)}"
        )
    return listed


def validation_rows(table: ImageTable, fraction: float) -> NDArray[np.bool_]:
    """Which images of a table are for validation, [I]; at least one is, and one is not.

    The choice depends on the names and content of the images and on their classes alone, not on their order. Images of
    identical content stay together. Each class has about the same fraction of its objects on both sides.

    Raises:
        DataError: the images are not of two different contents at least.
    """
    subsets = stratified_subsets(table, content_groups(table), (1 - fraction, fraction))
    validating: NDArray[np.bool_] = subsets == 1
    return validating


def stratified_subsets(
    table: ImageTable, groups: NDArray[np.int64], fractions: Sequence[float], seed: int = 0
) -> NDArray[np.int64]:
    """Number of the subset of each image, [I] in 0..S-1; no subset is empty.

    Images of one group go to one subset. Class by class, the rarest first, each group goes to the subset that lacks
    most objects of the class. Groups are visited in the order of a hash of their names and the seed.

    Args:
        table: the images and their classes.
        groups: [I] number of the group of each image, 0..G-1.
        fractions: fraction of the images for each subset, S numbers that sum to 1.
        seed: another seed gives another choice.

    Raises:
        DataError: there are fewer groups than subsets.

    Source: iterative stratification (Sechidis et al., On the Stratification of Multi-Label Data, 2011).
    """
    num_groups = int(groups.max()) + 1
    if num_groups < len(fractions):
        raise DataError(
            f"{table.source}: {len(table)} images of {num_groups} different contents cannot be split into "
            f"{len(fractions)}; set data.val=null to train without validation"
        )
    counts = _group_counts(table, groups, num_groups)
    missing = np.outer(fractions, counts.sum(axis=0))  # [S, K + 1]
    first = np.unique(groups, return_index=True)[1]
    order = np.argsort([_hash(table.file_name(row), seed) for row in first])
    subset_of = np.full(num_groups, -1, np.int64)
    for column in np.argsort((counts > 0).sum(axis=0), kind="stable"):
        for group in order[(counts[order, column] > 0) & (subset_of[order] < 0)]:
            subset = int(np.lexsort((missing[:, -1], missing[:, column]))[-1])
            subset_of[group] = subset
            missing[subset] -= counts[group]
    for subset in range(len(fractions)):
        if not (subset_of == subset).any():
            largest = np.bincount(subset_of).argmax()
            subset_of[order[subset_of[order] == largest][-1]] = subset
    return subset_of[groups]


def content_groups(table: ImageTable) -> NDArray[np.int64]:
    """Number of the group of images of identical content that each image belongs to, [I]."""
    lengths = [len(table.read(row)) if table.store else _length(table.path(row)) for row in range(len(table))]
    several = Counter(lengths)
    number_of: dict[object, int] = {}
    groups = []
    for row, length in enumerate(lengths):
        same = several[length] > 1 and length > 0  # only files of one length can be equal
        key = hashlib.sha256(table.read(row)).hexdigest() if same else row
        groups.append(number_of.setdefault(key, len(number_of)))
    return np.array(groups, np.int64)


def _length(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _group_counts(table: ImageTable, groups: NDArray[np.int64], num_groups: int) -> NDArray[np.int64]:
    """Objects of each class and, in the last column, images of each group, [G, K + 1]."""
    counts = np.zeros((num_groups, len(table.label_map) + 1), np.int64)
    np.add.at(counts, (groups[table.image_of_label()], table.labels), 1)
    counts[:, -1] = np.bincount(groups, minlength=num_groups)
    return counts


def _hash(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {Path(name).name}".encode(errors="surrogateescape")).digest()
