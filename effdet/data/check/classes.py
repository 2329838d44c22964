"""Findings about classes: names that differ in spelling alone, classes without objects or missing from a split.

How names are compared in training is in `effdet/data/formats/classes.py`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from effdet.data.check.findings import Finding, Place, Split
from effdet.data.formats.classes import clean_name
from effdet.data.image_table import ImageTable
from effdet.text import count_of
from effdet.types import Task

_IMBALANCE = 20  # most frequent class over least frequent class, from which on it is worth a note
_EXPECTED = 3.0  # objects of a class in a split, by its frequency in training; with so many none is hardly by chance
_THINGS: dict[Task, str] = {"detection": "objects", "classification": "images"}
_METRICS: dict[Task, str] = {"detection": "AP", "classification": "accuracy"}


def class_counts(table: ImageTable) -> dict[str, int]:
    """Objects, or images, of each class of a table, by name; crowds count too."""
    counts = np.bincount(table.labels, minlength=len(table.label_map)).tolist()
    total: dict[str, int] = {}
    for name, count in zip(map(clean_name, table.label_map.names), counts, strict=True):
        total[name] = total.get(name, 0) + count
    return total


def class_findings(splits: Sequence[Split]) -> list[Finding]:
    """What is wrong with the classes of a data set, and what to know about them."""
    counts = {split.name: class_counts(split.table) for split in splits}
    train = next((split for split in splits if split.part == "train"), None)
    findings = [*_similar_names(splits)]
    similar = {clean_name(place.class_name) for finding in findings for place in finding.places}
    if train is None:
        return findings
    of_train = counts[train.name]
    task = train.table.task
    things = _THINGS[task]
    unused = [name for name, count in of_train.items() if not count]
    known = {clean_name(name) for name in train.table.label_map.names} | similar
    for split in splits:
        if split is train or split.part == "other":
            continue
        of_split, ratio = counts[split.name], len(split.table) / len(train.table)
        findings += _unknown(split, [name for name, count in of_split.items() if count and name not in known], of_split)
        untrained = [name for name in unused if of_split.get(name)]
        unused = [name for name in unused if name not in untrained]
        cause = f"classes without {things} to train on, but with some in {split.name}"
        advice = "a model cannot learn them; `effdet split` makes splits with the same classes"
        findings += _missing(train.name, untrained, of_split, split.name, 1 / ratio, cause, advice)
        absent = [name for name, count in of_train.items() if count and not of_split.get(name) and name not in similar]
        cause = f"classes of the training split without {things}"
        advice = f"their {_METRICS[task]} cannot be measured; `effdet split` makes splits with the same classes"
        findings += _missing(split.name, absent, of_train, train.name, ratio, cause, advice)
    if unused and any(of_train.values()):
        advice = "a model would have outputs for them that never learn; data.classes selects classes"
        findings.append(_finding("unused-class", "note", train.name, f"classes without {things}", advice, unused))
    return [*findings, *_imbalance(train, of_train, things)]


def _similar_names(splits: Sequence[Split]) -> Iterator[Finding]:
    """Names that differ only in case, blanks, hyphens or the form of their Unicode characters."""
    spellings: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for split in splits:
        names = split.table.label_map.names
        counts = np.bincount(split.table.labels, minlength=len(names)).tolist()
        for name, count in zip(names, counts, strict=True):
            if count:
                spellings[_folded(name)][name] += count
    for of_class in spellings.values():
        if len(of_class) < 2:
            continue
        shown = ", ".join(f"'{name}'" for name in sorted(of_class))
        places = tuple(
            Place("", class_name=name, detail=count_of(of_class[name], "label")) for name in sorted(of_class)
        )
        advice = "they become different classes, or do not match between splits; merge them with data.rename"
        cause = f"spellings of one class: {shown}"
        yield Finding("similar-classes", "problem", "", cause, len(of_class), advice, places)


def _folded(name: str) -> str:
    return re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold()) or name


def _unknown(split: Split, names: list[str], counts: Mapping[str, int]) -> Iterator[Finding]:
    if names:
        advice = "training refuses them; add training images, or rename them with data.rename"
        details = [count_of(counts[name], "label") for name in names]
        cause = "classes that the training split does not have"
        yield _finding("class-not-in-train", "problem", split.name, cause, advice, names, details)


def _missing(
    split: str, names: list[str], counts: Mapping[str, int], other: str, ratio: float, cause: str, advice: str
) -> Iterator[Finding]:
    """Classes that a split lacks: a problem where some would be expected, a note where that none is may be chance.

    Args:
        split: name of the split.
        names: the classes.
        counts: labels of each class in the other split.
        other: its name.
        ratio: images of the split for each image of the other one.
        cause: of the finding.
        advice: of the finding.
    """
    expected = [name for name in names if counts[name] * ratio >= _EXPECTED]
    rare = [name for name in names if name not in expected]
    for severity, some in (("problem", expected), ("note", rare)):
        if some:
            details = [f"{counts[name]} in {other}" for name in some]
            yield _finding("class-missing", severity, split, cause, advice, some, details)


def _imbalance(train: Split, counts: Mapping[str, int], things: str) -> Iterator[Finding]:
    used = {name: count for name, count in counts.items() if count}
    if len(used) < 2 or max(used.values()) <= _IMBALANCE * min(used.values()):
        return
    most = max(used, key=lambda name: used[name])
    cause = f"classes with less than a {_IMBALANCE}th of the {used[most]} {things} of '{most}'"
    few = sorted((name for name in used if used[name] * _IMBALANCE < used[most]), key=lambda name: used[name])
    advice = (
        "add images of them, or oversample them with data.repeat_threshold" if things == "objects" else "add images"
    )
    details = [str(used[name]) for name in few]
    yield _finding("class-imbalance", "note", train.name, cause, advice, few, details)


def _finding(
    kind: str, severity: str, split: str, cause: str, advice: str, names: Sequence[str], details: Sequence[str] = ()
) -> Finding:
    """A finding about classes, whose places are their names."""
    places = tuple(
        Place(split, class_name=name, detail=detail)
        for name, detail in zip(names, details or [""] * len(names), strict=True)
    )
    return Finding(kind, "problem" if severity == "problem" else "note", split, cause, len(names), advice, places)
