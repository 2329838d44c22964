import json
import re

import numpy as np
import pytest

from effdet.cli import main
from effdet.config import load_config
from effdet.data.formats import read_table


def shards(capsys, *arguments):
    """What the verb says."""
    capsys.readouterr()
    assert main(["shards", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main(["shards", *map(str, arguments)]) == 1
    return capsys.readouterr().err.strip()


def numbers(run, *keys):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [tuple(line.get(key) for key in keys) for line in lines]


def test_a_detector_trains_on_shards_as_on_files(tiny_recipe, tiny_run, tmp_path, capsys):
    said = shards(capsys, tiny_recipe, "--out", tmp_path / "shards", "--order", "table", "--shard-mb", 0.02)
    assert re.search(r"^train: 12 images in \d+ shards of \d\.\d MB in total, in ", said)
    changes = said.splitlines()[-1].removeprefix("train on them with ").split()
    assert changes == ["data.format=shards", f"data.root={tmp_path / 'shards'}"]
    run = tmp_path / "run"
    assert main(["train", str(tiny_recipe), *changes, f"output_dir={run}", "--device", "cpu"]) == 0
    keys = ("step", "epoch", "loss", "class_loss", "box_loss", "gradient_norm", "AP")
    assert numbers(run, *keys) == numbers(tiny_run, *keys)


def test_training_images_are_shuffled_and_those_to_evaluate_are_not(tiny_recipe, tmp_path, capsys):
    orders = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(orders))
        shards(capsys, tiny_recipe, f"seed={seed}", "--out", out)
        data = load_config(tiny_recipe, ["data.format=shards", f"data.root={out}"]).data
        orders.append(read_table(data, "train").image_ids.tolist())
        files = load_config(tiny_recipe).data
        assert read_table(data, "val").fingerprint() == read_table(files, "val").fingerprint()
    listed = read_table(files, "train").image_ids.tolist()
    assert orders[0] == orders[1] != orders[2]
    assert orders[0] != listed
    assert sorted(orders[0]) == sorted(orders[2]) == sorted(listed)


def test_labelled_images_keep_their_classes(shapes_recipe, tmp_path, capsys):
    said = shards(capsys, shapes_recipe, "--out", tmp_path)
    assert "train: 18 images in 1 shard of" in said
    data = load_config(shapes_recipe, ["data.format=shards", f"data.root={tmp_path}"]).data
    for split, count in (("train", 6), ("val", 3)):
        table = read_table(data, split)
        files = read_table(load_config(shapes_recipe).data, split)
        assert table.label_map == files.label_map
        assert np.bincount(table.labels).tolist() == [count] * 3
        content = {str(name): files.read(row) for row, name in enumerate(files.file_names)}
        assert {str(name): table.read(row) for row, name in enumerate(table.file_names)} == content


def test_a_single_part_can_be_written(tiny_recipe, tmp_path, capsys):
    shards(capsys, tiny_recipe, "--out", tmp_path, "--split", "val")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["val-000000.tar", "val.index.npz"]
    shards(capsys, tiny_recipe, "data.val=null", "--out", tmp_path)
    assert (tmp_path / "train.index.npz").exists()


def test_it_says_which_settings_the_shards_do_without(tiny_recipe, tiny_data, tmp_path, capsys):
    boxes = tiny_data / "annotations" / "instances_train2017.json"
    said = shards(capsys, tiny_recipe, f"data.train.annotations={boxes}", "data.val=null", "--out", tmp_path)
    assert said.splitlines()[-1].endswith(f"data.root={tmp_path} data.train.annotations=null data.val=null")


def test_existing_shards_are_refused_before_anything_is_written(tiny_recipe, tmp_path, capsys):
    shards(capsys, tiny_recipe, "--out", tmp_path, "--split", "val")
    assert "val.index.npz: exists already; shards are never overwritten" in refused(
        capsys, tiny_recipe, "--out", tmp_path
    )
    assert not (tmp_path / "train-000000.tar").exists()


@pytest.mark.parametrize("size", ["0", "-1", "nan"])
def test_a_size_of_nothing_is_refused(tiny_recipe, tmp_path, capsys, size):
    assert f"--shard-mb {size}: expected a size above 0" in refused(
        capsys, tiny_recipe, "--out", tmp_path, "--shard-mb", size
    )


def test_a_folder_that_cannot_be_written_is_told(tiny_recipe, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = refused(capsys, tiny_recipe, "--out", tmp_path / "file")
    assert "file: is a file, expected a folder; choose another folder" in said


def test_what_to_change_in_a_recipe_fits_the_parts_that_were_written(tiny_recipe, tmp_path, capsys):
    said = shards(capsys, tiny_recipe, "--split", "train", "--out", tmp_path / "train")
    assert (
        said.splitlines()[-1] == f"train on them with data.format=shards data.root={tmp_path / 'train'} data.val=null"
    )
    assert "train on them" not in shards(capsys, tiny_recipe, "--split", "val", "--out", tmp_path / "val")
    at = ["data.format=shards", "data.root=null", f"data.url=file://{tmp_path / 'train'}", "data.val=null"]
    said = shards(capsys, tiny_recipe, *at, "--out", tmp_path / "again")
    assert said.splitlines()[-1].endswith(f"data.root={tmp_path / 'again'} data.url=null data.val=null")
    assert "expected a size above 0" in refused(capsys, tiny_recipe, "--shard-mb", "inf", "--out", tmp_path / "inf")
