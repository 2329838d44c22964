import io
import json
import shlex

import numpy as np
import pytest
from rich.console import Console

from effdet.config import load_config
from effdet.errors import ConfigError, DataError, WeightsError
from effdet.report.pictures import write_image
from effdet.training import automatic
from effdet.training.automatic import SCALES, choose_recipe, question_recipe


def boxes_data(folder, count, size=(48, 64)):
    """A COCO data set of `count` images, without a validation split."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    for number in range(count):
        write_image(folder / "images" / f"{number}.png", rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        row = {"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]}
        content["images"].append(row)
        content["annotations"].append({"id": number, "image_id": number, "category_id": 1, "bbox": [4, 4, 20, 20]})
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


@pytest.fixture
def reached(monkeypatch):
    """The weights that can be had; a test changes the set."""
    names = {"coco", "imagenet"}

    def fetch(weights, spec):
        if weights not in names:
            raise WeightsError(f"no connection for {weights}")

    monkeypatch.setattr(automatic, "fetch_default", fetch)
    return names


def choose(root, *overrides):
    console = Console(record=True, width=500, file=io.StringIO())
    return choose_recipe([f"data.root={root}", *overrides], "cpu", console), console.export_text()


def test_the_recipe_for_few_images_on_a_cpu_is_small_and_long_enough(tmp_path, reached):
    config, printed = choose(boxes_data(tmp_path / "cells", 20))
    assert config.task == "detection"
    assert config.model.name == "efficientdet_lite0"
    assert config.model.weights == "coco"
    assert config.optim.learning_rate == load_config("finetune").optim.learning_rate
    assert config.train.epochs == SCALES["detection", False].epochs[1]
    assert config.train.batch_size == 8
    assert "for 16 training images and" in printed  # four of twenty are for validation


def test_the_command_that_is_printed_gives_the_same_recipe(tmp_path, reached):
    config, printed = choose(boxes_data(tmp_path / "my cells", 10), "seed=3")
    line = next(line for line in printed.splitlines() if line.strip().startswith("effdet train"))
    recipe, *overrides = shlex.split(line)[2:]
    assert load_config(recipe, overrides) == config
    assert "seed=3" in overrides


def test_the_number_of_epochs_falls_with_the_number_of_images():
    epochs = [automatic._schedule(count, SCALES["detection", False])["train.epochs"] for count in (50, 200, 500, 10**6)]
    assert epochs == sorted(epochs, reverse=True)
    assert [epochs[0], epochs[-1]] == [60, 8]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(480, 640)], (384, 512)),
        ([(640, 480)], (512, 384)),
        ([(480, 640), (640, 480)], (448, 448)),
        ([(100, 100)], (256, 256)),
        ([(300, 3000)], (320, 640)),
        ([(0, 0)], (256, 256)),
    ],
)
def test_the_input_has_the_aspect_ratio_of_the_images(sizes, expected):
    class Table:
        pass

    table = Table()
    table.sizes = np.array(sizes)
    assert automatic._input_size(table, 384 * 512) == expected


def test_imagenet_weights_are_used_where_coco_weights_cannot_be_reached(tmp_path, reached):
    root = boxes_data(tmp_path, 10)
    reached.remove("coco")
    config, printed = choose(root)
    assert config.model.weights == "imagenet"
    assert config.optim.learning_rate == automatic.IMAGENET_LEARNING_RATE
    assert "no COCO weights of efficientdet_lite0: no connection for coco" in printed
    assert "training starts from ImageNet weights of the backbone instead" in printed
    reached.clear()
    config, printed = choose(root)
    assert config.model.weights is None
    assert "training starts from random weights" in printed


def test_what_the_user_gives_wins_over_what_is_chosen(tmp_path, reached):
    config, _ = choose(
        boxes_data(tmp_path, 10), "train.epochs=3", "model.name=efficientdet_d1", "optim={learning_rate: 0.5}"
    )
    assert (config.train.epochs, config.model.name, config.optim.learning_rate) == (3, "efficientdet_d1", 0.5)


def test_class_folders_are_for_a_classifier(shapes_data, reached):
    config, _ = choose(shapes_data)
    assert (config.task, config.model.name) == ("classification", "efficientnet_lite0")


def test_a_data_set_that_is_not_there_is_reported(tmp_path, reached):
    with pytest.raises(DataError, match=r"no such folder; set data\.root="):
        choose(tmp_path / "no")
    with pytest.raises(ConfigError, match=r"unknown key 'train.epoch'"):
        choose(boxes_data(tmp_path / "cells", 4), "train.epoch=3")


def test_a_recipe_for_coco_is_questioned_on_few_images():
    coco = load_config("lite0")
    assert "the data set has 160 images" in question_recipe(coco, 160)
    assert question_recipe(coco, 118_000) is None
    assert question_recipe(load_config("finetune"), 160) is None
    assert question_recipe(load_config("classification/finetune"), 160) is None
