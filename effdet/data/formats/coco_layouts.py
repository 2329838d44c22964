"""Where tools put COCO files and their images: the splits of a data set, recognized by names of folders and files.

The files are read by `coco.py`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from effdet.data.formats.coco_json import first_file_name, looks_like_coco
from effdet.data.formats.listing import is_file, is_folder
from effdet.data.formats.split_files import WHOLE, SplitFiles
from effdet.errors import DataError

_IMAGE_FOLDERS = ("images", "data", "imgs", "img", "JPEGImages")
# Words for one split: tools name its files and its folder differently.
_WORDS = (("train", "training"), ("val", "valid", "validation", "dev"), ("test", "testing"), ("default",))
_WORD = re.compile(rf"({'|'.join(word for words in _WORDS for word in sorted(words, reverse=True))})[-_]?(\d*)", re.I)
# Files of these names are COCO's even if they do not look so: a damaged one is an error, and not passed over.
_NAMED_SO = re.compile(r"^instances_|_annotations\.coco\.json$", re.I)
_MOST_FILES = 50  # a folder with more JSON files has one for each image, which COCO does not
_DEEPEST = 2  # folders above a data set, such as those that unzipping makes


def find_coco(path: Path) -> dict[str, SplitFiles]:
    """The splits of a COCO data set: as downloaded, or as the common tools write it.

    The annotations are annotations/instances_SPLIT.json, SPLIT/ANY.json, several JSON files named after splits, or one
    JSON file. The images are in a folder beside, named after the split or images/; see docs/data.md.

    Args:
        path: folder of the data set or of the annotation files, or an annotation file.
    """
    if path.is_file():
        return {WHOLE: _split_files(path, None)} if path.suffix.lower() == ".json" else {}
    for _ in range(_DEEPEST + 1):
        own = [entry for entry in _folders(path) if entry.name.lower() == "annotations"]
        splits = (_splits_of_files(own[0]) if own else {}) or _splits_of_folders(path) or _splits_of_files(path)
        if splits or not path.is_dir():
            return splits
        inner = [entry for entry in _folders(path) if not entry.name.startswith("_")]  # as __MACOSX
        if len(inner) != 1:
            return {}
        path = inner[0]
    return {}


def _splits_of_files(folder: Path) -> dict[str, SplitFiles]:
    """The splits of a folder of annotation files."""
    files = _coco_files(folder)
    named_instances = [file for file in files if "instances" in file.stem.lower()]
    names = _split_names(named_instances or files)
    if named_instances:  # beside them other kinds such as person_keypoints_val.json are left out, but not val.json
        names |= {file.stem: file for file in files if _WORD.fullmatch(file.stem) and file.stem not in names}
    return {name: _split_files(file, None if name == WHOLE else name) for name, file in names.items()}


def _splits_of_folders(folder: Path) -> dict[str, SplitFiles]:
    """The splits of a folder that has a folder with one annotation file for each of them."""
    splits = {}
    for entry in _folders(folder):
        if _WORD.fullmatch(entry.name):
            files = _coco_files(entry) or _coco_files(entry / "annotations")
            if files:
                splits[entry.name] = _split_files(_only_file(entry, files), None)
    return splits


def _only_file(folder: Path, files: Sequence[Path]) -> Path:
    """The annotation file of a split: the only one, or the only one with the name that tools give it."""
    named = [file for file in files if _NAMED_SO.search(file.name)]
    if 1 not in (len(files), len(named)):
        names = " and ".join(file.name for file in files[:2])
        raise DataError(f"{folder}: {names} are both COCO files; keep one, or set data.train.annotations and data.val")
    return named[0] if len(named) == 1 else files[0]


def _coco_files(folder: Path) -> list[Path]:
    files = [Path(entry) for entry in _entries(folder) if entry.name.lower().endswith(".json") and is_file(entry)]
    if len(files) > _MOST_FILES:
        return []
    return [path for path in files if _NAMED_SO.search(path.name) or looks_like_coco(path)]


def _split_names(files: Sequence[Path]) -> dict[str, Path]:
    """A name for the split of each file: what follows 'instances_', the word for a split in its name, or all of it."""
    if len(files) == 1 and not _words(files[0].stem) and "instances_" not in files[0].stem:
        return {WHOLE: files[0]}
    names = []
    for file in files:
        _, marked, rest = file.stem.partition("instances_")
        words = _words(file.stem)
        names.append(rest if marked and rest else words[0] if len(words) == 1 else file.stem)
    several = Counter(names)
    return {name if several[name] == 1 else file.stem: file for name, file in zip(names, files, strict=True)}


def _words(stem: str) -> list[str]:
    """The words for splits in the name of a file, with their years."""
    return [word for word in re.split(r"[^A-Za-z0-9]+", stem) if _WORD.fullmatch(word)]


def _split_files(file: Path, name: str | None) -> SplitFiles:
    """A split with the folder that its first image is in, or else the most special one that exists."""
    folders = list(dict.fromkeys(_image_folders(file, name)))
    first = first_file_name(file)
    if first is not None and not os.path.isabs(first):
        for folder in folders:
            if os.path.isfile(folder / first):
                return SplitFiles(file, folder)
    return SplitFiles(file, folders[0])


def _image_folders(file: Path, name: str | None) -> Iterator[Path]:
    """The folders that may hold the images of a file, the most special first; the last one is that of the file."""
    near = [file.parent]
    if file.parent.name.lower() in ("annotations", "annotation", "labels"):
        near = [file.parent.parent, file.parent]
    for folder in near:
        named = _named(folder, name or WHOLE)
        for image_folder in _IMAGE_FOLDERS:
            for own in (name,) if name is not None else ("default", WHOLE):
                yield from _named(folder / image_folder, own)
            yield from (entry / image_folder for entry in named if (entry / image_folder).is_dir())
        yield from named
        yield from (folder / image_folder for image_folder in _IMAGE_FOLDERS if (folder / image_folder).is_dir())
    yield from near


def _named(folder: Path, name: str) -> list[Path]:
    """The folders in a folder that are named after a split: exactly, or with another word or year for it."""
    entries = _folders(folder)
    exact = [entry for entry in entries if entry.name.lower() == name.lower()]
    match = _WORD.fullmatch(name)
    if exact or match is None:
        return exact
    words = next(words for words in _WORDS if match[1].lower() in words)
    same = []
    for entry in entries:
        other = _WORD.fullmatch(entry.name)
        if other is not None and other[1].lower() in words and (not match[2] or not other[2] or match[2] == other[2]):
            same.append(entry)
    return same if len(same) == 1 else []


def _folders(folder: Path) -> list[Path]:
    return [Path(entry) for entry in _entries(folder) if is_folder(entry)]


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, without hidden entries, sorted by name; nothing if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError:
        return []
