"""Which images are for validation where a data set does not say: a fixed rule, grouped and stratified.

Writing the splits of a data set as files is in `convert.py`; `effdet split` chooses them with the same functions.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effdet.data.image_table import ImageTable
from effdet.errors import DataError
from effdet.files import full_path, read_text
from effdet.text import count_of

MOST_SWAPS = 100  # of groups between two subsets, to make their classes more even
MOST_COMPARED = 500  # groups of each subset among which the best swap is looked for


def automatic_fraction(num_images: int) -> float:
    """Fraction of the images to validate on: 20% of small data sets, 10% of large ones."""
    return 0.2 if num_images < 1000 else 0.15 if num_images < 5000 else 0.1


def listed_rows(table: ImageTable, path: Path) -> tuple[NDArray[np.bool_], list[str]]:
    """Which images of a table are in a list of file names, [I]; and the names that are of no image.

    Raises:
        DataError: the list cannot be read, or none or all images of the table are in it.
    """
    try:
        lines = read_text(full_path(path), "surrogateescape").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: the list of validation images cannot be read: {error.strerror}; set data.val.file_list to it, or "
            "data.val.fraction to choose the images anew"
        ) from None
    names = dict.fromkeys(filter(None, map(str.strip, lines)))
    listed = np.array([table.file_name(row) in names for row in range(len(table))], np.bool_)
    if not listed.any() or listed.all():
        which = "none" if not listed.any() else "all"
        raise DataError(
            f"{path}: {which} of the {len(table)} images are listed as validation images; expected some, named as in "
            f"the data set, such as {table.file_name(0)}"
        )
    known = set(table.file_names.tolist())
    return listed, [name for name in names if name not in known]


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

    Images of one group go to one subset. The class with the fewest groups left comes first. Each of its groups goes to
    the subset that lacks most objects of the class, among those with room for it; so each subset has its number of
    images, to within one group. Then groups are swapped where that makes the classes more even. Groups are visited in
    the order of a hash of their names and the seed, so that the order of the images does not matter.

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
            f"{table.source}: {count_of(len(table), 'image')} of {count_of(num_groups, 'different content')} cannot be "
            f"split into {len(fractions)}; set data.val=null to train without validation"
        )
    counts = _group_counts(table, groups, num_groups)
    missing = np.outer(fractions, counts.sum(axis=0))  # [S, K + 1]
    missing[:, -1] = _whole_sizes(len(table), fractions)
    subset_of = np.full(num_groups, -1, np.int64)
    order = _visiting_order(table, groups, num_groups, seed)
    left = (counts > 0).sum(axis=0)  # groups with each class that have no subset yet
    while left.any():
        column = int(np.argmin(np.where(left > 0, left, num_groups + 1)))
        for group in order[(counts[order, column] > 0) & (subset_of[order] < 0)].tolist():
            subset_of[group] = subset = _neediest(missing, counts[group], column)
            missing[subset] -= counts[group]
            left -= counts[group] > 0
    for subset in range(len(fractions)):
        if not (subset_of == subset).any():
            largest = np.bincount(subset_of).argmax()
            subset_of[order[subset_of[order] == largest][-1]] = subset
    for first, second in itertools.combinations(range(len(fractions)), 2):
        _swap(subset_of, counts, order, (first, second), (fractions[first], fractions[second]))
    return subset_of[groups]


def _swap(
    subset_of: NDArray[np.int64],
    counts: NDArray[np.int64],
    order: NDArray[np.int64],
    pair: tuple[int, int],
    fractions: tuple[float, float],
) -> None:
    """Swaps groups of equal size between two subsets, in place, as long as their classes become more even.

    The unevenness is the sum over both subsets and all classes of the squared difference between the fraction of the
    objects that the subset has and that it should have.
    """
    normalized = counts[:, :-1] / np.maximum(counts[:, :-1].sum(axis=0), 1)
    for _ in range(MOST_SWAPS):
        left, right = (order[subset_of[order] == subset][:MOST_COMPARED] for subset in pair)
        excess = [
            normalized[subset_of == subset].sum(axis=0) - fraction
            for subset, fraction in zip(pair, fractions, strict=True)
        ]
        # With d = right - left, moving d from the second subset to the first changes the sum by 2 d (excess + d).
        ours, theirs = normalized[left], normalized[right]
        along = theirs @ (excess[0] - excess[1]) - (ours @ (excess[0] - excess[1]))[:, None]
        change = along + (ours**2).sum(axis=1)[:, None] + (theirs**2).sum(axis=1) - 2 * ours @ theirs.T
        change[counts[left, -1][:, None] != counts[right, -1]] = np.inf
        best = np.unravel_index(np.argmin(change), change.shape)
        if not change[best] < -1e-12:
            return
        subset_of[left[best[0]]], subset_of[right[best[1]]] = pair[1], pair[0]


def _neediest(missing: NDArray[np.float64], counts: NDArray[np.int64], column: int) -> int:
    """The subset that a group goes to: of those with room for its images, the one that lacks most of a class.

    Args:
        missing: [S, K + 1] objects of each class, and images, that each subset lacks.
        counts: [K + 1] those of the group.
        column: the class.
    """
    room = np.minimum(missing[:, -1], counts[-1])
    others = missing @ (counts / np.maximum(np.abs(missing).sum(axis=0), 1))  # what it lacks of the group's classes
    return int(np.lexsort((others, missing[:, column], room))[-1])


def _whole_sizes(count: int, fractions: Sequence[float]) -> NDArray[np.int64]:
    """Whole numbers in proportion to fractions that sum to `count`; each at least 1 where there are enough."""
    exact = np.array(fractions) * count
    sizes: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: count - sizes.sum()]] += 1
    for subset in np.flatnonzero(sizes == 0):
        sizes[subset] += 1
        sizes[np.argmax(sizes)] -= 1
    return sizes


def _visiting_order(table: ImageTable, groups: NDArray[np.int64], num_groups: int, seed: int) -> NDArray[np.int64]:
    """The groups in the order of a hash of their names, whatever the order and the folder of the images; [G]."""
    first: list[tuple[bytes, str] | None] = [None] * num_groups
    for row, group in enumerate(groups.tolist()):
        name = table.file_name(row)
        key = _hash(name, seed), name
        known = first[group]
        first[group] = key if known is None else min(known, key)
    return np.array(sorted(range(num_groups), key=lambda group: first[group] or (b"", "")), np.int64)


def joint_groups(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Groups that hold whole groups of two groupings, [I]: images of one group of either are together."""
    groups = first
    while True:  # the smallest number that is in reach, in a few rounds
        smallest = groups
        for by in (first, second):
            lowest = np.full(int(by.max()) + 1, len(groups))
            np.minimum.at(lowest, by, smallest)
            smallest = lowest[by]
        if np.array_equal(smallest, groups):
            numbers: NDArray[np.int64] = np.unique(groups, return_inverse=True)[1].astype(np.int64)
            return numbers
        groups = smallest


def named_groups(names: Sequence[str], group_by: str) -> tuple[NDArray[np.int64], int]:
    """Number of the group of each image by its name, [I], and how many images are a group alone for lack of a match.

    Args:
        names: file names.
        group_by: 'folder' for one group per folder, or a regular expression whose first group of parentheses, if it has
            one, is the name of the group.

    Raises:
        DataError: it is no regular expression, or no name matches.
    """
    try:
        pattern = re.compile(r"^(.*)/" if group_by == "folder" else group_by)
    except re.error as error:
        raise DataError(
            f"--group-by '{group_by}' is not a regular expression: {error}; expected 'folder' or one such "
            f"as 'patient_(\\d+)'"
        ) from None
    found = [pattern.search(name) for name in names]
    alone = sum(match is None for match in found)
    if alone == len(names):
        raise DataError(
            "--group-by folder: all images are in one folder"
            if group_by == "folder"
            else f"--group-by '{group_by}' matches no image; they are named such as {names[0]}"
        )
    number_of: dict[object, int] = {}
    keys = [
        (name,) if match is None else (match.group(1) if pattern.groups else match.group())
        for name, match in zip(names, found, strict=True)
    ]
    return np.array([number_of.setdefault(key, len(number_of)) for key in keys], np.int64), alone


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
