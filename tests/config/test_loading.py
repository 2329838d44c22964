from pathlib import Path

import pytest
import yaml

from effdet.config import (
    TASKS,
    ClassificationConfig,
    Config,
    DetectionConfig,
    ProgressiveConfig,
    load_config,
    make_config,
)
from effdet.errors import ConfigError


def recipe(folder, text, name="recipe.yaml"):
    path = folder / name
    path.write_text(text)
    return path


def refusal(path, *overrides):
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value)


def changed(task, *overrides):
    return make_config({"task": task}, overrides)


def refusal_of_changes(task, *overrides):
    with pytest.raises(ConfigError) as error:
        changed(task, *overrides)
    return str(error.value)


def test_values_of_the_file_replace_defaults(tmp_path):
    config = load_config(recipe(tmp_path, "model: {name: efficientdet_d2, image_size: [384, 640]}\ntrain: {epochs: 7}"))
    assert config.model.name == "efficientdet_d2"
    assert config.model.image_size == (384, 640)
    assert config.train.epochs == 7
    assert config.optim == DetectionConfig().optim


# Tasks


def test_an_empty_recipe_is_a_detector_with_all_defaults(tmp_path):
    assert load_config(recipe(tmp_path, "")) == DetectionConfig()
    assert load_config(recipe(tmp_path, "# nothing\n")) == DetectionConfig()


@pytest.mark.parametrize("task", TASKS)
def test_the_task_chooses_the_tree(tmp_path, task):
    config = load_config(recipe(tmp_path, f"task: {task}"))
    assert type(config) is TASKS[task]
    assert config == TASKS[task]()
    assert config.task == task
    assert isinstance(config, Config)


def test_the_task_may_come_from_a_base_or_an_override(tmp_path):
    recipe(tmp_path, "task: classification", "parent.yaml")
    child = recipe(tmp_path, "base: parent.yaml\naugment: {rand_augment: {layers: 2}}")
    assert load_config(child) == ClassificationConfig(augment={"rand_augment": {"layers": 2}})
    assert load_config(recipe(tmp_path, ""), ["task=classification"]) == ClassificationConfig()


@pytest.mark.parametrize("text", ["segmentation", "Detection", "null", "3"])
def test_an_unknown_task_is_refused(tmp_path, text):
    path = recipe(tmp_path, f"task: {text}")
    message = refusal(path)
    assert message.startswith(f"{path}: 'task' is ")
    assert message.endswith("; expected detection or classification")


# Overrides


def test_overrides_win_over_the_file_and_later_ones_over_earlier(tmp_path):
    path = recipe(tmp_path, "train: {epochs: 7, batch_size: 4}")
    config = load_config(path, ["train.epochs=8", "train.epochs=9"])
    assert (config.train.epochs, config.train.batch_size) == (9, 4)


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("optim.learning_rate=1e-3", "optim", "learning_rate", 0.001),
        ("optim.learning_rate=2E-2", "optim", "learning_rate", 0.02),
        ("optim.learning_rate=1", "optim", "learning_rate", 1.0),
        ("model.image_size=[384, 640]", "model", "image_size", (384, 640)),
        ("model.image_size=512", "model", "image_size", (512, 512)),
        ("model.weights=a=b.pt", "model", "weights", "a=b.pt"),
        ("train.ema_decay=null", "train", "ema_decay", None),
        ("train.channels_last=false", "train", "channels_last", False),
        ("train.freeze=[backbone, neck]", "train", "freeze", ("backbone", "neck")),
        ("data.val=null", "data", "val", None),
        ("model.anchor_aspects=[[1, 1], [2.0, 0.5]]", "model", "anchor_aspects", ((1.0, 1.0), (2.0, 0.5))),
    ],
)
def test_an_override_is_read_as_yaml(tmp_path, override, section, key, value):
    assert getattr(getattr(load_config(recipe(tmp_path, ""), [override]), section), key) == value


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("model.dropout=0", "model", "dropout", 0.0),
        ("data.format=csv", "data", "format", "csv"),
        ("augment.crop_area=null", "augment", "crop_area", None),
        ("augment.crop_aspect=[1, 1]", "augment", "crop_aspect", (1.0, 1.0)),
        ("progressive.image_size=[64, 96]", "progressive", "image_size", (64, 96)),
        ("progressive.mixup_alpha=[0, 2e-1]", "progressive", "mixup_alpha", (0.0, 0.2)),
        ("progressive={image_size: [64, 96]}", "progressive", "image_size", (64, 96)),
    ],
)
def test_an_override_of_a_classifier_is_read_as_yaml(override, section, key, value):
    assert getattr(getattr(changed("classification", override), section), key) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [("2017", "2017"), ("my data #1", "my data #1"), ("'a: b'", "a: b"), ("a: b", "a: b"), ("1e3", "1e3")],
)
def test_an_override_of_a_path_is_not_read_as_yaml(tmp_path, text, value):
    config = load_config(recipe(tmp_path, ""), [f"data.root={text}", f"output_dir={text}", f"model.weights={text}"])
    assert (config.data.root, config.output_dir, config.model.weights) == (Path(value), Path(value), value)
    assert load_config(recipe(tmp_path, ""), ["output_dir=null"]).output_dir is None


def test_overrides_of_lists_replace_them_one_by_one(tmp_path):
    path = recipe(tmp_path, "task: classification\nprogressive: {image_size: [64, 96], mixup_alpha: [0, 0.1]}")
    config = load_config(path, ["progressive.mixup_alpha=[0.1, 0.2]"])
    assert config.progressive == ProgressiveConfig(image_size=(64, 96), mixup_alpha=(0.1, 0.2))
    assert load_config(path, ["progressive=null"]).progressive is None


def test_an_override_of_a_section_merges_with_it(tmp_path):
    config = load_config(recipe(tmp_path, "train: {epochs: 7}"), ["train={batch_size: 2}"])
    assert (config.train.epochs, config.train.batch_size) == (7, 2)


@pytest.mark.parametrize("override", ["train.epochs", "=3", "--train.epochs"])
def test_an_override_without_key_or_value_is_refused(tmp_path, override):
    assert refusal(recipe(tmp_path, ""), override) == f"command line: expected section.key=value, got '{override}'"


def test_an_override_that_is_no_yaml_is_refused(tmp_path):
    message = refusal(recipe(tmp_path, ""), "model.image_size=[1, 2")
    assert message == "command line: the value of 'model.image_size=[1, 2' is not valid YAML"


def test_a_wrong_override_blames_the_command_line(tmp_path):
    message = refusal(recipe(tmp_path, "train: {epochs: 7}"), "train.epochs=many")
    assert message.startswith("command line: 'train.epochs' is 'many'")


# Numbers


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("4E-5", 4e-5), ("1.e-2", 1e-2), ("2e0", 2.0), ("0.5", 0.5)]
)
def test_exponents_without_a_dot_are_numbers(tmp_path, text, value):
    assert load_config(recipe(tmp_path, f"optim: {{learning_rate: {text}}}")).optim.learning_rate == value


def test_words_that_look_like_exponents_stay_words(tmp_path):
    assert load_config(recipe(tmp_path, "model: {weights: 1e-3.pt}")).model.weights == "1e-3.pt"
    assert load_config(recipe(tmp_path, "model: {weights: '1e-3'}")).model.weights == "1e-3"


# What is refused


def test_an_unknown_key_is_refused_with_file_key_and_suggestion(tmp_path):
    path = recipe(tmp_path, "model: {num_clases: 3}")
    assert refusal(path) == f"{path}: unknown key 'model.num_clases'; did you mean 'model.num_classes'?"


def test_an_unknown_section_is_refused_with_a_suggestion(tmp_path):
    path = recipe(tmp_path, "modle: {num_classes: 3}")
    assert refusal(path) == f"{path}: unknown key 'modle'; did you mean 'model'?"


def test_all_wrong_keys_are_reported_at_once(tmp_path):
    lines = refusal(recipe(tmp_path, "model: {nme: x}\ntrain: {epochs: 0, batch_size: two}")).splitlines()
    assert len(lines) == 3
    assert [key in line for key, line in zip(("nme", "train.epochs", "train.batch_size"), lines, strict=True)] == [
        True
    ] * 3


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("train: {epochs: '3'}", "train.epochs"),
        ("train: {epochs: 3.5}", "train.epochs"),
        ("train: {epochs: true}", "train.epochs"),
        ("train: {epochs: 0}", "train.epochs"),
        ("train: {precision: int8}", "train.precision"),
        ("train: 3", "train"),
        ("model: {image_size: [512]}", "model.image_size"),
        ("model: {image_size: 16}", "model.image_size"),
        ("model: {image_size: 512.5}", "model.image_size"),
        ("model: {image_size: true}", "model.image_size"),
        ("model: {name: 3}", "model.name"),
        ("augment: {horizontal_flip: 1.5}", "augment.horizontal_flip"),
        ("optim: {learning_rate: fast}", "optim.learning_rate"),
        ("seed: -1", "seed"),
        ("model:", "model"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_by_name(tmp_path, text, key):
    path = recipe(tmp_path, text)
    message = refusal(path)
    assert message.startswith(f"{path}: '{key}")
    assert "pydantic" not in message


@pytest.mark.parametrize(
    "text",
    [
        f"task: {'a' * 9000}",
        f"base: [{'a, ' * 9000}]",
        f"base: {'a' * 9000}",
        f"{'a' * 9000}: 1",
        f"train: {'a' * 9000}",
        f"data: {{value_range: [{'0, ' * 9000}]}}",
        "\n".join(f"key{number}: 1" for number in range(500)),
    ],
)
def test_what_is_long_is_shortened_in_messages(tmp_path, text):
    message = refusal(recipe(tmp_path, text))
    assert len(message) < 6000
    assert len(message.splitlines()) < 25


def test_a_number_in_place_of_a_path_is_refused(tmp_path):
    assert "'data.root' is 9: expected a path, such as data/coco" in refusal(recipe(tmp_path, "data: {root: 9}"))


def test_a_range_of_values_rises(tmp_path):
    text = "data: {value_range: [4095, 0]}"
    assert "data.value_range is [4095.0, 0.0]; expected [low, high] with low < high" in refusal(recipe(tmp_path, text))


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "none.yaml").startswith(f"{tmp_path / 'none.yaml'}: no such recipe")
    assert "expected a recipe, got a folder" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["- 1\n- 2", "just words", "3"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path, text):
    assert "expected a mapping of sections" in refusal(recipe(tmp_path, text))


def test_a_file_that_is_no_yaml_is_refused_in_one_line(tmp_path):
    message = refusal(recipe(tmp_path, "model: {name: [}"))
    assert "not valid YAML" in message
    assert "\n" not in message


def test_a_binary_file_is_refused(tmp_path):
    path = tmp_path / "image.yaml"
    path.write_bytes(b"\xff\xd8\xff\xe0\x00\x10")
    assert "cannot be read as a YAML file" in refusal(path)


@pytest.mark.parametrize(
    "text", ["seed: 1\nseed: 2", "train:\n  epochs: 1\n  epochs: 2", "train: {epochs: 1}\ntrain: {}"]
)
def test_a_repeated_key_is_refused(tmp_path, text):
    assert "appears twice" in refusal(recipe(tmp_path, text))


def test_a_key_that_is_no_word_is_refused(tmp_path):
    assert refusal(recipe(tmp_path, "1: 2"))
    assert refusal(recipe(tmp_path, "[1, 2]: 3"))


def test_yaml_that_would_make_objects_is_refused(tmp_path):
    assert "not valid YAML" in refusal(recipe(tmp_path, "seed: !!python/object/apply:os.getpid []"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.scale_jitter=2", "'augment.scale_jitter' is 2: expected a list, such as [2, 2]"),
        ("data.classes=cat,dog", "'data.classes' is 'cat,dog': expected a list, such as [cat,dog]"),
        ("train.freeze=backbone", "'train.freeze' is 'backbone': expected a list, such as [backbone]"),
        ("model=efficientdet_d2", "'model' is 'efficientdet_d2': expected a section of keys, such as model.name="),
        ("data=/data/mine", "'data' is '/data/mine': expected a section of keys, such as data.root=/data/mine"),
    ],
)
def test_a_single_value_instead_of_a_list_or_a_section_is_refused_with_an_example(override, message):
    assert message in refusal_of_changes("detection", override)


# Bases


def test_a_recipe_merges_with_its_base_which_lies_relative_to_it(tmp_path):
    (tmp_path / "bases").mkdir()
    recipe(tmp_path, "train: {epochs: 7, batch_size: 4}\nmodel: {image_size: [512, 512]}", "bases/parent.yaml")
    child = recipe(tmp_path, "base: bases/parent.yaml\ntrain: {epochs: 9}\nmodel: {image_size: [64, 96]}")
    config = load_config(child, ["train.batch_size=2"])
    assert (config.train.epochs, config.train.batch_size, config.model.image_size) == (9, 2, (64, 96))


def test_bases_may_have_bases(tmp_path):
    recipe(tmp_path, "seed: 1\ntrain: {epochs: 1, batch_size: 1}", "a.yaml")
    recipe(tmp_path, "base: a.yaml\ntrain: {epochs: 2}", "b.yaml")
    config = load_config(recipe(tmp_path, "base: b.yaml\ntrain: {log_every: 3}", "c.yaml"))
    assert (config.seed, config.train.epochs, config.train.batch_size, config.train.log_every) == (1, 2, 1, 3)


def test_null_in_a_child_removes_what_the_base_gave(tmp_path):
    recipe(tmp_path, "data: {val: {split: val2017}}", "parent.yaml")
    assert load_config(recipe(tmp_path, "base: parent.yaml\ndata: {val: null}")).data.val is None


def test_a_message_names_the_file_that_gave_the_key(tmp_path):
    parent = recipe(tmp_path, "train: {epoch: 7}\noptim: {learning_rate: 0}", "parent.yaml")
    child = recipe(tmp_path, "base: parent.yaml\ntrain: {batch: 9}")
    lines = refusal(child, "seed=x").splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["command line", str(parent), str(parent), str(child)]


def test_an_override_of_a_wrong_value_in_the_file_mends_it(tmp_path):
    parent = recipe(tmp_path, "train: {epochs: 0}", "parent.yaml")
    assert refusal(parent).startswith(str(parent))
    assert load_config(parent, ["train.epochs=1"]).train.epochs == 1


def test_recipes_that_are_each_others_base_are_refused(tmp_path):
    recipe(tmp_path, "base: b.yaml", "a.yaml")
    recipe(tmp_path, "base: a.yaml", "b.yaml")
    assert "leads back to this file" in refusal(tmp_path / "a.yaml")
    assert "leads back" in refusal(recipe(tmp_path, "base: recipe.yaml"))


def test_a_missing_base_is_refused_by_its_name(tmp_path):
    assert str(tmp_path / "none.yaml") in refusal(recipe(tmp_path, "base: none.yaml"))


def test_a_base_that_is_no_name_is_refused(tmp_path):
    assert "expected the name of one YAML file" in refusal(recipe(tmp_path, "base: [a.yaml, b.yaml]"))


# Back to YAML


def test_a_config_written_as_yaml_reads_back_equal(tmp_path):
    config = load_config(
        recipe(tmp_path, "model: {num_classes: 3, image_size: [64, 96]}\noutput_dir: runs/größe\ndata: {root: /data}"),
        [
            "optim.learning_rate=1e-7",
            "train.freeze=[backbone]",
            "augment.scale_jitter=null",
            "data.format=voc",
            "data.classes=[a, 'no']",
        ],
    )
    assert load_config(recipe(tmp_path, config.to_yaml(), "again.yaml")) == config
    assert make_config(config.to_dict()) == config


def test_the_config_of_a_classifier_written_as_yaml_reads_back_equal(tmp_path):
    config = changed(
        "classification",
        "data.format=csv",
        "data.root=/data",
        "augment.crop_area=null",
        "augment.rand_augment.layers=2",
        "progressive={image_size: [64, 96, 128], rand_augment_magnitude: [5, 8.33, 10]}",
        "optim={name: rmsprop, learning_rate: 1e-7, schedule: exponential, grad_clip_norm: null}",
    )
    assert load_config(recipe(tmp_path, config.to_yaml(), "again.yaml")) == config
    assert make_config(config.to_dict()) == config


@pytest.mark.parametrize("tree", TASKS.values())
def test_the_defaults_written_as_yaml_read_back_equal(tree):
    assert make_config(yaml.safe_load(tree().to_yaml())) == tree()


def test_a_mapping_is_refused_with_the_name_of_its_source():
    with pytest.raises(ConfigError, match=r"^Predictor: 'postprocess\.score_threshold' is 3"):
        make_config({"postprocess": {"score_threshold": 3}}, source="Predictor")


def test_a_value_that_is_no_text_in_utf_8_is_refused():
    with pytest.raises(ConfigError, match=r"is no text in UTF-8; correct that value"):
        load_config("lite0", ["data.format=shards", "data.url=\udcff"])
