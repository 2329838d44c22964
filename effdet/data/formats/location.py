"""Where the files of a split are: paths given in the recipe, or the usual ones below `data.root`.

Every missing file is named together with the setting that gives its path. What is in the files is read beside.
"""

from __future__ import annotations

from pathlib import Path

from effdet.config import DataConfig, SplitConfig
from effdet.errors import DataError
from effdet.types import Part


def split_section(data: DataConfig, split: Part) -> SplitConfig:
    """The section of the recipe about a split.

    Raises:
        DataError: the recipe has no such split.
    """
    section = data.train if split == "train" else data.val
    if section is None:
        raise DataError("the data set has no validation split: data.val is null; set data.val.split=... to name one")
    return section


def root_folder(data: DataConfig, given: Path | None, settings: str) -> Path | None:
    """Folder of the data set; None only if the path `given`, one of `settings`, replaces it.

    Raises:
        DataError: neither is given, or there is no such folder.
    """
    if data.root is None:
        if given is None:
            raise DataError(f"no data set is given: set data.root=FOLDER, or {settings}")
        return None
    root = data.root.expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.root=... to the folder of the data set")
    return root


def locate(given: Path | None, root: Path | None, usual: str) -> Path | None:
    """The path given, as it stands or below the root; else the usual one below the root; None without either."""
    if given is None:
        return None if root is None else root / usual
    path = given.expanduser()
    return root / path if root is not None and not path.exists() and (root / path).exists() else path


def require_folder(path: Path | None, what: str, settings: str) -> Path:
    """The path, if it is a folder.

    Raises:
        DataError: it is none; the message says what was expected there and which settings give its path.
    """
    if path is None or not path.is_dir():
        raise _missing(path, what, settings)
    return path


def require_file(path: Path | None, what: str, settings: str) -> Path:
    """The path, if it is a file; see `require_folder`."""
    if path is None or not path.is_file():
        raise _missing(path, what, settings)
    return path


def _missing(path: Path | None, what: str, settings: str) -> DataError:
    where = f"{path}: no such {what}" if path is not None else f"no {what} is given"
    return DataError(f"{where}; set {settings}, or data.root=... to the folder of the data set")
