import dataclasses

import pytest
from pydantic import ValidationError

from effdet.config import (
    TASKS,
    ClassificationConfig,
    Config,
    DetectionConfig,
    DetectionLossConfig,
    PostprocessConfig,
    ProgressiveConfig,
    make_config,
)
from effdet.config.section import keys_of
from effdet.errors import ConfigError
from effdet.types import DetectionLossOptions, PostprocessOptions


def changed(task, *overrides):
    return make_config({"task": task}, overrides)


def refusal(task, *overrides):
    with pytest.raises(ConfigError) as error:
        changed(task, *overrides)
    return str(error.value)


@pytest.mark.parametrize("config", [DetectionConfig(), ClassificationConfig()])
def test_a_config_cannot_be_changed(config):
    with pytest.raises(ValueError, match="frozen"):
        config.train.epochs = 3


def test_the_common_config_is_no_recipe_of_its_own():
    with pytest.raises(ValidationError, match="task"):
        Config()


def test_options_that_code_without_a_recipe_has_too_have_one_default():
    assert PostprocessConfig().model_dump() == dataclasses.asdict(PostprocessOptions())
    assert DetectionLossConfig().model_dump(exclude={"class_weights"}) == dataclasses.asdict(DetectionLossOptions())


def test_every_key_is_listed_with_the_types_of_its_value():
    keys = keys_of(ClassificationConfig)
    assert keys["seed"] == {int}
    assert keys["model.weights"] == {str, type(None)}
    assert {"data.val.split", "augment.rand_augment.layers", "progressive.image_size"} < keys.keys()


@pytest.mark.parametrize(("task", "name"), [("detection", "folders"), ("classification", "coco")])
def test_a_format_of_the_other_task_is_refused(task, name):
    assert f"'data.format' is '{name}'" in refusal(task, f"data.format={name}")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(("key", "value"), [("phi", 0), ("phi", 1.5), ("width", 2), ("depth", 1.1), ("drop_path", 0)])
def test_models_are_scaled_by_any_number(task, key, value):
    assert getattr(changed(task, f"model.{key}={value}").model, key) == value


def test_early_stopping_needs_evaluations():
    assert "train.patience (early stopping) needs evaluations" in refusal(
        "detection", "train.patience=3", "data.val=null"
    )
    assert "needs evaluations" in refusal("classification", "train.patience=3", "eval.every_epochs=0")
    assert changed("detection", "train.patience=3").train.patience == 3


# Values that make no sense


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "augment.scale_jitter=[2, 1]",
            "'augment.scale_jitter' is [2, 1]: expected a range [low, high] with the lower value first",
        ),
        ("augment.scale_jitter=[0, 1]", "'augment.scale_jitter.0' is 0: input should be greater than or equal to 0.01"),
        ("model.image_size=[0, 64]", "'model.image_size.0' is 0: input should be greater than or equal to 32"),
        ("model.anchor_aspects=[]", "'model.anchor_aspects' is []"),
        ("optim.learning_rate=.nan", "'optim.learning_rate' is nan: input should be a finite number"),
        ("seed=18446744073709551616", "'seed' is 18446744073709551616"),
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
        ("augment.crop_area=[1, 0.5]", "'augment.crop_area' is [1, 0.5]: expected a range"),
        ("augment.crop_area=[0.5, 1.5]", "'augment.crop_area.1' is 1.5: input should be less than or equal to 1"),
        ("augment.crop_area=[0.5]", "'augment.crop_area"),
        ("augment.crop_aspect=[2, 1]", "'augment.crop_aspect' is [2, 1]: expected a range"),
        ("augment.crop_aspect=[0, 1]", "'augment.crop_aspect.0' is 0: input should be greater than or equal to 0.01"),
        ("augment.crop_aspect=null", "'augment.crop_aspect' is None"),
        ("augment.rand_augment.layers=-1", "'augment.rand_augment.layers' is -1"),
        (
            "augment.rand_augment.magnitude=31",
            "'augment.rand_augment.magnitude' is 31: input should be less than or equal to 30",
        ),
        ("augment.mixup_alpha=-0.1", "'augment.mixup_alpha' is -0.1"),
        ("augment.random_erasing=2", "'augment.random_erasing' is 2"),
        ("model.dropout=1.5", "'model.dropout' is 1.5"),
        ("model.phi=-1", "'model.phi' is -1: input should be greater than or equal to 0"),
        ("model.width=0", "'model.width' is 0: input should be greater than 0"),
        ("model.depth=deep", "'model.depth' is 'deep': input should be a valid number"),
        ("optim.schedule=step", "'optim.schedule' is 'step': input should be 'cosine' or 'exponential'"),
        ("optim.decay_factor=0", "'optim.decay_factor' is 0: input should be greater than 0"),
        ("progressive={}", "progressive has no stages; give image_size as a list such as [128, 192, 256]"),
        ("progressive.image_size=[]", "progressive has no stages"),
        ("progressive.image_size=64", "'progressive.image_size' is 64: expected a list"),
        ("progressive.image_size=[16, 64]", "'progressive.image_size.0' is 16: input should be greater than"),
        ("progressive.image_size=[64.5, 96]", "'progressive.image_size.0' is 64.5: input should be a valid integer"),
        ("progressive.rand_augment_magnitude=[-1, 5]", "'progressive.rand_augment_magnitude.0' is -1"),
        ("progressive.dropout=[0.1, 2]", "'progressive.dropout.1' is 2: input should be less than or equal to 1"),
        (
            "progressive={image_size: [64, 96], mixup_alpha: [0]}",
            "every list needs one value per stage, but their lengths are image_size 2, mixup_alpha 1",
        ),
    ],
)
def test_a_value_that_makes_no_sense_for_a_classifier_is_refused(override, message):
    text = refusal("classification", override)
    assert text.startswith("command line: ")
    assert message in text


def test_stages_of_randaugment_need_layers(tmp_path):
    stages = "progressive.rand_augment_magnitude=[5, 10]"
    message = refusal("classification", stages)
    assert (
        "progressive.rand_augment_magnitude changes RandAugment, but augment.rand_augment.layers is 0; set it to 2"
        in message
    )
    config = changed("classification", stages, "augment.rand_augment.layers=2")
    assert config.progressive.rand_augment_magnitude == (5.0, 10.0)


def test_stages_are_counted_by_any_list():
    assert ProgressiveConfig(image_size=(64, 96, 128)).num_stages == 3
    assert ProgressiveConfig(dropout=(0.1, 0.2)).num_stages == 2
