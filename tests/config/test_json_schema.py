import copy
import json

import pytest
import yaml

from effdet.config import TASKS, make_config
from effdet.config.json_schema import recipe_schema
from effdet.config.recipe_files import list_recipes, recipes_folder
from effdet.config.section import keys_of

jsonschema = pytest.importorskip("jsonschema")

RECIPES = [recipes_folder() / f"{name}.yaml" for name in list_recipes()]


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(recipe_schema())


def problems(validator, text):
    return [error.message for error in validator.iter_errors(yaml.safe_load(text))]


def test_the_schema_is_a_schema_and_says_what_it_is():
    schema = recipe_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert all(schema[key] for key in ("$id", "title", "description"))


def test_the_schema_file_is_up_to_date():
    stored = json.loads((recipes_folder() / "schema.json").read_text(encoding="utf-8"))
    if "pydantic" in str(stored):
        raise AssertionError("the schema names the library that wrote it")
    assert stored == recipe_schema(), "run effdet config --schema > configs/schema.json"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid_and_names_the_schema_in_its_first_line(path, validator):
    text = path.read_text(encoding="utf-8")
    assert problems(validator, text) == []
    key, _, file = text.splitlines()[0].partition("$schema=")
    assert key == "# yaml-language-server: "
    assert (path.parent / file).resolve() == recipes_folder() / "schema.json"


@pytest.mark.parametrize("task", TASKS)
def test_a_recipe_written_by_a_run_is_valid(task, validator):
    assert problems(validator, make_config({"task": task}).to_yaml()) == []


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "seed: 3",
        "base: lite0\nmodel: {image_size: 512}",
        "model: {image_size: [384, 640], anchor_aspects: [[1, 1], [2, 0.5]]}",
        "base: classification/imagenet.yaml\nprogressive: {image_size: [128, 192]}",
        "task: classification\nmodel: {dropout: 0.3}",
        "data: {val: null, classes: [cat, dog], rename: {auto: car}}",
    ],
)
def test_what_the_program_accepts_is_valid(text, validator):
    tree = yaml.safe_load(text)
    make_config(
        {key: value for key, value in tree.items() if key != "base"}
        | ({"task": "classification"} if "progressive" in tree else {})
    )
    assert problems(validator, text) == []


@pytest.mark.parametrize(
    "text",
    [
        "modle: {}",
        "model: {num_clases: 3}",
        "model: {image_size: 8}",
        "model: {image_size: [512]}",
        "train: {epochs: 0}",
        "train: {epochs: many}",
        "optim: {name: adam}",
        "task: segmentation",
        "model: {dropout: 0.3}",
        "task: classification\nloss: {gamma: 2}",
        "base: [a, b]",
        "augment: {horizontal_flip: 2}",
        "- 1",
    ],
)
def test_what_the_program_refuses_is_not_valid(text, validator):
    assert problems(validator, text)


def test_every_key_has_a_description_and_a_default():
    schema = copy.deepcopy(recipe_schema())
    for task, config in TASKS.items():
        for key in keys_of(config):
            section, field = schema["$defs"][config.__name__], None
            for name in key.split("."):
                field = section["properties"][name]
                reference = next((text for text in (field, *field.get("anyOf", ())) if "$ref" in text), None)
                if reference:
                    section = schema["$defs"][reference["$ref"].rpartition("/")[2]]
            assert field.get("description") or section["description"], (task, key)
            assert "default" in field or "$ref" in str(field), (task, key)
