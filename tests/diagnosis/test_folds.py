import shutil

import numpy as np
import pytest
from rich.console import Console

from effdet.config import load_config
from effdet.data.formats import read_table
from effdet.diagnosis.review import folds as folds_module
from effdet.diagnosis.review.folds import make_folds, train_fold
from effdet.errors import ConfigError, TrainingError

QUIET = Console(quiet=True)


@pytest.fixture
def config(tiny_recipe):
    return load_config(tiny_recipe)


@pytest.fixture
def made(config, tmp_path):
    table = read_table(config.data, "train")
    return make_folds(config, table, 3, tmp_path), table


@pytest.fixture
def trainings(monkeypatch):
    """Replaces the training; gives the list of (folder, resumed) that were started."""
    started = []

    def train(config, folder, device, resume_from, console):
        started.append((folder, resume_from is not None))
        (folder / "config.yaml").write_text(config.to_yaml())
        (folder / "best.pt").write_bytes(b"weights")
        return "finished"

    monkeypatch.setattr(folds_module.engine, "train", train)
    return started


def test_every_image_is_in_one_fold(made):
    folds, table = made
    assert sorted(np.concatenate([fold.rows for fold in folds]).tolist()) == list(range(len(table)))
    assert [len(fold.rows) for fold in folds] == [4, 4, 4]


def test_a_fold_is_not_trained_on(made, trainings):
    folds, table = made
    for fold in folds:
        train_fold(fold, "cpu", QUIET)
        trained = set(read_table(fold.config.data, "train").file_names.tolist())
        validated = set(read_table(fold.config.data, "val").file_names.tolist())
        assert validated == set(table.file_names[fold.rows].tolist())
        assert trained == set(table.file_names.tolist()) - validated


def test_the_labels_of_a_fold_choose_no_weights(made):
    config = made[0][0].config
    assert config.eval.every_epochs == 0
    assert config.train.patience is None


def test_folds_depend_on_the_seed_alone(config, made, tmp_path):
    table = made[1]
    again = make_folds(config, table, 3, tmp_path)
    other = make_folds(config.model_copy(update={"seed": 1}), table, 3, tmp_path)
    assert [fold.names for fold in again] == [fold.names for fold in made[0]]
    assert [fold.names for fold in other] != [fold.names for fold in made[0]]


def test_images_of_identical_content_share_a_fold(tiny_data, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(tiny_data, root)
    images = sorted((root / "train2017").iterdir())
    shutil.copyfile(images[0], images[7])
    (tmp_path / "recipe.yaml").write_text(f"data: {{root: {root}}}\n")
    config = load_config(tmp_path / "recipe.yaml")
    table = read_table(config.data, "train")
    names = [fold.names for fold in make_folds(config, table, 4, tmp_path)]
    assert any({images[0].name, images[7].name} <= set(each) for each in names)


def test_validation_images_of_the_same_files_are_not_trained_on(tiny_data, tmp_path):
    (tmp_path / "recipe.yaml").write_text(f"data: {{root: {tiny_data}, val: {{fraction: 0.25}}}}\n")
    config = load_config(tmp_path / "recipe.yaml")
    table, validated = read_table(config.data, "train"), read_table(config.data, "val")
    for fold in make_folds(config, table, 2, tmp_path):
        assert set(validated.file_names.tolist()) <= set(fold.names)


def test_a_finished_fold_is_not_trained_again(made, trainings):
    fold = made[0][0]
    train_fold(fold, "cpu", QUIET)
    train_fold(fold, "cpu", QUIET)
    assert trainings == [(fold.folder, False)]


def test_a_stopped_fold_is_continued(made, trainings):
    fold = made[0][0]
    fold.folder.mkdir()
    (fold.folder / "last.pt").write_bytes(b"state")
    train_fold(fold, "cpu", QUIET)
    assert trainings == [(fold.folder, True)]


def test_a_training_that_is_stopped_ends_the_review(made, monkeypatch):
    monkeypatch.setattr(folds_module.engine, "train", lambda *arguments: "interrupted")
    with pytest.raises(TrainingError, match=r"interrupted.*the same command continues it"):
        train_fold(made[0][0], "cpu", QUIET)


def test_a_fold_of_another_recipe_is_refused(config, made, trainings, tmp_path):
    train_fold(made[0][0], "cpu", QUIET)
    longer = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 9})})
    with pytest.raises(ConfigError, match=r"fold-1-of-3: was trained by another recipe; remove the folder"):
        train_fold(make_folds(longer, made[1], 3, tmp_path)[0], "cpu", QUIET)


def test_a_fold_is_used_again_with_another_number_of_workers(config, made, trainings, tmp_path):
    train_fold(made[0][0], "cpu", QUIET)
    slower = config.model_copy(update={"data": config.data.model_copy(update={"workers": 7, "cache": "memory"})})
    train_fold(make_folds(slower, made[1], 3, tmp_path)[0], "cpu", QUIET)
    assert len(trainings) == 1


def test_a_fold_of_other_images_is_refused(made, trainings):
    fold = made[0][0]
    train_fold(fold, "cpu", QUIET)
    with pytest.raises(ConfigError, match="by another fold"):
        train_fold(fold._replace(names=fold.names[1:]), "cpu", QUIET)


@pytest.mark.parametrize(("count", "reason"), [(1, "at least 2"), (13, "only 12 images of different content")])
def test_numbers_of_folds_that_cannot_be_are_refused(config, made, tmp_path, count, reason):
    with pytest.raises(ConfigError, match=reason):
        make_folds(config, made[1], count, tmp_path)
