"""Names of files, folders and classes that are no plain text, and pipes, devices and links in the place of files.

Inputs of predictions are searched and read, data sets are read, checked and written again in every format.
"""

from __future__ import annotations

import os
import random
import string
from collections.abc import Callable, Mapping
from pathlib import Path

from effdet.config import ClassificationData, DataConfig, DetectionData
from effdet.data.check import check_data
from effdet.data.convert import write_data_set
from effdet.data.data_set import read_data_set
from effdet.data.formats.table import UNKNOWN_SIZE
from effdet.data.formats.yolo_labels import REPEATED
from effdet.data.image_table import ImageTable
from effdet.errors import DataError
from effdet.inference.sources import open_sources, read_frames

from .border import MARK, Border, damages
from .scenes import Picture, draw_scene, encoded, write_coco, write_images
from .sound_tables import check_boxes, check_labels

_NAMES = (
    *(
        b"\xff\xfe",
        b"a\xe9",
        b"\x1b[31m",
        b"a\nb",
        b"\r",
        b"\x7f",
        b"-rf",
        b"=1+1",
        b"@x",
        b"[bold]",
        b"<b>",
        b"$x$",
        b"~root",
    ),
    *(
        b"%20",
        b"a b ",
        b" a",
        b"*",
        b"[a]",
        b"?",
        b"{x}",
        b"con",
        b"nul.",
        b"..a",
        b"a..",
        b"'",
        b'"',
        b"\\",
        b"\\..\\x",
        b"#",
    ),
    *(
        "\u202eabc".encode(),
        "e\u0301".encode(),
        "\u00e9".encode(),
        "\U0001f600".encode(),
        b"x" * 251,
        b"9" * 200,
        b"a" * 60,
    ),
)
_SPECIAL = ("pipe", "loop", "circle", "device", "nothing", "folder", "secret", "empty", "text", "deep")
_GLOBS = ("*", "**/*", "**", "*/*.png", "[a-z]*", "?*.png", "**/**/*.png", "*.png", "[!a]*", "{a,b}*", "*/../*")


def _hostile_name(rng: random.Random) -> str:
    name = os.fsdecode(rng.choice(_NAMES))
    return name if rng.random() < 0.7 else name[:100] + rng.choice(string.ascii_letters)


def _special(rng: random.Random, path: Path) -> None:
    """Puts something else than a regular file of pixels in a place."""
    kind = rng.choice(_SPECIAL)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind in ("loop", "circle", "device", "nothing", "secret"):
        targets = {
            "loop": path.name,
            "circle": "..",
            "device": "/dev/zero",
            "nothing": "not there",
            "secret": "/etc/passwd",
        }
        path.symlink_to(targets[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "deep":
        (path / "/".join(["d"] * 130)).mkdir(parents=True)
    else:
        path.write_bytes(b"" if kind == "empty" else b"text\n")


def _put(rng: random.Random, folder: Path, special: bool = True) -> None:
    """Adds an image of a hostile name, or something special, to a folder."""
    path = folder / f"{_hostile_name(rng)}{rng.choice(('.png', '.png', '.PNG', '.jpg', '', '.txt', '.mp4'))}"
    path = path.with_name(os.fsdecode(os.fsencode(path.name)[:255]))
    if os.path.lexists(path):
        return
    if special and rng.random() < 0.4:
        _special(rng, path)
    else:
        path.write_bytes(encoded((6, 8)))


# Inputs of predictions.


def _make_inputs(rng: random.Random, folder: Path) -> Path:
    root = folder / "inputs"
    root.mkdir()
    (root / "a.png").write_bytes(encoded((6, 8)))
    places = [root]
    for _ in range(2 * damages(rng, folder)):
        _put(rng, rng.choice(places))
        if rng.random() < 0.3:
            inner = rng.choice(places) / os.fsdecode(os.fsencode(_hostile_name(rng))[:200])
            if not os.path.lexists(inner):
                inner.mkdir()
                places.append(inner)
    given = "" if (folder / MARK).exists() else rng.choice(("", "", *_GLOBS))
    (folder / "given").write_text(given)
    return root


def _read_inputs(root: Path) -> None:
    given = (root.parent / "given").read_text()
    sources = open_sources([root / given] if given else [root])
    assert len({source.image_id for source in sources}) == len(sources), "two sources of one id"
    for source in sources:
        assert not source.name.is_absolute(), f"{source.name} is absolute"
        assert ".." not in source.name.parts, f"{source.name} leads out"
    failures: list[DataError] = []
    read = {frame.path for frame in read_frames(sources, failures)}
    assert len(read) + len(failures) >= len(sources), "a source is neither read nor refused"
    if not given:
        held = {
            Path(place, name) for place, _, names in os.walk(root) for name in names if _is_searched(root, place, name)
        }
        known = {source.path for source in sources} | set(sources.passed_over)
        lost = [path for path in held - known if not any(str(path) in str(failure) for failure in sources.failures)]
        assert not lost, f"neither opened nor reported: {lost[:3]}"
    if (root.parent / MARK).exists():
        assert len(read) == 1, f"{len(read)} images"


def _is_searched(root: Path, place: str, name: str) -> bool:
    """Whether a file is neither hidden, nor too deep, nor a link to a folder."""
    parts = Path(place, name).relative_to(root).parts
    return len(parts) < 100 and not any(part.startswith(".") for part in parts) and not os.path.isdir(Path(place, name))


# Data sets.


def _make_data(rng: random.Random, folder: Path) -> Path:
    root = folder / "data"
    (folder / "format").write_text(str(rng.randrange(4)))
    number = damages(rng, folder)
    scene = draw_scene(rng)
    if number and rng.random() < 0.7:
        scene = [_renamed(rng, picture, place) for place, picture in enumerate(scene)]
    if rng.random() < 0.5:
        write_coco(rng, scene, root)
    else:
        for place, picture in enumerate(scene):
            name = ("cat", "dog")[place % 2]
            write_images([picture], root / (f"{_hostile_name(rng)[:80]}{name}" if number > 1 else name))
    for _ in range(number):
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink()]
        folders = sorted({path.parent for path in files})
        if not files:
            break
        if rng.random() < 0.6:
            _put(rng, rng.choice(folders))
        else:
            path = rng.choice(files)
            path.unlink()
            _special(rng, path)
    return root


def _renamed(rng: random.Random, picture: Picture, place: int) -> Picture:
    """A picture under a hostile name, with classes of hostile names."""
    name = os.fsdecode(os.fsencode(_hostile_name(rng))[:240]).encode("utf-8", "replace").decode()
    hostile = _hostile_name(rng).encode("utf-8", "replace").decode()
    renamed = [
        item._replace(name=f"{hostile}{item.name}" if rng.random() < 0.3 else item.name) for item in picture.objects
    ]
    return Picture(f"{place}{name.strip()}.png", picture.size, renamed)


def _section(root: Path) -> DataConfig:
    return DetectionData(root=root) if (root / "instances.json").is_file() else ClassificationData(root=root)


def _read_data(root: Path) -> None:
    section = _section(root)
    check_data(section).to_dict()
    data_set = read_data_set(section)
    for table in data_set.tables.values():
        check = check_boxes if section.task == "detection" else check_labels
        check(table)
    formats, out = _FORMATS[section.task], root.parent / "written"
    name = formats[int((root.parent / "format").read_text()) % len(formats)]
    write_data_set(out, name, data_set.tables, data_set.names)
    _check_inside(out)
    try:
        again = read_data_set(type(section)(root=out))
    except DataError as error:
        raise AssertionError(f"what is written as {name} cannot be read: {error}") from error
    images, objects = ([_sum(tables, count) for tables in (data_set.tables, again.tables)] for count in (len, _objects))
    assert images[0] == images[1], f"{images[1]} of {images[0]} images after writing as {name}"
    left_out = sum(table.repairs.get(cause, 0) for table in again.tables.values() for cause in (REPEATED, UNKNOWN_SIZE))
    assert objects[0] == objects[1] + left_out, f"{objects[1]} of {objects[0]} objects after writing as {name}"


def _sum(tables: Mapping[str, ImageTable], count: Callable[[ImageTable], int]) -> int:
    return sum(map(count, tables.values()))


def _objects(table: ImageTable) -> int:
    return len(table.labels)


_FORMATS = {"detection": ("coco", "voc", "yolo", "csv"), "classification": ("folders", "csv")}


def _check_inside(folder: Path) -> None:
    """Asserts that a written data set holds regular files alone, so that none of them leads out."""
    for place, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            assert not os.path.islink(os.path.join(place, name)), f"{name!r} is a link"


def _border(name: str, make: Callable[[random.Random, Path], Path], read: Callable[[Path], None]) -> Border:
    return Border(name, make, read, seconds=15.0)


BORDERS = (
    _border("inputs of predictions", _make_inputs, _read_inputs),
    _border("names in data sets", _make_data, _read_data),
)
