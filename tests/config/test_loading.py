from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

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


@pytest.mark.parametrize("config", [DetectionConfig(), ClassificationConfig()])
def test_a_config_cannot_be_changed(config):
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3


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


def test_what_the_tasks_share_is_no_recipe_of_its_own():
    with pytest.raises(ValidationError, match="task"):
        Config()


@pytest.mark.parametrize(
    ("task", "override", "other"),
    [
        ("classification", "model.anchor_scale=3", "detection"),
        ("classification", "model.backbone=efficientnet_b1", "detection"),
        ("classification", "data.classes=[a]", "detection"),
        ("classification", "augment.scale_jitter=null", "detection"),
        ("classification", "loss.gamma=2", "detection"),
        ("classification", "postprocess.iou_threshold=0.6", "detection"),
        ("detection", "model.dropout=0.1", "classification"),
        ("detection", "augment.cutmix_alpha=0.2", "classification"),
        ("detection", "progressive.image_size=[64, 96]", "classification"),
    ],
)
def test_a_key_of_the_other_task_is_refused_with_its_task(task, override, other):
    key = override.partition("=")[0]
    unknown = key if key.partition(".")[0] not in ("postprocess", "progressive") else key.partition(".")[0]
    message = refusal_of_changes(task, override)
    assert message.endswith(f"unknown key '{unknown}'; it belongs to task: {other}")


@pytest.mark.parametrize(("task", "name"), [("detection", "folders"), ("classification", "coco")])
def test_a_format_of_the_other_task_is_refused(task, name):
    assert f"'data.format' is '{name}'" in refusal_of_changes(task, f"data.format={name}")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("key", "value"), [("phi", 0), ("phi", 1.5), ("width", 2), ("depth", 1.1), ("drop_path", 0)])
def test_networks_are_scaled_by_any_number(task, key, value):
    assert getattr(changed(task, f"model.{key}={value}").model, key) == value


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
def test_an_override_of_a_path_is_taken_as_it_stands(tmp_path, text, value):
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


def test_a_key_of_another_section_is_suggested(tmp_path):
    assert "did you mean 'optim.learning_rate'?" in refusal(recipe(tmp_path, "learning_rate: 0.1"))
    assert "did you mean 'train.epochs'?" in refusal(recipe(tmp_path, "optim: {epochs: 3}"))


def test_suggestions_are_of_the_task_of_the_recipe():
    assert "did you mean 'model.dropout'?" in refusal_of_changes("classification", "model.drop_out=0.1")
    assert "did you mean 'augment.rand_augment.layers'?" in refusal_of_changes("classification", "layers=2")
    assert "did you mean 'model.anchor_scale'?" in refusal_of_changes("detection", "model.anchor_scales=3")
    sections = refusal_of_changes("classification", "zzz=1").partition("; sections are ")[2].split(", ")
    assert sections == list(ClassificationConfig.model_fields)


def test_all_wrong_keys_are_told_at_once(tmp_path):
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
        ("model: {image_size: 512}", "model.image_size"),
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


def test_a_missing_file_is_refused(tmp_path):
    assert refusal(tmp_path / "none.yaml").startswith(f"{tmp_path / 'none.yaml'}: no such recipe")
    assert "no such recipe" in refusal(tmp_path)


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
def test_a_key_that_stands_twice_is_refused(tmp_path, text):
    assert "stands twice" in refusal(recipe(tmp_path, text))


def test_a_key_that_is_no_word_is_refused(tmp_path):
    assert refusal(recipe(tmp_path, "1: 2"))
    assert refusal(recipe(tmp_path, "[1, 2]: 3"))


def test_yaml_that_would_make_objects_is_refused(tmp_path):
    assert "not valid YAML" in refusal(recipe(tmp_path, "seed: !!python/object/apply:os.getpid []"))


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


# Values that make no sense


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.scale_jitter=[2, 1]", "augment.scale_jitter is a range, the smaller scale first"),
        ("augment.scale_jitter=[0, 1]", "'augment.scale_jitter.0' is 0: input should be greater than 0"),
        ("model.image_size=[0, 64]", "'model.image_size.0' is 0: input should be greater than or equal to 32"),
        ("model.anchor_aspects=[]", "'model.anchor_aspects' is []"),
        ("optim.learning_rate=.nan", "'optim.learning_rate' is nan: input should be a finite number"),
        ("seed=18446744073709551616", "'seed' is 18446744073709551616"),
        ("data.classes=[a]", "data.classes is for Pascal VOC alone"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(override, message):
    with pytest.raises(ConfigError, match="command line") as error:
        make_config({}, [override])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("augment.crop_area=[0, 1]", "'augment.crop_area.0' is 0: input should be greater than 0"),
        ("augment.crop_area=[1, 0.5]", "augment.crop_area is a range, the smaller value first"),
        ("augment.crop_area=[0.5, 1.5]", "augment.crop_area is a share of the image, at most 1"),
        ("augment.crop_area=[0.5]", "'augment.crop_area"),
        ("augment.crop_aspect=[2, 1]", "augment.crop_aspect is a range, the smaller value first"),
        ("augment.crop_aspect=[0, 1]", "'augment.crop_aspect.0' is 0: input should be greater than 0"),
        ("augment.crop_aspect=null", "'augment.crop_aspect' is None"),
        ("augment.rand_augment.layers=-1", "'augment.rand_augment.layers' is -1"),
        (
            "augment.rand_augment.magnitude=31",
            "'augment.rand_augment.magnitude' is 31: input should be less than or equal to 30",
        ),
        ("augment.mixup=-0.1", "'augment.mixup' is -0.1"),
        ("augment.random_erasing=2", "'augment.random_erasing' is 2"),
        ("model.dropout=1.5", "'model.dropout' is 1.5"),
        ("model.phi=-1", "'model.phi' is -1: input should be greater than or equal to 0"),
        ("model.width=0", "'model.width' is 0: input should be greater than 0"),
        ("model.depth=deep", "'model.depth' is 'deep': input should be a valid number"),
        ("optim.schedule=step", "'optim.schedule' is 'step': input should be 'cosine' or 'exponential'"),
        ("optim.decay_factor=0", "'optim.decay_factor' is 0: input should be greater than 0"),
        ("progressive={}", "progressive: names no stages; give image_size as a list such as [128, 192, 256]"),
        ("progressive.image_size=[]", "progressive: names no stages"),
        ("progressive.image_size=64", "'progressive.image_size' is 64: input should be a valid tuple"),
        ("progressive.image_size=[16, 64]", "'progressive.image_size.0' is 16: input should be greater than"),
        ("progressive.image_size=[64.5, 96]", "'progressive.image_size.0' is 64.5: input should be a valid integer"),
        ("progressive.rand_augment_magnitude=[-1, 5]", "'progressive.rand_augment_magnitude.0' is -1"),
        ("progressive.dropout=[0.1, 2]", "'progressive.dropout.1' is 2: input should be less than or equal to 1"),
        (
            "progressive={image_size: [64, 96], mixup_alpha: [0]}",
            "every list needs one value per stage, but the lists are of lengths image_size 2, mixup 1",
        ),
    ],
)
def test_a_value_that_makes_no_sense_for_a_classifier_is_refused(override, message):
    text = refusal_of_changes("classification", override)
    assert text.startswith("command line: ")
    assert message in text


def test_stages_of_randaugment_need_layers(tmp_path):
    stages = "progressive.rand_augment_magnitude=[5, 10]"
    message = refusal_of_changes("classification", stages)
    assert (
        "progressive.rand_augment_magnitude changes RandAugment, but augment.rand_augment.layers is 0; set it to 2"
        in message
    )
    config = changed("classification", stages, "augment.rand_augment.layers=2")
    assert config.progressive.rand_augment_magnitude == (5.0, 10.0)


def test_stages_are_counted_by_any_list():
    assert ProgressiveConfig(image_size=(64, 96, 128)).num_stages == 3
    assert ProgressiveConfig(dropout=(0.1, 0.2)).num_stages == 2
