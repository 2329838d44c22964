"""Which format a data set has and where its splits are: recognized below `data.root`, or given in the recipe.

What is in the files is read beside.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from effdet.config import DataConfig, SplitConfig
from effdet.data.formats.listing import is_split_name, subfolders
from effdet.data.formats.split_files import WHOLE, SplitFiles, usual_split
from effdet.data.images import is_image_name
from effdet.errors import DataError
from effdet.files import full_path
from effdet.types import Part

_DEEPEST = 2  # folders around a data set, such as those that unzipping makes
_LAYOUT = (
    "images",
    "image",
    "imgs",
    "img",
    "jpegimages",
    "labels",
    "label",
    "annotations",
    "annotation",
    "xml",
    "xmls",
)
MOST_LISTED = 12  # names of a folder's content in a message


class UnknownFormatError(DataError):
    """Nothing of the formats that were looked for is at a path; of another task there may be something."""


class Format(NamedTuple):
    """A format of annotations.

    Attributes:
        find: the splits of this format at a path, by the data set's own names; empty if it has none. The path is the
            folder of a data set, or an annotation file or folder of annotation files alone.
        read: the table of a split, as its files say it, see `build_table`.
        own_ids: whether category ids are the data set's own.
        write: writes the files of splits into a folder and gives what they cannot hold, by cause; None for a format
            that is only read.
        images: where the images of a split are below that folder, such as "images/{split}"; {name} is their class.
        file_lists: whether a split may be given as a text file with the names of its images.
    """

    find: Callable[[Path], dict[str, SplitFiles]]
    read: Callable[[SplitFiles], Any]
    own_ids: bool = False
    write: Callable[[Path, Mapping[str, Any]], dict[str, int]] | None = None
    images: str = ""
    file_lists: bool = False


class LocatedSplit(NamedTuple):
    """A split of a data set on disk.

    Attributes:
        format: name of its format.
        name: its name in the data set.
        files: where it is.
        names: names of all splits that the data set has.
    """

    format: str
    name: str
    files: SplitFiles
    names: tuple[str, ...]


def find_format(path: Path, formats: Mapping[str, Format], wanted: str = "auto") -> tuple[str, dict[str, SplitFiles]]:
    """The format of a data set, and its splits.

    Args:
        path: folder of the data set, or an annotation file or folder.
        formats: the formats to look for, the first that fits is chosen.
        wanted: name of a format; 'auto' for any.

    Raises:
        UnknownFormatError: nothing of these formats is there.
        DataError: there is no such path, or a data set is damaged.
    """
    if not os.path.exists(path):
        raise DataError(f"{path}: no such file or folder; {describe_nearest(path)}")
    inner = _unwrapped(path)
    for name in formats if wanted == "auto" else (wanted,):
        splits = formats[name].find(inner)
        if splits:
            return name, splits
    what = "a data set of a known format" if wanted == "auto" else f"a data set of the format {wanted}"
    raise UnknownFormatError(
        f"{path}: not {what}; {describe_content(path)}. docs/data.md shows the layouts that are recognized; with "
        f"another layout set data.format, data.train.annotations=... and data.train.images=..."
    )


def _unwrapped(path: Path) -> Path:
    """The folder of a data set inside of the folders around it that unzipping makes; the path itself without these.

    Such a folder holds one folder, and besides at most the archive and a read-me.
    """
    for _ in range(_DEEPEST):
        try:
            entries = [entry for entry in path.iterdir() if entry.name[0] != "." and entry.name != "__MACOSX"]
        except OSError:  # a file, or a folder that cannot be read, which the formats report
            return path
        folders = [entry for entry in entries if entry.is_dir()]
        beside = (entry for entry in entries if entry not in folders and not _is_packaging(entry.name.lower()))
        if len(folders) != 1 or any(beside) or _is_of_layout(folders[0]):
            return path
        path = folders[0]
    return path


def validation_folders(root: Path) -> list[Path]:
    """The folders in a data set, or in its folder of images, that are named as one for validation."""
    root = _unwrapped(root)
    places = [root, *(folder for folder in subfolders(root) if folder.name.lower() in _LAYOUT)]
    return [folder for place in places for folder in subfolders(place) if usual_split({folder.name: None}, "val")]


def _is_packaging(name: str) -> bool:
    return name.endswith((".zip", ".rar", ".7z", ".md", ".html", ".pdf")) or name.startswith(("readme", "license"))


def _is_of_layout(folder: Path) -> bool:
    """Whether the name of a folder belongs to a layout, or the folder holds images and nothing else."""
    if is_split_name(folder.name) or folder.name.lower() in _LAYOUT:
        return True
    try:
        return all(is_image_name(entry.name) for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError:
        return True


def locate_split(data: DataConfig, part: Part, formats: Mapping[str, Format]) -> LocatedSplit | None:
    """Where a split is; None if the data set has no validation split.

    Raises:
        DataError: nothing says where the data is, or it is not there.
    """
    section = data.train if part == "train" else data.val
    assert section is not None
    root = None if data.root is None else full_path(data.root)
    if root is not None and not os.path.exists(root):
        raise DataError(
            f"{root}: no such folder; set data.root=... to the folder of the data set; {describe_nearest(root)}"
        )
    given = _given(data, section, root)
    if given is None and root is None:
        if part == "val" and section.split is None:
            return None
        raise DataError(
            f"no data set is given: set data.root=FOLDER, or data.{part}.annotations=... and data.{part}.images=..."
        )
    path = given or root
    assert path is not None
    name, splits = find_format(path, formats, data.format)
    chosen = _choose(splits, section, part, given is not None)
    if chosen is None:
        if part == "val" and section.split is None and given is None:
            return None
        raise DataError(_no_such_split(path, name, splits, section, part))
    if chosen not in splits and not formats[name].file_lists:
        raise DataError(
            f"data.{part}.split is '{chosen}', but lists of images are for VOC and YOLO data sets, and {path} is a "
            f"{name} data set; give each split its own annotations, or choose validation images with data.val.file_list"
        )
    files = splits[chosen] if chosen in splits else splits[WHOLE]._replace(file_list=_below(Path(chosen), root))
    if section.images is None and section.annotations is not None and root is not None and given is not None:
        files = files._replace(images=_images_below_root(root, part, formats[name], given, files.images))
    if section.images is not None:
        images = _below(section.images, root)
        if not os.path.isdir(images):
            raise DataError(
                f"{images}: no such image folder; set data.{part}.images=FOLDER; {describe_nearest(images)}"
            )
        files = files._replace(images=images)
    return LocatedSplit(name, chosen, files, tuple(splits))


def _images_below_root(root: Path, part: Part, own: Format, annotations: Path, images: Path) -> Path:
    """The folder of the images of a split whose annotations are given; `images` is the guess from these alone."""
    splits = own.find(root)
    same = [files.images for files in splits.values() if files.annotations.resolve() == annotations.resolve()]
    if len(set(same)) == 1:
        return same[0]
    if root.absolute() in annotations.absolute().parents:
        return images
    chosen = usual_split(splits, part)
    return root if chosen is None else splits[chosen].images


def describe_content(path: Path) -> str:
    """What is at a path, for messages: such as "the folder holds images/, labels/, 120 .jpg, 1 .txt"."""
    if os.path.isfile(path):
        return f"it is a {path.suffix or 'file without suffix'} file"
    try:
        entries = [entry for entry in sorted(path.iterdir()) if not entry.name.startswith(".")]
    except OSError as error:
        return f"the folder cannot be read: {error.strerror}"
    folders = [f"{entry.name}/" for entry in entries if entry.is_dir()]
    kinds = Counter(entry.suffix.lower() or "without suffix" for entry in entries if not entry.is_dir())
    items = [*folders[:MOST_LISTED], *["..."][: len(folders) > MOST_LISTED]]
    items += [f"{count} {kind}" for kind, count in kinds.most_common(MOST_LISTED)]
    return f"the folder holds {', '.join(items)}" if items else "the folder is empty"


def _given(data: DataConfig, section: SplitConfig, root: Path | None) -> Path | None:
    """The path of the annotations that the recipe gives; of class folders, that of the images."""
    if section.annotations is not None:
        return _below(section.annotations, root)
    labels_are_folders = data.task == "classification" and data.format in ("auto", "folders")
    if section.images is not None and (labels_are_folders or root is None):
        return _below(section.images, root)
    return None


def _below(path: Path, root: Path | None) -> Path:
    """A path as it stands, or below the root if it is only there."""
    path = full_path(path)
    return root / path if root is not None and not os.path.exists(path) and os.path.exists(root / path) else path


def _choose(splits: Mapping[str, SplitFiles], section: SplitConfig, part: Part, given: bool) -> str | None:
    """The name of a split; or the path of a list of images."""
    if section.split is None:
        if given and WHOLE in splits:
            return WHOLE
        return next(iter(splits)) if given and len(splits) == 1 else usual_split(splits, part)
    same = [name for name in splits if name.lower() == section.split.lower()]
    if same:
        return section.split if section.split in same else same[0]
    return section.split if WHOLE in splits and section.split.endswith(".txt") else None


def _no_such_split(path: Path, name: str, splits: Mapping[str, SplitFiles], section: SplitConfig, part: Part) -> str:
    wanted = f"'{section.split}'" if section.split else "that is for training" if part == "train" else "to validate on"
    return (
        f"{path}: no split {wanted}; the {name} data set has {', '.join(splits)}; set data.{part}.split to one of them"
    )


def describe_nearest(path: Path) -> str:
    """What the nearest folder that exists holds."""
    folder = next((parent for parent in path.absolute().parents if os.path.isdir(parent)), None)
    return "check the path" if folder is None else f"in {folder}, {describe_content(folder)}"
