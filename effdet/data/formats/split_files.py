"""Where the files of a split are, and which splits a data set has to train and to validate on.

Each format looks for its own files in `find_FORMAT`; which format a folder has is decided in `location.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from effdet.types import Part

WHOLE = "all"  # name of the only split of a data set without splits
# Names of splits, best first; years may follow, as in train2017.
_NAMES: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training", "trainval", "default"),
    "val": ("val", "valid", "validation", "dev"),
}
_ENDING = r"([-_ ]?set)?[-_]?\d*"  # as in training_set and train2017
_OTHERS = ("test", "testing", "eval", "evaluation", "test-dev", "test_dev")


class SplitFiles(NamedTuple):
    """Where one split of a data set is.

    Attributes:
        annotations: file or folder with the labels; of class folders, the folder that holds them.
        images: folder that the names of the images are relative to.
        file_list: text file with the images of the split; None for all.
        member: name of the split in an `annotations` file that holds several; None if it holds one.
    """

    annotations: Path
    images: Path
    file_list: Path | None = None
    member: str | None = None


def usual_split(splits: Mapping[str, object], part: Part) -> str | None:
    """The name among `splits` that is for training or for validation; None if none is.

    A single split is for training, unless its name says something else. Of train2014 and train2017 the latest is.
    """
    for name in _NAMES[part]:
        fitting = [split for split in splits if re.fullmatch(name + _ENDING, split.lower())]
        if fitting:
            return max(fitting, key=lambda split: (split.lower() == name, split))
    if part == "train":
        if WHOLE in splits:
            return WHOLE
        only = next(iter(splits)) if len(splits) == 1 else None
        if only is not None and not _has_another_use(only):
            return only
    return None


def _has_another_use(split: str) -> bool:
    names = "|".join((*_NAMES["val"], *_OTHERS))
    return re.fullmatch(f"({names}){_ENDING}", split.lower()) is not None
