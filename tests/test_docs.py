"""The manual's commands: each has a verb that exists, arguments that it takes, and a recipe with such keys."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

from effdet.cli import VERBS
from effdet.cli.recipes import read_recipe, recipe_path
from effdet.config import load_config

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def commands():
    """(page, words) of every line in a block of code that calls a verb."""
    for page in PAGES:
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for block in (text for language, text in blocks if not language):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for place, word in enumerate(words):
                    tool = re.fullmatch(r"tools/(\w+)\.py", word)
                    if tool or (word == "effdet" and place == 0):
                        verb = [tool[1]] if tool else []
                        yield pytest.param([*verb, *words[place + 1 :]], id=f"{page.stem}: {line.strip()[:60]}")
                        break


def test_commands_are_found():
    assert len(list(commands())) > 30


@pytest.mark.parametrize("words", list(commands()))
def test_a_command_of_the_manual_is_understood(words, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    verb, *arguments = words
    assert verb in VERBS
    module = importlib.import_module(f"effdet.cli.{verb.replace('-', '_')}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    args = parser.parse_intermixed_args(arguments)
    if verb in ("train", "eval", "show-batch", "shards", "plan", "config") and recipe_path(args):
        config = read_recipe(args)
        assert not (config.model.weights and config.model.backbone_weights)


def test_keys_named_in_the_text_exist():
    known = {
        "data": set(),
        "train": set(),
        "model": set(),
        "augment": set(),
        "optim": set(),
        "eval": set(),
        "log": set(),
    }
    for recipe in ("configs/d0.yaml", "configs/classification/finetune.yaml"):
        config = load_config(REPOSITORY / recipe)
        for section, keys in known.items():
            keys |= set(type(getattr(config, section)).model_fields)
    for page in PAGES:
        for section, key in re.findall(r"`(\w+)\.(\w+)(?:[=:][^`]*)?`", page.read_text(encoding="utf-8")):
            if section in known and key not in ("jsonl", "csv"):
                assert key in known[section], f"{page.name}: {section}.{key}"
