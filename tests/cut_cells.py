"""Cuts the single cells out of the BCCD images: a small classification data set, a folder per class.

  python tests/cut_cells.py data/bccd data/cells

Cells of the trainval list become data/cells/train/CLASS/*.png, those of the test list data/cells/val/CLASS/*.png.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from effdet.data.formats.split_files import SplitFiles
from effdet.data.formats.table import repair_boxes
from effdet.data.formats.voc import read_voc
from effdet.data.images import read_image
from effdet.report.pictures import write_image

MARGIN = 0.1  # fraction of a cell's longer side that stays around it
SMALLEST_SIDE = 16  # pixels; the few smaller boxes hold no whole cell


def cut_cells(bccd: Path, out: Path, splits: dict[str, str]) -> dict[str, int]:
    """Number of cells cut for each split.

    Args:
        bccd: folder of the data set, in Pascal VOC layout.
        out: folder of the crops.
        splits: folder of a split -> list of images that its cells are cut from.
    """
    return {split: sum(1 for _ in _cut(bccd, out / split, name)) for split, name in splits.items()}


def _cut(bccd: Path, folder: Path, image_list: str) -> Iterator[Path]:
    files = SplitFiles(bccd / "Annotations", bccd / "JPEGImages", bccd / f"ImageSets/Main/{image_list}.txt")
    table = repair_boxes(read_voc(files))
    for index in range(len(table)):
        image = read_image(table.path(index))
        height, width = image.shape[:2]
        rows = table.rows(index)
        for number, (box, label) in enumerate(zip(table.boxes[rows], table.labels[rows], strict=True)):
            sides = box[2:] - box[:2]
            if sides.min() < SMALLEST_SIDE:
                continue
            margin = MARGIN * sides.max()
            x1, y1, x2, y2 = (np.concatenate([box[:2] - margin, box[2:] + margin])).round().astype(int).tolist()
            crop = image[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)]
            path = folder / table.label_map.names[label] / f"{table.path(index).stem}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, crop)
            yield path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bccd", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    print(cut_cells(arguments.bccd, arguments.out, {"train": "trainval", "val": "test"}))
