import copy
import json
import lzma
from pathlib import Path

import pytest
import torch

from effdet.cli import main
from effdet.config import TASKS, load_config, make_config, migrate
from effdet.config.migration import RENAMED_IN_2, RENAMED_IN_2_FOR_CLASSIFICATION, VERSION
from effdet.config.section import keys_of
from effdet.errors import ConfigError, WeightsError
from effdet.inference.predictor import Predictor
from effdet.training.resume import differences
from effdet.weights.checkpoint import load_checkpoint, read_tensors

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "checkpoints"
NAMES = {"detection": "detector", "classification": "classifier"}


def value_of(tree, key):
    for name in key.split("."):
        tree = tree[name]
    return tree


def nested(key, value):
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


# Mappings


@pytest.mark.parametrize(("old", "new"), RENAMED_IN_2.items())
def test_a_key_of_version_1_has_its_value_under_its_new_name(old, new):
    stored = nested(old, 5)
    before = copy.deepcopy(stored)
    assert migrate(stored) == {old.partition(".")[0]: {}, **nested(new, 5), "version": VERSION}
    assert stored == before


@pytest.mark.parametrize(("old", "new"), RENAMED_IN_2_FOR_CLASSIFICATION.items())
def test_mixing_of_version_1_is_an_alpha_for_classifiers_and_a_probability_for_detectors(old, new):
    assert value_of(migrate({"task": "classification", **nested(old, 0.2)}), new) == 0.2
    assert value_of(migrate({"task": "detection", **nested(old, 0.2)}), old) == 0.2


def test_new_names_are_keys_of_today_and_old_names_are_not():
    detection, classification = (keys_of(config) for config in TASKS.values())
    assert set(RENAMED_IN_2.values()) <= detection.keys() | classification.keys()
    assert set(RENAMED_IN_2_FOR_CLASSIFICATION.values()) <= classification.keys()
    assert not set(RENAMED_IN_2) & (detection.keys() | classification.keys())
    assert not set(RENAMED_IN_2_FOR_CLASSIFICATION) & classification.keys()


@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_of_today_stays_as_it_is(task):
    stored = TASKS[task]().to_dict()
    assert stored["version"] == VERSION
    assert migrate(stored) == stored
    assert make_config(migrate(stored)) == TASKS[task]()


def test_weights_without_a_recipe_stay_without_one():
    assert migrate({}) == {}


def test_a_section_that_is_null_or_absent_stays_so():
    migrated = migrate({"task": "classification", "progressive": None, "optim": {"rates": {"head": 2.0}}})
    assert migrated["progressive"] is None
    assert migrated["optim"] == {"lr_multipliers": {"head": 2.0}}
    assert "model" not in migrated


@pytest.mark.parametrize(
    ("version", "message"),
    [(VERSION + 1, "newer version of this package"), ("two", "is 'two'; expected a number"), (0, "is 0; expected")],
)
def test_a_version_that_cannot_be_read_is_refused(version, message):
    with pytest.raises(ConfigError, match=message):
        migrate({"version": version})
    with pytest.raises(ConfigError, match=f"^run: the recipe.*{message}"):
        make_config({"version": version}, source="run")


# Files


def test_a_file_that_says_an_older_version_is_migrated_as_a_base_too(tmp_path):
    (tmp_path / "old.yaml").write_text("version: 1\ntrain: {accumulate: 4, epochs: 3}")
    (tmp_path / "new.yaml").write_text("base: old.yaml\ntrain: {epochs: 5}")
    config = load_config(tmp_path / "new.yaml")
    assert (config.train.accumulation_steps, config.train.epochs, config.version) == (4, 5, VERSION)


def test_a_file_of_a_newer_version_is_refused_by_its_name(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"version: {VERSION + 1}")
    with pytest.raises(ConfigError, match=f"^{path}: the recipe is of version {VERSION + 1}"):
        load_config(path)


# Checkpoints


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The folders of two runs that the package wrote when recipes had version 1, by task; each holds last.pt."""
    root = tmp_path_factory.mktemp("stored")
    for name in NAMES.values():
        (root / name).mkdir()
        (root / name / "last.pt").write_bytes(lzma.decompress((GOLDEN / f"{name}.pt.xz").read_bytes()))
    return {task: root / name for task, name in NAMES.items()}


@pytest.fixture
def data_sets(tiny_data, shapes_data):
    return {"detection": tiny_data, "classification": shapes_data}


@pytest.mark.parametrize("task", TASKS)
def test_the_stored_recipes_use_every_renamed_key(stored, task):
    content = read_tensors(stored[task] / "last.pt")
    assert content["format"] == 2
    recipe = content["card"]["config"]
    assert "version" not in recipe
    names = dict(RENAMED_IN_2)
    if task == "classification":
        names |= RENAMED_IN_2_FOR_CLASSIFICATION
    for old, new in names.items():
        if new in keys_of(TASKS[task]):
            value_of(recipe, old)  # is there


def leaves(tree, prefix=""):
    """The values of a recipe by dotted key."""
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize("task", TASKS)
def test_a_stored_recipe_keeps_its_values(stored, task):
    card = load_checkpoint(stored[task] / "last.pt").card
    config = make_config(card.config)
    kept = dict(leaves(config.to_dict()))
    assert {key: kept.get(key) for key, _ in leaves(card.config)} == dict(leaves(card.config))
    assert (config.train.accumulation_steps, config.train.batch_norm, config.train.save_every_minutes) == (
        2,
        "batch",
        5,
    )
    assert config.train.activation_checkpointing
    optim = config.optim
    assert (optim.base_batch_size, optim.warmup_start_factor, optim.grad_clip_norm) == (8, 0.25, 5)
    assert list(optim.lr_multipliers.values()) == [0.5]
    assert (config.augment.rand_augment.layers, config.augment.rand_augment.magnitude) == (1, 7)
    if task == "detection":
        assert (config.augment.mixup, config.data.background_fraction, config.postprocess.nms) == (0.5, 0.2, "agnostic")
        assert card.postprocess == config.postprocess.model_dump()
        assert (config.model.antialias, card.spec.antialias) == (False, False)
        assert (config.model.letterbox, card.spec.letterbox) == (None, "pad")
    else:
        assert (config.augment.mixup_alpha, config.augment.cutmix_alpha) == (0.2, 0.3)
        stages = config.progressive
        assert (stages.rand_augment_magnitude, stages.mixup_alpha, stages.cutmix_alpha) == ((5, 9), (0, 0.1), (0, 0.2))


@torch.inference_mode()
@pytest.mark.parametrize("task", TASKS)
def test_a_stored_model_gives_the_recorded_outputs(stored, task):
    model = load_checkpoint(stored[task] / "last.pt").model
    outputs = model((torch.arange(3 * 64 * 64).reshape(1, 3, 64, 64) * 7 % 256).to(torch.uint8))
    given = {"logits": outputs[0]}
    if task == "detection":
        given = {name: getattr(outputs, name)[0, ::100, 0] for name in ("class_logits", "box_deltas")}
    recorded = json.loads((GOLDEN / "expected.json").read_text())[NAMES[task]]
    assert given.keys() == recorded.keys()
    for name, values in recorded.items():
        torch.testing.assert_close(given[name], torch.tensor(values), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_stored_model_is_evaluated_by_its_own_recipe(stored, data_sets, task, tmp_path):
    weights = stored[task] / "last.pt"
    arguments = ["--weights", str(weights), "--out", str(tmp_path), "--device", "cpu", f"data.root={data_sets[task]}"]
    assert main(["eval", *arguments]) == 0
    assert list(tmp_path.rglob("metrics.json"))


@pytest.mark.parametrize("task", TASKS)
def test_a_stored_model_predicts(stored, task):
    image = torch.randint(256, (90, 70, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    predictor = Predictor(stored[task] / "last.pt", device="cpu")
    assert len(list(predictor([image.numpy()]))) == 1


@pytest.mark.parametrize("task", TASKS)
def test_a_stored_run_is_resumed_by_the_same_recipe_in_keys_of_today(stored, data_sets, task, tmp_path, capsys):
    saved = load_checkpoint(stored[task] / "last.pt").card.config
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "last.pt").write_bytes((stored[task] / "last.pt").read_bytes())
    config = make_config(saved, [f"output_dir={folder}", f"data.root={data_sets[task]}", "train.max_steps=3"])
    (only,) = differences(saved, config.to_dict())
    assert only.startswith("changed too: output_dir: ")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(config.to_yaml())
    assert main(["train", str(recipe), "--resume", str(folder), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"resumed from {folder / 'last.pt'} after step 2" in printed
    assert only in printed
    assert load_checkpoint(folder / "last.pt").card.config["version"] == VERSION


def test_a_checkpoint_with_a_recipe_of_a_newer_version_is_refused_by_its_name(stored, tmp_path):
    content = read_tensors(stored["detection"] / "last.pt")
    content["card"]["config"]["version"] = VERSION + 1
    path = tmp_path / "newer.pt"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=f"^{path}: the recipe is of version {VERSION + 1}"):
        load_checkpoint(path)
