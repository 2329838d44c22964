"""Annotation files of every format, damaged: COCO, VOC, YOLO, CSV, class folders and lists of images.

What is drawn stands in `scenes.py`, what must hold afterwards in `sound_tables.py`, how files are counted without the
readers in `counting.py`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from .border import Border, damages
from .counting import check_coco_count, check_csv_count, check_list_count, check_voc_count, check_yolo_count
from .mutate import hostile_value, mutate_bytes, mutate_text, mutate_tree, write_text
from .scenes import Picture, draw_scene, write_coco, write_images, write_truth
from .sound_tables import check_truth, read_classification, read_detection

_XML_TOKENS = (
    "<object>",
    "</object>",
    "<bndbox/>",
    "<!ENTITY a 'b'>",
    "<xmin>nan</xmin>",
    "<name/>",
    "&amp;",
    "<?xml?>",
)
_YOLO_TOKENS = ("0 0.5 0.5 0.1 0.1\n", "nan", "-1", "0 1 1 1\n", "1e308", "0.5,", "0 0 0 1 0 1 1\n", "99 ", "\n\n")
_YAML_TOKENS = (
    "names: ",
    "path: /\n",
    "train: ../..\n",
    "nc: 99\n",
    "kpt_shape: [17, 3]\n",
    "- ",
    "&a [*a]",
    "!!python/x ",
)
_CSV_TOKENS = (",", '"', ";", "\t", "\n\n", "nan", "[[1,2,3,4]]", "=1", "''", ",,,,\n", "train", "#")
_ENCODINGS = ("utf-16", "utf-8-sig", "utf-32", "latin-1", "cp1252", "shift_jis")

Writer = Callable[[random.Random, list[Picture], Path], None]


def _data_set(write: Writer, damage: Callable[[random.Random, Path], None]) -> Callable[[random.Random, Path], Path]:
    """The function that writes a data set into the folder of a case, and damages it."""

    def make(rng: random.Random, folder: Path) -> Path:
        root = folder / "data"
        scene = draw_scene(rng)
        write(rng, scene, root)
        number = damages(rng, folder)
        if not number:
            write_truth(scene, root)
        for _ in range(number):
            damage(rng, root)
        return root

    return make


def _damage_text(*tokens: str) -> Callable[[random.Random, Path], None]:
    """The function that damages one of the text files of a data set."""

    def damage(rng: random.Random, root: Path) -> None:
        path = rng.choice(sorted(path for path in root.rglob("*") if path.suffix not in ("", ".png")))
        data, kind = path.read_bytes(), rng.random()
        if kind < 0.75:
            write_text(path, mutate_text(rng, data.decode("utf-8", "replace"), tokens))
        elif kind < 0.95:
            path.write_bytes(mutate_bytes(rng, data, [token.encode() for token in tokens]))
        else:
            path.write_bytes(data.decode("utf-8", "replace").encode(rng.choice(_ENCODINGS), "replace"))

    return damage


# COCO.


def _damage_coco(rng: random.Random, root: Path) -> None:
    path = root / "instances.json"
    kind = rng.random()
    if kind < 0.2:
        path.write_bytes(mutate_bytes(rng, path.read_bytes(), [b"NaN", b'"', b"[", b"}", b"\\ud800"]))
        return
    if kind < 0.3:
        write_text(path, mutate_text(rng, path.read_text(errors="replace")))
        return
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    tree = _damage_rows(rng, tree) if kind < 0.6 and isinstance(tree, dict) else mutate_tree(rng, tree)
    text = json.dumps(tree, ensure_ascii=rng.random() < 0.8)
    write_text(path, text)


def _damage_rows(rng: random.Random, tree: dict[str, Any]) -> dict[str, Any]:
    """Changes a value of one image, object or category; of a box most often a number."""
    rows = tree.get(rng.choice(("images", "annotations", "annotations", "categories")))
    if not isinstance(rows, list) or not rows or not isinstance(row := rng.choice(rows), dict) or not row:
        return tree
    box = row.get("bbox")
    if isinstance(box, list) and box and rng.random() < 0.5:
        box[rng.randrange(len(box))] = rng.choice((0, -5, 1e-9, 1e9, 3e38, 1e39, float("nan"), "3", None, 41, -0.4))
    else:
        row[rng.choice(sorted(row, key=str))] = hostile_value(rng)
    return tree


def _read_coco(root: Path) -> None:
    tables = read_detection(root)
    check_truth(tables, root)
    check_coco_count(tables, root)


# Pascal VOC.


def _write_voc(rng: random.Random, scene: list[Picture], root: Path) -> None:
    flat = rng.random() < 0.5
    folder = root if flat else root / "Annotations"
    write_images(scene, root if flat else root / "JPEGImages")
    folder.mkdir(parents=True, exist_ok=True)
    for picture in scene:
        (folder / f"{picture.name[:-4]}.xml").write_text(_xml(picture))
    if not flat and rng.random() < 0.5:
        lists = root / "ImageSets" / "Main"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("".join(f"{picture.name[:-4]}\n" for picture in scene))


def _xml(picture: Picture) -> str:
    height, width = picture.size
    lines = [f"<filename>{escape(picture.name)}</filename>"]
    lines.append(f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    for name, (left, top, right, bottom) in picture.objects:
        box = f"<xmin>{left}</xmin><ymin>{top}</ymin><xmax>{right}</xmax><ymax>{bottom}</ymax>"
        lines.append(f"<object><name>{escape(name)}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    return "<annotation>\n" + "\n".join(lines) + "\n</annotation>\n"


def _read_voc(root: Path) -> None:
    tables = read_detection(root)
    check_truth(tables, root)
    check_voc_count(tables, root)


# YOLO.


def _write_yolo(rng: random.Random, scene: list[Picture], root: Path) -> None:
    write_images(scene, root / "images" / "train")
    labels = root / "labels" / "train"
    labels.mkdir(parents=True)
    names = sorted({item.name for picture in scene for item in picture.objects})
    for picture in scene:
        height, width = picture.size
        lines = []
        for item in dict.fromkeys(picture.objects):  # a repeated line is left out
            left, top, right, bottom = item.box
            center = (left + right) / 2 / width, (top + bottom) / 2 / height
            size = (right - left) / width, (bottom - top) / height
            lines.append(" ".join(map(repr, (names.index(item.name), *center, *size))))
        (labels / f"{picture.name[:-4]}.txt").write_text("\n".join(lines))
    if rng.random() < 0.7:
        listed = "".join(f"- {json.dumps(name)}\n" for name in names)
        (root / "data.yaml").write_text(f"train: images/train\nnc: {len(names)}\nnames:\n{listed}")
    else:
        (root / "classes.txt").write_text("\n".join(names))


def _read_yolo(root: Path) -> None:
    tables = read_detection(root)
    check_truth(tables, root)
    check_yolo_count(tables, root)


# CSV.


def _write_csv(rng: random.Random, scene: list[Picture], root: Path) -> None:
    write_images(scene, root)
    separator = rng.choice((",", ",", ";"))
    lines = [["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"]]
    for picture in scene:
        height, width = picture.size
        for item in picture.objects:
            lines.append([picture.name, str(width), str(height), item.name, *map(str, item.box)])
        if not picture.objects:
            lines.append([picture.name, str(width), str(height), *[""] * 5])
    (root / "labels.csv").write_text("".join(separator.join(line) + "\n" for line in lines))


def _write_lists_csv(rng: random.Random, scene: list[Picture], root: Path) -> None:
    """FiftyOne's form: a line for each image with a list of classes and a list of boxes as fractions."""
    write_images(scene, root)
    lines = ["filepath,ground_truth.detections.label,ground_truth.detections.bounding_box\n"]
    for picture in scene:
        height, width = picture.size
        boxes = [
            [left / width, top / height, (right - left) / width, (bottom - top) / height]
            for _, (left, top, right, bottom) in picture.objects
        ]
        quoted = [json.dumps(value).replace('"', '""') for value in ([item.name for item in picture.objects], boxes)]
        lines.append(f'{picture.name},"{quoted[0]}","{quoted[1]}"\n')
    (root / "boxes.csv").write_text("".join(lines))


def _read_csv(root: Path) -> None:
    tables = read_detection(root)
    check_truth(tables, root)
    check_csv_count(tables, root)


def _read_lists_csv(root: Path) -> None:
    check_truth(read_detection(root), root)


# Images with a class each.


def _write_image_list(rng: random.Random, scene: list[Picture], root: Path) -> None:
    write_images(scene, root / "images")
    names = ["cat", "dog"]
    lines = [f"images/{picture.name},{names[number % 2]}\n" for number, picture in enumerate(scene)]
    (root / "labels.csv").write_text("image,label\n" + "".join(lines))


def _read_image_list(root: Path) -> None:
    check_list_count(read_classification(root), root)


BORDERS = (
    Border("coco", _data_set(write_coco, _damage_coco), _read_coco),
    Border("voc", _data_set(_write_voc, _damage_text(*_XML_TOKENS)), _read_voc),
    Border("yolo", _data_set(_write_yolo, _damage_text(*_YOLO_TOKENS, *_YAML_TOKENS)), _read_yolo),
    Border("boxes csv", _data_set(_write_csv, _damage_text(*_CSV_TOKENS)), _read_csv),
    Border("boxes csv with lists", _data_set(_write_lists_csv, _damage_text(*_CSV_TOKENS, "[", "]")), _read_lists_csv),
    Border("image list", _data_set(_write_image_list, _damage_text(*_CSV_TOKENS)), _read_image_list),
)
