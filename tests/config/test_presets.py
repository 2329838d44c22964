from pathlib import Path

import pytest

from effdet.config import TASKS, DetectionConfig, load_config, make_config
from effdet.errors import ConfigError
from effdet.presets import PRESETS

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
OPTIMISATION = ("optim", "train", "augment", "model")


def recipe(folder, text, name="recipe.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def differences(one, other):
    """Dotted keys in which two configs differ."""
    return {
        f"{section}.{key}"
        for section in OPTIMISATION
        for key in type(getattr(one, section)).model_fields
        if getattr(getattr(one, section), key, None) != getattr(getattr(other, section), key, None)
    }


# Values


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["scratch", "finetune"])
def test_every_value_of_a_preset_is_what_the_recipe_then_says(task, name):
    config = make_config({"task": task, "preset": name}).to_dict()
    for section, values in PRESETS[task][name].items():
        for key, value in (values or {}).items():
            assert config[section][key] == value, f"{section}.{key}"
    assert "preset" not in config
    assert make_config(config).to_dict() == config


@pytest.mark.parametrize("task", TASKS)
def test_the_presets_of_a_task_settle_the_same_keys_of_the_optimiser(task):
    start = {"name", "learning_rate", "base_batch_size", "momentum", "weight_decay"}
    course = {"warmup_epochs", "warmup_start_factor", "schedule", "grad_clip_norm"}
    for values in PRESETS[task].values():
        assert set(values["optim"]) - {"decay_factor", "decay_epochs"} == start | course


def test_a_detector_from_scratch_is_trained_by_the_defaults_which_are_the_papers():
    assert make_config({"preset": "scratch"}) == DetectionConfig()
    assert load_config(CONFIGS / "d2.yaml", ["preset=scratch"]) == load_config(CONFIGS / "d2.yaml")


def test_a_detector_is_finetuned_as_the_measured_recipe_but_from_coco_more_gently_and_longer():
    preset, measured = make_config({"preset": "finetune"}), load_config(CONFIGS / "bccd.yaml")
    assert differences(preset, measured) == {
        *("model.name", "model.image_size", "model.weights", "optim.learning_rate"),
        *("train.epochs", "train.batch_size", "train.ema_decay"),
    }
    assert (preset.model.weights, measured.model.weights) == ("coco", "imagenet")
    assert preset.optim.learning_rate < measured.optim.learning_rate
    assert preset.train.epochs > measured.train.epochs


def test_a_classifier_is_finetuned_as_the_measured_recipe():
    measured = load_config(CONFIGS / "classification" / "finetune.yaml")
    assert differences(make_config({"task": "classification", "preset": "finetune"}), measured) == {"model.name"}


def test_a_classifier_from_scratch_is_trained_as_the_paper_does():
    papers = load_config(CONFIGS / "classification" / "imagenet.yaml")
    preset = make_config({"task": "classification", "preset": "scratch"})
    assert differences(preset, papers) == {"train.batch_size"}


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_takes_every_preset_whole(path):
    task = load_config(path).task
    for name, sections in PRESETS[task].items():
        config = load_config(path, [f"preset={name}"]).to_dict()
        assert all(
            config[section][key] == value
            for section, values in sections.items()
            for key, value in (values or {}).items()
        )
        assert config["model"]["name"] == load_config(path).model.name
        assert config["train"]["accumulation_steps"] == load_config(path).train.accumulation_steps


# Order


def test_a_files_own_keys_win_over_its_preset_and_that_over_its_base(tmp_path):
    recipe(tmp_path, "train: {epochs: 7, batch_size: 4, log_every: 3}\nseed: 5", "parent.yaml")
    child = recipe(tmp_path, "base: parent.yaml\npreset: finetune\ntrain: {batch_size: 2}")
    config = load_config(child)
    assert (config.train.epochs, config.train.batch_size, config.train.log_every) == (20, 2, 3)
    assert (config.seed, config.optim.name) == (5, "adamw")


def test_a_child_wins_over_the_preset_of_its_base(tmp_path):
    recipe(tmp_path, "preset: finetune", "parent.yaml")
    config = load_config(recipe(tmp_path, "base: parent.yaml\ntrain: {epochs: 7}"))
    assert (config.train.epochs, config.optim.name) == (7, "adamw")
    config = load_config(recipe(tmp_path, "base: parent.yaml\npreset: scratch"))
    assert (config.train.epochs, config.optim.name, config.model.weights) == (300, "sgd", None)


@pytest.mark.parametrize("order", [1, -1])
def test_a_preset_of_the_command_line_wins_over_the_file_and_loses_to_other_overrides(tmp_path, order):
    path = recipe(tmp_path, "train: {epochs: 7, batch_size: 4, log_every: 3}\noptim: {name: rmsprop}")
    config = load_config(path, ["preset=finetune", "train.epochs=9"][::order])
    assert (config.train.epochs, config.train.batch_size, config.train.log_every) == (9, 16, 3)
    assert config.optim.name == "adamw"


def test_the_last_preset_of_the_command_line_counts(tmp_path):
    path = recipe(tmp_path, "preset: finetune")
    assert load_config(path, ["preset=finetune", "preset=scratch"]) == load_config(path, ["preset=scratch"])
    assert load_config(path, ["preset=scratch"]).optim == make_config({"preset": "scratch"}).optim
    assert load_config(path, ["preset=null"]) == load_config(path)


def test_a_preset_is_that_of_the_task_wherever_it_is_told(tmp_path):
    recipe(tmp_path, "task: classification", "parent.yaml")
    child = load_config(recipe(tmp_path, "base: parent.yaml\npreset: finetune"))
    assert child == load_config(tmp_path / "parent.yaml", ["preset=finetune"])
    assert child == make_config({}, ["preset=finetune", "task=classification"])
    assert child.model.weights == "imagenet"


def test_a_preset_is_left_out_of_what_a_run_writes(tmp_path):
    config = load_config(CONFIGS / "d0.yaml", ["preset=finetune"])
    assert load_config(recipe(tmp_path, config.to_yaml())) == config


# What is refused


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("fintune", "did you mean 'finetune'"),
        ("Scratch", "did you mean 'scratch'"),
        ("coco", "expected scratch or finetune"),
        ("3", "expected scratch or finetune"),
        ("[finetune]", "finetune"),
    ],
)
def test_an_unknown_preset_is_refused_where_it_stands(tmp_path, text, hint):
    path = recipe(tmp_path, f"preset: {text}")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert str(error.value).startswith(f"{path}: there is no preset ")
    assert hint in str(error.value)
    with pytest.raises(ConfigError, match=r"^command line: there is no preset "):
        make_config({}, [f"preset={text}"])


def test_a_misspelt_key_is_told():
    with pytest.raises(ConfigError, match=r"unknown key 'prest'; did you mean 'preset'\?"):
        make_config({}, ["prest=finetune"])


def test_an_unknown_task_is_told_before_its_preset():
    with pytest.raises(ConfigError, match="'task' is 'segmentation'"):
        make_config({"task": "segmentation", "preset": "finetune"})
