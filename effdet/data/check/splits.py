"""The splits of a data set as they are written: all that it has, with faulty boxes and missing images.

`effdet.data.formats` reads the same files for training, repairs them and refuses what cannot be used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from effdet.config import DataConfig, DetectionData
from effdet.data.check.findings import Finding, Split, SplitPart
from effdet.data.formats import FORMATS, TABLES
from effdet.data.formats.annotation_files import read_file
from effdet.data.formats.classes import follow_classes
from effdet.data.formats.location import find_format, locate_split
from effdet.data.formats.shard_index import read_shards
from effdet.data.formats.split_files import WHOLE, SplitFiles
from effdet.data.shard_store import ShardAddress
from effdet.errors import DataError
from effdet.files import full_path
from effdet.types import Part

_TEST = re.compile(r"test(ing)?([-_ ]?set)?[-_]?\d*")
_ORDER: tuple[SplitPart, ...] = ("train", "val", "test", "other")


class WrittenSplits(NamedTuple):
    """The splits of a data set as written.

    Attributes:
        format: name of the format.
        splits: those that could be read: train, val, test, others.
        repeating: names of splits left out, because all their images are in the others.
        findings: why other splits could not be read.
    """

    format: str
    splits: list[Split]
    repeating: list[str]
    findings: list[Finding]


def read_splits(data: DataConfig) -> WrittenSplits:
    """The splits of a data set.

    Raises:
        DataError: nothing is at the place that the recipe gives.
    """
    if data.url is not None:
        return _read_address(data)
    formats = FORMATS[data.task]
    name, files = _locate(data)
    splits: list[Split] = []
    findings, repeating = [], []
    listed: set[str] = set()
    for split, part in _ordered(files):
        lines = _lines(files[split, part].file_list)
        if lines and lines <= listed:
            repeating.append(split)
            continue
        listed |= lines
        try:
            table = formats[name].read(files[split, part])
            splits.append(Split(split, part, _followed(table, data, formats[name].own_ids)))
        except DataError as error:
            findings.append(_unreadable(split, error))
    return WrittenSplits(name, splits, repeating, findings)


def _locate(data: DataConfig) -> tuple[str, dict[tuple[str, SplitPart], SplitFiles]]:
    """The format, and the files of each split by its name and what it is for."""
    formats = FORMATS[data.task]
    root = None if data.root is None else full_path(data.root)
    names: list[str] = []
    files: dict[tuple[str, SplitPart], SplitFiles] = {}
    others: Mapping[str, SplitFiles] = {}
    if root is not None and data.train.annotations is None and root.exists():
        format_name, others = find_format(root, formats, data.format)
        names.append(format_name)
    by_rule = data.val is None or data.val.file_list is not None or data.val.fraction is not None
    parts: tuple[Part, ...] = ("train",) if by_rule else ("train", "val")
    for part in parts:
        try:
            located = locate_split(data, part, formats)
        except DataError:
            if part == "train" and others and data.train.split is None:
                continue  # a data set without a training split can be checked too
            raise
        if located is not None:
            names.append(located.format)
            files[located.name, part] = located.files
    located_names = {name for name, _ in files}
    for name, split_files in others.items():
        if name not in located_names:
            files[name, "test" if _TEST.fullmatch(name.lower()) else "other"] = split_files
    return names[0], files


def _ordered(files: Mapping[tuple[str, SplitPart], SplitFiles]) -> list[tuple[str, SplitPart]]:
    return sorted(files, key=lambda key: _ORDER.index(key[1]))


def _lines(path: Path | None) -> set[str]:
    """The images in a list; empty if there is none or it cannot be read."""
    if path is None:
        return set()
    try:
        lines = read_file(path, "list of images").decode("utf-8", "replace").splitlines()
    except DataError:
        return set()
    return {line.split()[0] for line in lines if line.strip()}


def _read_address(data: DataConfig) -> WrittenSplits:
    """The splits for training and validation among shards at an address, whose content cannot be listed."""
    assert data.url is not None
    splits: list[Split] = []
    findings = []
    parts: tuple[Part, ...] = ("train",) if data.val is None else ("train", "val")
    for part in parts:
        section = data.train if part == "train" else data.val
        name = (section.split if section else None) or part
        try:
            table = read_shards(TABLES[data.task], ShardAddress(data.url), name)
        except DataError as error:
            findings.append(_unreadable(name, error))
        else:
            splits.append(Split(name, part, _followed(table, data, True)))
    return WrittenSplits("shards", splits, [], findings)


def _followed(table: Any, data: DataConfig, own_ids: bool) -> Any:
    """A table with the classes of the recipe; as it is without any, so that the check sees what the files say."""
    if data.classes is None and not data.rename:
        return table
    return follow_classes(table, data.classes, data.rename, own_ids=own_ids)


def _unreadable(split: str, error: DataError) -> Finding:
    name = "" if split == WHOLE else split
    return Finding("unreadable-annotations", "problem", name, f"annotations that cannot be used: {error}", 1, "")


def crowds_are_objects(data: DataConfig) -> bool:
    """Whether the recipe trains on crowds as on ordinary objects."""
    return isinstance(data, DetectionData) and data.crowd_as_objects
