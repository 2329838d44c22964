"""Finding the image files that an annotation file names, in whatever spelling.

Reading them is in `data/images.py`; where the folders are is in `location.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from effdet.data.images import IMAGE_SUFFIXES
from effdet.errors import DataError


def find_images(source: Path, folder: Path, file_names: Sequence[str]) -> list[str]:
    """The file names in the spelling that exists, relative to `folder` if they are in it.

    Raises:
        DataError: images are missing.
    """
    existing, missing = [], []
    for name in file_names:
        path = find_image(folder, name)
        if path is None:
            missing.append(name)
        else:
            existing.append(str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path))
    if missing:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(
            f"{source}: {len(missing)} of {len(file_names)} images do not exist in {folder}: {some}; "
            f"correct the image folder, or remove the images from the annotations"
        )
    return existing


def find_image(folder: Path, file_name: str) -> Path | None:
    """Path of the image that an annotation calls `file_name`, or None.

    Tried besides the name as written: backslashes, %20 and the like, a path from another machine, the name of `folder`
    in front, a suffix in the wrong case or none at all.
    """
    plain = os.path.join(folder, file_name)
    if os.path.isfile(plain):
        return Path(plain)
    for spelling in dict.fromkeys(_spellings(folder, file_name)):
        path = folder / spelling
        if os.path.isfile(path):  # False for names that are too long for the system, where Path.is_file raises
            return path
    return None


def _spellings(folder: Path, file_name: str) -> Iterator[str]:
    for name in dict.fromkeys([file_name.replace("\\", "/"), unquote(file_name).replace("\\", "/")]):
        names = [name]
        parts = PurePosixPath(name).parts
        if name.startswith("/") or name[1:3] == ":/":  # a path of another machine
            names.append(parts[-1])
        elif len(parts) > 1 and parts[0] == folder.name:
            names.append("/".join(parts[1:]))
        for candidate in names:
            stem, suffix = os.path.splitext(candidate)
            yield candidate
            if suffix.lower() in IMAGE_SUFFIXES:
                yield from (stem + suffix.lower(), stem + suffix.upper())
            else:
                yield from (candidate + ending for ending in IMAGE_SUFFIXES)
                yield from (candidate + ending.upper() for ending in IMAGE_SUFFIXES)
