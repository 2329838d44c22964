"""The list of validation images that a run saves if they were split off by a rule, and recipes that use it.

The rule is in `splitting.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from effdet.config import Config, ValidationConfig
from effdet.data.image_table import ImageTable
from effdet.files import full_path, write_text

VALIDATION_LIST = "val.txt"  # in the folder of a run
AnyConfig = TypeVar("AnyConfig", bound=Config)


def write_validation_list(folder: Path, table: ImageTable) -> None:
    """Writes the names of validation images to the folder of a run, unless it has a list."""
    if not (folder / VALIDATION_LIST).exists():
        write_text(folder / VALIDATION_LIST, "".join(f"{name}\n" for name in table.file_names))


def with_validation_list(config: Config, folder: Path) -> Config:
    """The recipe of a run whose validation images were split off by a rule, with the list of them in its folder.

    So a resumed run and an evaluation use the same images, even if the data set has grown.
    """
    val = config.data.val
    if val is None or val.file_list is not None:
        return config
    return _with_list(config, folder / VALIDATION_LIST)


def with_saved_list(config: AnyConfig, folder: Path) -> AnyConfig:
    """A recipe with the list of validation images that a run has saved in its folder, if it leaves them to the rule."""
    val, saved = config.data.val, folder / VALIDATION_LIST
    if val is None or not saved.is_file():
        return config
    is_gone = val.file_list is not None and not full_path(val.file_list).exists()
    return _with_list(config, saved) if is_gone or val == type(val)() else config


def _with_list(config: AnyConfig, path: Path) -> AnyConfig:
    data = config.data.model_copy(update={"val": ValidationConfig(file_list=path)})
    return config.model_copy(update={"data": data})
