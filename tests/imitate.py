"""Writes a data set in the layouts that other tools write, without the package's own writers.

  python tests/imitate.py data/bccd roboflow_coco data/imitation

Names of files and folders, keys and orders of columns are those of the tools' exports.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape


class Picture(NamedTuple):
    """An image file with its size and its objects (class name, x1, y1, x2, y2) in pixels."""

    path: Path
    width: int
    height: int
    objects: list


def pictures(table):
    """The pictures of a table."""
    names = [table.label_map.names[label] for label in table.labels.tolist()]
    boxes = table.boxes.tolist()
    return [
        Picture(table.path(row), width, height, [(names[i], *boxes[i]) for i in range(*table.offsets[row : row + 2])])
        for row, (height, width) in enumerate(table.sizes.tolist())
    ]


def place(picture, target):
    """The image at another path."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(picture.path, target)
    except OSError:
        shutil.copyfile(picture.path, target)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def number(value):
    """Digits that give the same float32 again."""
    return f"{value:.9g}"


def with_hash(name):
    """Roboflow's name of an image."""
    stem, suffix = os.path.splitext(name)
    return f"{stem}_{suffix[1:]}.rf.{hashlib.md5(name.encode()).hexdigest()}{suffix}"


ROBOFLOW = {"train": "train", "val": "valid", "test": "test"}


# COCO


def coco(images, classes, first_id=1, group=None, **more):
    """A COCO file; `images` are (file name, picture)."""
    categories = [
        {"id": first_id + row, "name": name, "supercategory": group or ""} for row, name in enumerate(classes)
    ]
    if group:
        categories.insert(0, {"id": 0, "name": group, "supercategory": "none"})
    annotations = []
    for image_id, (_, picture) in enumerate(images):
        for name, x1, y1, x2, y2 in picture.objects:
            box = [x1, y1, x2 - x1, y2 - y1]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": image_id,
                    "category_id": first_id + classes.index(name),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "segmentation": [],
                    "iscrowd": 0,
                    **more,
                }
            )
    rows = [
        {"id": image_id, "file_name": name, "width": picture.width, "height": picture.height, "license": 1}
        for image_id, (name, picture) in enumerate(images)
    ]
    content = {"info": {"year": "2024"}, "licenses": [{"id": 1, "name": "", "url": ""}]}
    return json.dumps({**content, "categories": categories, "images": rows, "annotations": annotations})


def downloaded_coco(folder, splits, classes):
    for split, images in splits.items():
        for picture in images:
            place(picture, folder / f"{split}2017" / picture.path.name)
        named = [(picture.path.name, picture) for picture in images]
        write(folder / "annotations" / f"instances_{split}2017.json", coco(named, classes))


def roboflow_coco(folder, splits, classes):
    for split, images in splits.items():
        named = [(with_hash(picture.path.name), picture) for picture in images]
        for name, picture in named:
            place(picture, folder / ROBOFLOW[split] / name)
        write(folder / ROBOFLOW[split] / "_annotations.coco.json", coco(named, classes, group="things"))
    write(folder / "README.dataset.txt", "# things\n")


def cvat_coco(folder, splits, classes):
    more = {"attributes": {"occluded": False, "rotation": 0.0}}
    for split, images in splits.items():
        for picture in images:
            place(picture, folder / "images" / split / picture.path.name)
        named = [(picture.path.name, picture) for picture in images]
        write(folder / "annotations" / f"instances_{split}.json", coco(named, classes, **more))


def label_studio_coco(folder, splits, classes):
    (images,) = splits.values()
    for picture in images:
        place(picture, folder / "images" / picture.path.name)
    named = [(rf"..\..\label-studio\data\media\upload\3\{picture.path.name}", picture) for picture in images]
    write(folder / "result.json", coco(named, classes, first_id=0, ignore=0))


def fiftyone_coco(folder, splits, classes):
    (images,) = splits.values()
    for picture in images:
        place(picture, folder / "data" / picture.path.name)
    write(folder / "labels.json", coco([(picture.path.name, picture) for picture in images], classes, first_id=0))


# Pascal VOC


def voc_xml(picture, name, form=number, folder="", extra=""):
    """A VOC file."""
    objects = "".join(
        f"<object><name>{escape(label)}</name>{extra}<bndbox><xmin>{form(x1)}</xmin><ymin>{form(y1)}</ymin>"
        f"<xmax>{form(x2)}</xmax><ymax>{form(y2)}</ymax></bndbox></object>"
        for label, x1, y1, x2, y2 in picture.objects
    )
    size = f"<size><width>{picture.width}</width><height>{picture.height}</height><depth>3</depth></size>"
    return f"<annotation><folder>{folder}</folder><filename>{escape(name)}</filename>{size}{objects}</annotation>"


def whole(value):
    return str(round(value))


def cvat_voc(folder, splits, classes):
    for split, images in splits.items():
        lines = []
        for number_, picture in enumerate(images):
            inner = f"camera {number_ % 2}/{picture.path.name}"
            stem = os.path.splitext(inner)[0]
            place(picture, folder / "JPEGImages" / inner)
            write(folder / "Annotations" / f"{stem}.xml", voc_xml(picture, inner, lambda value: f"{value:.2f}"))
            lines.append(stem)
        write(folder / "ImageSets" / "Main" / f"{split}.txt", "\n".join(lines) + "\n")
    write(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{name}:::\n" for name in classes))


def labelimg_voc(folder, splits, classes):
    (images,) = splits.values()
    for picture in images:
        place(picture, folder / picture.path.name)
        extra = "<pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>"
        xml = voc_xml(picture, picture.path.name, whole, "photos", extra)
        write((folder / picture.path.name).with_suffix(".xml"), xml)
    write(folder / "classes.txt", "".join(f"{name}\n" for name in classes))


def roboflow_voc(folder, splits, classes):
    for split, images in splits.items():
        for picture in images:
            target = folder / ROBOFLOW[split] / with_hash(picture.path.name)
            place(picture, target)
            write(target.with_suffix(".xml"), voc_xml(picture, target.name, whole))


def datumaro_voc(folder, splits, classes):
    for split, images in splits.items():
        for picture in images:
            place(picture, folder / "JPEGImages" / picture.path.name)
            extra = "<difficult>0</difficult><truncated>0</truncated><occluded>0</occluded>"
            xml = voc_xml(picture, picture.path.name, folder="", extra=extra)
            write(folder / "Annotations" / f"{picture.path.stem}.xml", xml)
        lists = folder / "ImageSets" / "Main"
        write(lists / f"{split}.txt", "".join(f"{picture.path.stem}\n" for picture in images))
        for name in classes:
            marks = [(picture.path.stem, any(name == own for own, *_ in picture.objects)) for picture in images]
            lines = "".join(f"{stem} {' 1' if there else '-1'}\n" for stem, there in marks)
            write(lists / f"{name.replace('/', ' ')}_{split}.txt", lines)
    write(folder / "labelmap.txt", "# label:color_rgb:parts:actions\n" + "".join(f"{name}:::\n" for name in classes))


# YOLO


def yolo_lines(picture, classes):
    """A label file of YOLO."""
    lines = []
    for name, x1, y1, x2, y2 in picture.objects:
        sides = picture.width, picture.height, picture.width, picture.height
        values = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        numbers = (value / side for value, side in zip(values, sides, strict=True))
        lines.append(f"{classes.index(name)} {' '.join(f'{value:.6f}' for value in numbers)}\n")
    return "".join(lines)


def roboflow_yolo(folder, splits, classes):
    for split, images in splits.items():
        for picture in images:
            name = with_hash(picture.path.name)
            place(picture, folder / ROBOFLOW[split] / "images" / name)
            write(folder / ROBOFLOW[split] / "labels" / f"{name[:-4]}.txt", yolo_lines(picture, classes).rstrip("\n"))
    places = "".join(f"{split}: ../{ROBOFLOW[split]}/images\n" for split in splits)
    write(folder / "data.yaml", f"{places}\nnc: {len(classes)}\nnames: {classes!r}\n")


def ultralytics_yolo(folder, splits, classes):
    for split, images in splits.items():
        for picture in images:
            place(picture, folder / "images" / split / picture.path.name)
            if picture.objects:  # images without objects have no label file
                write(folder / "labels" / split / f"{picture.path.stem}.txt", yolo_lines(picture, classes))
    names = "".join(f"  {number_}: {json.dumps(name)}\n" for number_, name in enumerate(classes))
    places = "".join(f"{split}: images/{split}\n" for split in splits)
    write(folder / "data.yaml", f"path: ../datasets/things  # dataset root dir\n{places}\nnames:\n{names}")


def cvat_yolo(folder, splits, classes):
    named = {"train": "train", "val": "valid", "test": "test"}
    for split, images in splits.items():
        lines = []
        for picture in images:
            place(picture, folder / f"obj_{named[split]}_data" / picture.path.name)
            path = folder / f"obj_{named[split]}_data" / f"{picture.path.stem}.txt"
            write(path, yolo_lines(picture, classes))
            lines.append(f"data/obj_{named[split]}_data/{picture.path.name}\n")
        write(folder / f"{named[split]}.txt", "".join(lines))
    write(folder / "obj.names", "".join(f"{name}\n" for name in classes))
    places = "".join(f"{named[split]} = data/{named[split]}.txt\n" for split in splits)
    write(folder / "obj.data", f"classes = {len(classes)}\n{places}names = data/obj.names\nbackup = backup/\n")


def label_studio_yolo(folder, splits, classes):
    (images,) = splits.values()
    for picture in images:
        place(picture, folder / "images" / picture.path.name)
        write(folder / "labels" / f"{picture.path.stem}.txt", yolo_lines(picture, classes))
    write(folder / "classes.txt", "".join(f"{name}\n" for name in classes))
    notes = {"categories": [{"id": number_, "name": name} for number_, name in enumerate(classes)]}
    write(folder / "notes.json", json.dumps({**notes, "info": {"year": 2024, "contributor": "Label Studio"}}))


# CSV


def retinanet_csv(folder, splits, classes):
    files = {"train": "annotations.csv", "val": "val_annotations.csv", "test": "test_annotations.csv"}
    for split, images in splits.items():
        rows = []
        for picture in images:
            name = f"images/{picture.path.name}"
            place(picture, folder / name)
            rows += [(name, *map(number, box), label) for label, *box in picture.objects] or [(name, *[""] * 5)]
        write_rows(folder / files[split], rows)
    write_rows(folder / "classes.csv", ((name, number_) for number_, name in enumerate(classes)))


def automl_csv(folder, splits, classes):
    rows = []
    uses = {"train": "TRAIN", "val": "VALIDATION", "test": "TEST"}
    for split, images in splits.items():
        for picture in images:
            place(picture, folder / "images" / picture.path.name)
            path = f"gs://bucket/things/{picture.path.name}"
            sides = picture.width, picture.height, picture.width, picture.height
            for label, *box in picture.objects:
                x1, y1, x2, y2 = (f"{value / side:.9f}" for value, side in zip(box, sides, strict=True))
                rows.append((uses[split], path, label, x1, y1, "", "", x2, y2, "", ""))
            if not picture.objects:
                rows.append((uses[split], path, *[""] * 9))
    write_rows(folder / "import.csv", rows)


def automl_csv_of_four_vertices(folder, splits, classes):
    rows = []
    for split, images in splits.items():
        for picture in images:
            place(picture, folder / picture.path.name)
            sides = picture.width, picture.height, picture.width, picture.height
            for label, *box in picture.objects:
                x1, y1, x2, y2 = (f"{value / side:.9f}" for value, side in zip(box, sides, strict=True))
                use = {"train": "training", "val": "validation", "test": "test"}[split]
                rows.append((use, f"gs://b/{picture.path.name}", label, x1, y1, x2, y1, x2, y2, x1, y2))
    write_rows(folder / "things.csv", rows)


def tensorflow_csv(folder, splits, classes):
    for split, images in splits.items():
        rows = [("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")]
        for picture in images:
            place(picture, folder / "images" / split / picture.path.name)
            size = picture.width, picture.height
            rows += [(picture.path.name, *size, label, *map(number, box)) for label, *box in picture.objects]
        write_rows(folder / "annotations" / f"{split}_labels.csv", rows)


def roboflow_csv(folder, splits, classes):
    for split, images in splits.items():
        rows = [("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")]
        for picture in images:
            name = with_hash(picture.path.name)
            place(picture, folder / ROBOFLOW[split] / name)
            size = picture.width, picture.height
            rows += [(name, *size, label, *map(whole, box)) for label, *box in picture.objects]
        write_rows(folder / ROBOFLOW[split] / "_annotations.csv", rows)


def fiftyone_csv(folder, splits, classes):
    (images,) = splits.values()
    rows = [("filepath", "ground_truth.detections.label", "ground_truth.detections.bounding_box")]
    for picture in images:
        place(picture, folder / "data" / picture.path.name)
        boxes = [
            [x1 / picture.width, y1 / picture.height, (x2 - x1) / picture.width, (y2 - y1) / picture.height]
            for _, x1, y1, x2, y2 in picture.objects
        ]
        names = [label for label, *_ in picture.objects]
        rows.append((picture.path.name, names, boxes) if boxes else (picture.path.name, "", ""))
    write_rows(folder / "labels.csv", rows)


def open_images_csv(folder, splits, classes):
    codes = {name: f"/m/0{number_}x" for number_, name in enumerate(classes)}
    files = {"train": "train", "val": "validation", "test": "test"}
    for split, images in splits.items():
        head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction"
        rows = [[*head.split(","), "IsInside"]]
        for picture in images:
            place(picture, folder / files[split] / picture.path.name)
            for label, x1, y1, x2, y2 in picture.objects:
                sides = (x1, picture.width), (x2, picture.width), (y1, picture.height), (y2, picture.height)
                values = (f"{value / side:.9f}" for value, side in sides)
                rows.append([picture.path.stem, "xclick", codes[label], 1, *values, 0, 0, 0, 0, 0])
        write_rows(folder / f"{files[split]}-annotations-bbox.csv", rows)
    write_rows(folder / "class-descriptions-boxable.csv", ((code, name) for name, code in codes.items()))


SPLIT_LAYOUTS = {
    layout.__name__: layout
    for layout in (
        *(downloaded_coco, roboflow_coco, cvat_coco, cvat_voc, roboflow_voc, datumaro_voc),
        *(roboflow_yolo, ultralytics_yolo, cvat_yolo),
        *(retinanet_csv, automl_csv, automl_csv_of_four_vertices, tensorflow_csv, roboflow_csv, open_images_csv),
    )
}
WHOLE_LAYOUTS = {  # of tools that export one list of images without splits
    layout.__name__: layout
    for layout in (label_studio_coco, fiftyone_coco, labelimg_voc, label_studio_yolo, fiftyone_csv)
}
# Formats without lines for images that have no objects.
WITHOUT_EMPTY_IMAGES = {"automl_csv_of_four_vertices", "tensorflow_csv", "roboflow_csv", "open_images_csv"}
# Largest error of a coordinate in pixels, for images of up to 1000 pixels, where it is not that of float32.
PRECISION = {
    **dict.fromkeys(("roboflow_yolo", "ultralytics_yolo", "cvat_yolo", "label_studio_yolo"), 2e-3),
    **dict.fromkeys(("labelimg_voc", "roboflow_voc", "roboflow_csv"), 0.5),
    "cvat_voc": 0.005,
}


if __name__ == "__main__":
    from effdet.config import DetectionData
    from effdet.data.formats import read_tables

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a data set that the package reads")
    parser.add_argument("layout", choices=[*SPLIT_LAYOUTS, *WHOLE_LAYOUTS])
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    read = read_tables(DetectionData(root=arguments.data, val=None if arguments.layout in WHOLE_LAYOUTS else {}))
    of_split = {"train": read.train} if read.val is None else {"train": read.train, "val": read.val}
    (SPLIT_LAYOUTS | WHOLE_LAYOUTS)[arguments.layout](
        arguments.out,
        {split: pictures(table) for split, table in of_split.items()},
        list(read.train.label_map.names),
    )
