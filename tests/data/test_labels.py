from pathlib import Path

import numpy as np
import pytest

from effdet.data.label_map import LabelMap
from effdet.data.labels import ImageLabels
from effdet.errors import DataError


def table(count, **repairs):
    return ImageLabels(
        source=Path("data/train"),
        image_folder=Path("data/train"),
        file_names=np.array([f"cat/{index}.jpg" for index in range(count)], np.str_),
        labels=np.zeros(count, np.int64),
        label_map=LabelMap(("cat", "dog"), (0, 1)),
        repairs=repairs,
    )


def test_a_table_knows_its_images():
    labels = table(3)
    assert len(labels) == 3
    assert labels.path(2) == Path("data/train/cat/2.jpg")
    assert labels.notes() == []


def test_repairs_are_one_line_for_each_kind():
    assert table(1, **{"files that are no images left out": 4}).notes() == [
        "train: files that are no images left out: 4"
    ]


def test_a_table_without_images_is_refused():
    with pytest.raises(DataError, match="data/train: the data set has no images"):
        table(0)
