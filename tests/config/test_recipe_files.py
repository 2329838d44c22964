from pathlib import Path

import pytest

from effdet.config import load_config
from effdet.config.recipe_files import find_recipe, list_recipes, nearest_recipes, recipes_folder
from effdet.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """The tests run outside the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(name):
    with pytest.raises(ConfigError) as error:
        load_config(name)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_clone_has_its_recipes_beside_the_package():
    assert recipes_folder() == REPOSITORY / "configs"
    assert len(list_recipes()) == len(list((REPOSITORY / "configs").rglob("*.yaml")))


def test_an_installed_package_has_its_recipes_inside(tmp_path, monkeypatch):
    for folder in ("effdet/configs", "effdet/config", "configs"):  # the last is of another package
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr("effdet.config.recipe_files.__file__", str(tmp_path / "effdet" / "config" / "recipe_files.py"))
    assert recipes_folder() == tmp_path / "effdet" / "configs"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("lite0", "lite0.yaml"),
        ("lite0.yaml", "lite0.yaml"),
        ("configs/lite0.yaml", "lite0.yaml"),
        ("configs/lite0", "lite0.yaml"),
        ("./lite0", "lite0.yaml"),
        ("finetune", "finetune.yaml"),
        ("classification/b0", "classification/b0.yaml"),
        ("configs/classification/b0.yaml", "classification/b0.yaml"),
        (Path("detection") / "coco", "detection/coco.yaml"),
    ],
)
def test_a_recipe_of_the_package_has_a_name_everywhere(name, file):
    assert find_recipe(name) == REPOSITORY / "configs" / file
    assert load_config(name) == load_config(REPOSITORY / "configs" / file)


def test_an_own_file_comes_before_a_recipe_of_the_package(empty_folder):
    Path("lite0.yaml").write_text("seed: 5\n")
    assert load_config("lite0.yaml").seed == 5
    assert load_config("lite0").seed == 0
    Path("lite0").write_text("seed: 6\n")
    assert load_config("lite0").seed == 6


def test_a_folder_does_not_hide_a_recipe_of_the_package():
    Path("lite0").mkdir()
    assert find_recipe("lite0") == REPOSITORY / "configs" / "lite0.yaml"


def test_a_base_may_be_a_recipe_of_the_package(empty_folder):
    Path("mine.yaml").write_text("base: finetune\nseed: 7\n")
    assert load_config("mine.yaml") == load_config("finetune", ["seed=7"])
    Path("lite0.yaml").write_text("base: lite0\nseed: 7\n")  # of the same name
    assert load_config("lite0.yaml") == load_config("lite0", ["seed=7"])


def test_a_base_beside_the_file_comes_before_a_recipe_of_the_package(empty_folder):
    Path("own").mkdir()
    Path("own/finetune.yaml").write_text("seed: 3\n")
    Path("own/mine.yaml").write_text("base: finetune.yaml\n")
    assert load_config("own/mine.yaml").seed == 3


def test_a_missing_base_is_refused_with_both_files(empty_folder):
    Path("mine.yaml").write_text("base: finetun\n")
    message = refusal("mine.yaml")
    assert message.startswith("mine.yaml: base: finetun: no such recipe; did you mean finetune?")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("lite00", "lite0"),
        ("Lite0", "lite0"),
        ("finetuning", "finetune"),
        ("b0", "classification/b0"),
        ("v2_s", "classification/v2_s"),
        ("efficientdet_d3", "d3"),
        ("efficientnet_b4", "classification/b4"),
        ("efficientnetv2_m", "classification/v2_m"),
        ("configs/lit3x.yaml", "lite3x"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, meant):
    message = refusal(name)
    assert message.startswith(f"{name}: no such recipe; did you mean {meant}")
    assert nearest_recipes(name)[0] == meant


def test_an_unknown_name_is_refused_with_all_that_there_are(empty_folder):
    Path("mine.yaml").write_text("")
    message = refusal("zzzzz")
    assert "did you mean" not in message
    assert f"{empty_folder} has mine.yaml; recipes that come with effdet: bccd, d0, d1, " in message
    assert message.endswith("detection/{coco}")
    assert refusal("mien.yaml").startswith("mien.yaml: no such recipe; did you mean mine.yaml?")


def test_a_folder_is_no_recipe(empty_folder):
    Path("photos").mkdir()
    assert refusal("photos") == "photos: expected a recipe, got a folder; a data set is given as data.root=photos"
    assert refusal(empty_folder).startswith(f"{empty_folder}: expected a recipe, got a folder")


@pytest.mark.parametrize("name", ["/lite0.yaml", "../configs/lite0.yaml", "other/lite0.yaml"])
def test_a_path_elsewhere_is_no_name_of_a_recipe(name):
    assert "no such recipe" in refusal(name)
