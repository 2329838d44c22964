"""What describes a YOLO data set: data.yaml or obj.data with its splits, and the files that list class names alone.

The layouts without such a file are in `yolo_layout.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from effdet.data.formats.annotation_files import read_text
from effdet.data.formats.listing import is_split_name
from effdet.errors import DataError
from effdet.plain_data import parse_json, parse_yaml

NAME_FILES = ("classes.txt", "obj.names", "predefined_classes.txt", "_darknet.labels", "notes.json")
_YAML_SUFFIXES = (".yaml", ".yml")
_USUAL = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml", "obj.data")


class YoloDataFile(NamedTuple):
    """Content of data.yaml or obj.data.

    Attributes:
        path: of the file.
        names: class index -> name; empty if the file has none.
        sources: split -> folders of images and lists of images.
        absent: "SPLIT: FOLDER" of the folders and lists that do not exist, as written.
        folder: that the paths in lists are relative to.
        keypoints: whether a line has keypoints after its box.
        num_classes: as the file says, None if it does not.
    """

    path: Path
    names: dict[int, str]
    sources: dict[str, list[Path]]
    absent: list[str]
    folder: Path
    keypoints: bool
    num_classes: int | None


def find_data_file(folder: Path) -> Path | None:
    """The file in a folder that describes a YOLO data set, None if there is none.

    Raises:
        DataError: there are several and none has a usual name, or data.yaml is damaged.
    """
    files = [file for name in _USUAL if (file := folder / name).is_file() and _describes(file)]
    if not files:
        others = (file for file in sorted(folder.glob("[!.]*")) if file.suffix.lower() in (*_YAML_SUFFIXES, ".data"))
        files = [file for file in others if file.is_file() and _describes(file)]
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise DataError(f"{folder}: several YOLO data sets: {names}; set data.train.annotations to one of them")
    return files[0] if files else None


def read_data_file(path: Path) -> YoloDataFile:
    """Content of data.yaml or obj.data.

    Raises:
        DataError: the file is damaged, or two splits would be the same folder.
    """
    content = _read(path)
    written = {key: _texts(value) for key, value in content.items() if is_split_name(key)}
    base = content.get("path")
    base = base if isinstance(base, str) else ""
    sources: dict[str, list[Path]] = {}
    absent: list[str] = []
    first_of: dict[Path, tuple[str, bool]] = {}
    for split, texts in written.items():
        for text in texts:
            found, exact = locate(path, path.parent, text, base)
            if found is None:
                absent.append(f"{split}: {text}")
                continue
            other, other_exact = first_of.setdefault(found.resolve(), (text, exact))
            if other != text and not (exact and other_exact):
                raise DataError(f"{path}: '{other}' and '{text}' would both be {found}; write the paths that exist")
            sources.setdefault(split, []).append(found)
    folder = path.parent / base
    return YoloDataFile(
        path=path,
        names=_names(path, content.get("names")),
        sources=sources,
        absent=absent,
        folder=folder if base and os.path.isdir(folder) else path.parent,
        keypoints=bool(content.get("kpt_shape")),
        num_classes=_integer(content.get("nc", content.get("classes"))),
    )


def read_names(path: Path) -> dict[int, str]:
    """Class index -> name of a file of class names: a name in each line, or Label Studio's notes.json.

    Raises:
        DataError: the file is damaged.
    """
    text = read_text(path, "file")
    if path.suffix.lower() == ".json":
        try:
            rows = parse_json(text)["categories"]
            return {int(row["id"]): str(row["name"]) for row in rows}
        except (ValueError, KeyError, TypeError, OverflowError):
            raise DataError(f"{path}: expected 'categories' with the id and name of each class") from None
    lines = [line.strip() for line in text.rstrip().splitlines()]
    if "" in lines:
        raise DataError(f"{path}: line {lines.index('') + 1} is empty; expected a class name in each line")
    return dict(enumerate(lines))


def locate(source: Path, folder: Path, text: str, base: str = "") -> tuple[Path | None, bool]:
    """The file or folder that a path in a description stands for; and whether it is there as written.

    Paths from other machines and those of Roboflow (../train/images beside data.yaml) are located by their longest end
    that exists.

    Args:
        source: file that holds the path, for messages.
        folder: folder of that file.
        text: the path.
        base: folder that the path may be relative to as well.
    """
    text = text.strip().replace("\\", "/")
    written = next((path for path in (folder / base / text, folder / text) if os.path.exists(path)), None)
    parts = [part for part in PurePosixPath(f"{base}/{text}").parts if part not in ("..", ".", "/")]
    ends = (folder.joinpath(*parts[start:]) for start in range(len(parts)))
    by_end = next((path for path in ends if os.path.exists(path)), None)
    if written is None:
        return by_end, False
    if text.startswith("../") and by_end is not None and not by_end.samefile(written):
        raise DataError(f"{source}: '{text}' may be {written.resolve()} or {by_end}; write the full path")
    return written, True


def _describes(path: Path) -> bool:
    try:
        content = _read(path)
    except DataError:
        if path.name in _USUAL:
            raise
        return False
    keys = ("names", "nc") if path.suffix.lower() in _YAML_SUFFIXES else ("names", "classes")
    return any(key in content for key in keys) and any(map(is_split_name, content))


def _read(path: Path) -> dict[str, Any]:
    text = read_text(path, "file")
    if path.suffix.lower() not in _YAML_SUFFIXES:
        pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line and not line.lstrip().startswith("#"))
        return {key.strip(): value.strip() for key, value in pairs}
    try:
        # Names stay texts as written: YAML would read the class 'no' as False and '007' as 7.
        content = parse_yaml(text, as_texts=True)
    except ValueError as error:
        raise DataError(f"{path}: not valid YAML: {error}; write the file again") from None
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def _names(path: Path, value: Any) -> dict[int, str]:
    """Class index -> name: of a list, of a mapping from indices, or of a file with a name in each line."""
    if isinstance(value, list):
        return {index: str(name) for index, name in enumerate(value)}
    if isinstance(value, dict):
        indices = [_integer(key) for key in value]
        if None in indices:
            key = list(value)[indices.index(None)]
            raise DataError(f"{path}: names has the key '{key}'; expected class indices such as 0")
        return {index: str(name) for index, name in zip(indices, value.values(), strict=True) if index is not None}
    if not value:
        return {}
    file, _ = locate(path, path.parent, str(value))
    if file is None or not file.is_file() or not file.resolve().is_relative_to(path.parent.resolve()):
        raise DataError(
            f"{path}: names is '{value}'; expected a list of class names, or a file below "
            f"{path.parent} with a name per line"
        )
    return read_names(file)


def _texts(value: Any) -> list[str]:
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    return [text.strip() for text in values if isinstance(text, str) and text.strip() not in ("", "null", "~")]


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
