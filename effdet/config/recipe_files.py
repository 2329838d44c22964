"""Where recipe files are: those that come with the package by their bare names, and those of the user by their paths.

Reading a file into a recipe is in `loading.py`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from effdet.errors import ConfigError
from effdet.plain_data import shortened

_SUFFIX = ".yaml"
_LONGEST = 1000  # characters of a path in a message


def recipes_folder() -> Path:
    """The folder of the recipes that come with the package.

    An installed package has them inside. A clone has them in configs/, beside the package.
    """
    package = Path(__file__).resolve().parent.parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def list_recipes() -> list[str]:
    """The names of the recipes that come with the package, such as lite0 and classification/b0."""
    return list(_bundled())


def find_recipe(name: str | Path, folder: Path | None = None) -> Path:
    """The file of a recipe: a file of that path, or else a recipe of the package by its name.

    Args:
        name: a path, or a name such as lite0, lite0.yaml, configs/lite0.yaml or classification/b0.
        folder: where a relative path starts; None for the current folder.

    Raises:
        ConfigError: there is no such recipe; the message has the nearest name and lists the recipes that exist.
    """
    path = Path(name) if folder is None else folder / name
    if os.path.isfile(path):
        return path
    if not Path(name).is_absolute():
        bundled = _bundled().get(_bare(name))
        if bundled is not None:
            return bundled
    raise ConfigError(_no_such_recipe(Path(name), path))


def nearest_recipes(name: str) -> list[str]:
    """The recipes of the package whose names are similar to a name, which may be that of a model; best first."""
    word = re.sub(r"^efficient(?:det|net)_?", "", _bare(name).lower())
    names = list_recipes()
    model = re.match("efficient(det|net)", name.lower())
    if model:
        names = [other for other in names if other.startswith("classification/") == (model[1] == "net")]
    same = [other for other in names if word in (other, other.rpartition("/")[2])]
    return same or _similar(word, names)


def _no_such_recipe(name: Path, path: Path) -> str:
    """The message of a recipe that does not exist."""
    own = sorted(file.name for file in path.parent.glob(f"*{_SUFFIX}")) if os.path.isdir(path.parent) else []
    near = [str(path.parent / other) for other in _similar(path.name, own)]
    near = near or ([] if name.is_absolute() else nearest_recipes(str(name)))
    if os.path.isdir(path):
        return f"{path}: expected a recipe, got a folder; a data set is given as data.root={path}"
    sentence = f"{shortened(str(path), _LONGEST)}: no such recipe; "
    if near:
        sentence += f"did you mean {' or '.join(near)}? "
    if own and path.parent.resolve() != recipes_folder():
        sentence += f"{path.parent.resolve()} has {', '.join(own)}; "
    return f"{sentence}recipes that come with effdet: {_listing(list_recipes())}"


def _listing(names: Iterable[str]) -> str:
    """Names in a line, grouped by folder."""
    groups: dict[str, list[str]] = {}
    for name in names:
        folder, _, own = name.rpartition("/")
        groups.setdefault(folder and f"{folder}/", []).append(own)
    return "; ".join(f"{folder}{{{','.join(own)}}}" if folder else ", ".join(own) for folder, own in groups.items())


def _similar(word: str, names: Iterable[str]) -> list[str]:
    """The names that are similar to a word, at most three, best first."""
    bare = {name: name.removesuffix(_SUFFIX) for name in names}
    near = difflib.get_close_matches(word.removesuffix(_SUFFIX), bare.values(), n=2, cutoff=0.6)
    return [name for similar in near for name, other in bare.items() if other == similar]


def _bundled() -> dict[str, Path]:
    """The recipes of the package by name: those of detectors first."""
    folder = recipes_folder()
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob(f"*{_SUFFIX}")}
    return dict(sorted(files.items(), key=lambda item: ("/" in item[0], _natural(item[0]))))


def _bare(name: str | Path) -> str:
    """A name without the folder configs/ in front and without its suffix."""
    return Path(name).as_posix().removeprefix("configs/").removesuffix(_SUFFIX)


def _natural(name: str) -> list[tuple[str, int]]:
    """A key that sorts d2 before d10."""
    return [(text, int(number or 0)) for text, number in re.findall(r"(\D+)(\d*)", name)]
