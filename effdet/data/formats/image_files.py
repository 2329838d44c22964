"""Locating the image files that an annotation file names, whatever machine or tool has written the names.

How two names are compared is in `image_names.py`; reading the images is in `data/images.py`.
"""

from __future__ import annotations

import difflib
import os
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from effdet.data.formats.image_names import NameIndex, loose_name, plain_name
from effdet.data.formats.listing import files_below, is_file
from effdet.data.formats.location import describe_content
from effdet.data.image_table import ImageTable
from effdet.data.images import IMAGE_SUFFIXES, START_BYTES, is_image_content
from effdet.data.media_files import read_regular
from effdet.errors import DataError

MISSING = "images that do not exist"  # a cause in the repairs of a table, until `require_images` refuses it
OTHER_NAME = "images matched under another name"  # a cause in the repairs of a table
_MOST_COMPARED = 5000  # names among which the nearest to a missing one is looked for


def find_images(source: Path, folder: Path, file_names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The file names in the spelling that exists, relative to `folder` if they are in it; and those that are missing.

    A name that does not exist as written is matched by the longest end of its path that some file has: without regard
    to case, Unicode composition and URL encoding, and with another image suffix if need be. One file must fit it best.
    If the folder that a name gives exists, the file must be in it. Names of different images never get one file. No
    name leads out of the folder, except by links that are in it: a file outside is missing, and so is a name that has
    no file. A missing image keeps its name, without what leads out of the folder.

    Args:
        source: the annotation file, for messages.
        folder: where the images are, in sub-folders too.
        file_names: the names as written; a name may be repeated.

    Raises:
        DataError: several files fit one name, or one file fits several names.
    """
    located = _as_written(folder, file_names)
    others = [name for name in dict.fromkeys(file_names) if name not in located]
    if others:
        index = NameIndex(folder, files_below(folder), others)
        for name in others:
            candidates = _in_own_folder(folder, name, index.candidates(name))
            if len(candidates) > 1:
                raise DataError(
                    f"{source}: '{name}' may be '{candidates[0]}' or '{candidates[1]}' in {folder}; set the image "
                    f"folder to the one that is meant, or write the folder of the image before its name"
                )
            if candidates:
                located[name] = candidates[0]
        _check_one_to_one(source, folder, located)
    missing = [name for name in others if name not in located]
    located.update({name: plain_name(name) for name in missing if leads_out(name)})
    return [located.get(name, name) for name in file_names], missing


def require_images(table: ImageTable) -> None:
    """Refuses a table that names images which do not exist; readers count them in its repairs.

    Raises:
        DataError: images are missing.
    """
    count = table.repairs.get(MISSING, 0)
    if not count:
        return
    absent, folder = table.places[MISSING], table.image_folder
    outside = [name for name in absent if leads_out(name) and os.path.isfile(os.path.join(folder, name))]
    if outside:
        raise DataError(
            f"{table.source}: {count} of {len(table)} images are not in {folder}, such as {outside[0]}, which leads "
            f"out of it; names of images may not. Set data.train.images=FOLDER (or data.val.images) to a folder that "
            f"has all of them below it"
        )
    some = ", ".join(absent[:3]) + (", ..." if count > 3 else "")
    bases = [os.path.basename(name) for name in islice(files_below(folder), _MOST_COMPARED)]
    near = difflib.get_close_matches(plain_name(absent[0]).rpartition("/")[2], bases, n=1, cutoff=0.7)
    nearest = f", the nearest name is {near[0]}" if near else ""
    raise DataError(
        f"{table.source}: {count} of {len(table)} images do not exist in {folder}: {some}; {describe_content(folder)}"
        f"{nearest}. Correct the image folder with data.train.images=FOLDER (or data.val.images), or let `effdet check "
        f"DATA --fix OUT` write a copy without these images"
    )


def check_copied(folder: Path, path: Path) -> None:
    """Does nothing if a file may be copied as an image of a folder: only images are if a link leads out of it.

    Raises:
        DataError: it is no regular file, cannot be read, or is no image and outside.
    """
    start = read_regular(path, "image", START_BYTES)
    if not is_image_content(start) and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise DataError(
            f"{path}: is no image, and a link leads out of {folder}; only images are copied from there, remove it"
        )


def under_other_names(folder: Path, file_names: Sequence[str], existing: Sequence[str]) -> list[str]:
    """Descriptions of the images that `find_images` located under another name than the annotations give them.

    Names that differ in their spelling alone are none: case, backslashes, folders above `folder`.
    """
    return [
        f"'{written}' as '{name}'"
        for written, name in zip(file_names, existing, strict=True)
        if written != name and not _is_same(folder, written, name)
    ]


def _in_own_folder(folder: Path, name: str, candidates: list[str]) -> list[str]:
    """The candidates, or if the folder that the name gives exists, those in it: train/1.jpg is not val/1.jpg."""
    parent = plain_name(name).rpartition("/")[0]
    if not parent or os.path.isabs(parent) or not os.path.isdir(folder / parent):
        return candidates
    return [path for path in candidates if loose_name(path.rpartition("/")[0]) == loose_name(parent)]


def find_image(folder: Path, file_name: str) -> Path | None:
    """Path of the image that an annotation calls `file_name`, or None; without a search in sub-folders.

    Tried besides the name as written: backslashes, %20 and the like, a path from another machine, the name of `folder`
    in front, composed and decomposed Unicode, a suffix in the wrong case or none at all.
    """
    if os.path.isfile(os.path.join(folder, file_name)):
        inside = path_inside(folder, file_name)
        return None if inside is None else folder / inside
    for spelling in dict.fromkeys(_spellings(folder, file_name)):
        path = folder / spelling
        if os.path.isfile(path):  # False for names that are too long for the system, where Path.is_file raises
            return path
    return None


def _as_written(folder: Path, file_names: Sequence[str]) -> dict[str, str]:
    """Existing file of every name that exists as it is written. Each folder is listed once, which is quick."""
    listed: dict[str, set[str]] = {}
    located = {}
    for name in file_names:
        parent, _, base = name.rpartition("/")
        if parent not in listed:
            listed[parent] = _files_in(os.path.join(folder, f"{parent}/" if name.startswith("/") else parent))
        if base in listed[parent]:
            inside = name if _is_tidy(name) else path_inside(folder, name)
            if inside is not None:
                located[name] = inside
    return located


def _files_in(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if is_file(entry)}
    except (OSError, ValueError):
        return set()


def leads_out(name: str) -> bool:
    """Whether a name may lead out of the folder that it is relative to."""
    return not _is_tidy(name) and (os.path.isabs(name) or ".." in name.replace("\\", "/").split("/"))


def _is_tidy(name: str) -> bool:
    return not name.startswith(("/", ".")) and "/." not in name and "//" not in name and "\\" not in name


def path_inside(folder: str | Path, name: str) -> str | None:
    """The name of an existing file without detours, relative to the folder; None if it is not below that.

    Links in the folder may lead anywhere, but '..' behind one does not.
    """
    for resolved in (os.path.abspath, os.path.realpath):
        path, own = (Path(resolved(each)) for each in (os.path.join(folder, name), folder))
        if path.is_relative_to(own) and os.path.isfile(path):
            return path.relative_to(own).as_posix()
    return None


def _is_same(folder: Path, written: str, name: str) -> bool:
    """Whether a written name agrees with the path of a file, as far as both reach from the folder upwards."""
    wanted, own = loose_name(plain_name(written)), loose_name(name)
    if os.path.splitext(wanted)[1] not in IMAGE_SUFFIXES:  # written without suffix
        own = os.path.splitext(own)[0]
    above = loose_name(plain_name(str(folder.absolute())))
    return wanted == own or (wanted.endswith(f"/{own}") and f"/{above}/{own}".endswith(f"/{wanted}"))


def _check_one_to_one(source: Path, folder: Path, located: Mapping[str, str]) -> None:
    """Checks that different names have different files, unless only their spelling differs."""
    named: dict[str, tuple[str, str]] = {}
    for written, name in located.items():
        meaning = name if _is_same(folder, written, name) else loose_name(plain_name(written))
        first, meant = named.setdefault(name, (written, meaning))
        if meant != meaning:
            raise DataError(
                f"{source}: '{first}' and '{written}' would both be the file '{name}' in {folder}; keep images of the "
                f"same name in folders, named as in the annotations, or correct the names"
            )


def _spellings(folder: Path, file_name: str) -> Iterator[str]:
    backslashes = file_name.replace("\\", "/").strip()
    plain = plain_name(file_name)
    names = [backslashes, plain]
    parts = plain.split("/")
    if backslashes.startswith("/") or backslashes[1:3] == ":/":  # a path of another machine
        names.append(parts[-1])
    elif len(parts) > 1 and parts[0] == folder.name:
        names.append("/".join(parts[1:]))
    for name in names:
        for form in (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)):
            stem, suffix = os.path.splitext(form)
            yield form
            if suffix.lower() in IMAGE_SUFFIXES:
                yield from (stem + suffix.lower(), stem + suffix.upper())
            else:
                yield from (form + ending for ending in IMAGE_SUFFIXES)
                yield from (form + ending.upper() for ending in IMAGE_SUFFIXES)
