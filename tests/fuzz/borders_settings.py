"""Borders of settings: recipes and changes of them, the card of a checkpoint, and the card in an exported file."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import yaml

from .border import Border, damages
from .mutate import mutate_text, mutate_tree, write_text

RECIPE = """\
base: parent.yaml
model: {name: efficientdet_lite0, image_size: [128, 160], anchor_aspects: [[1.0, 1.0], [1.4, 0.7]]}
data:
  root: data
  format: coco
  val: {fraction: 0.25}
  classes: [cat, "dog", "2017"]
  rename: {auto: car}
  value_range: [0, 4095.5]
loss: &loss {class_weights: {cat: 2}, iou: giou}
optim: {learning_rate: 0.01, lr_multipliers: {backbone: 0.1}}
train: {epochs: 3, batch_size: 4, precision: fp32, freeze: [backbone], ema_decay: null}
augment: {scale_jitter: [0.5, 1.5], rand_augment: {layers: 2}}
"""
PARENT = "seed: 1\nlog: {trackers: [tensorboard]}\npostprocess: {nms: soft}\n"
CLASSIFIER = """\
task: classification
model: {name: efficientnet_b0, num_classes: 12, dropout: 0.2}
data: {format: folders, root: "images", workers: 0}
augment: {crop_area: [0.2, 1.0], mixup_alpha: 0.2}
progressive: {image_size: [64, 96, 128], dropout: [0.1, 0.2, 0.3]}
train: {epochs: 9, patience: 2}
"""
TOKENS = (
    *(
        "base: parent.yaml",
        "base: recipe.yaml",
        "base: [parent]",
        "*loss",
        "<<: *loss",
        "!!python/object/apply:os.system [ls]",
    ),
    *("!!binary x", "!!set {a}", "? [a]\n: b\n", "---\n", "version: 1\n", "version: 99\n", "task: [detection]\n"),
    *(
        "model: *loss\n",
        "&a [*a]",
        "2001-01-01",
        "0o17",
        "~",
        "!!float x",
        "\t",
        "augment: {multi_scale: [1e9, 1e9]}\n",
    ),
)
OVERRIDES = (
    *("train.epochs=2", "model.image_size=[64,64]", "data.classes=[a,b]", "loss.iou=ciou", "train.=1", ".=.", "=", "a"),
    *("data.root=/x:y", "optim.lr=0.1", "a.b.c.d=1", "model=null", "model=[1]", "train.epochs={", "version=1"),
)


def _make_recipe(rng: random.Random, folder: Path) -> Path:
    texts = {"parent": PARENT, "recipe": rng.choice((RECIPE, CLASSIFIER))}
    overrides: list[str] = []
    for _ in range(damages(rng, folder)):
        kind = rng.randrange(6)
        name = "parent" if kind == 0 else "recipe"
        if kind == 1:
            overrides.append(mutate_text(rng, rng.choice(OVERRIDES)).replace("\0", "").replace("\ud800", ""))
        elif kind < 4:
            texts[name] = _mutate_yaml(rng, texts[name])
        else:
            texts[name] = mutate_text(rng, texts[name], TOKENS)
    for name, text in texts.items():
        write_text(folder / f"{name}.yaml", text)
    write_text(folder / "overrides.json", json.dumps(overrides))
    return folder / "recipe.yaml"


def _mutate_yaml(rng: random.Random, text: str) -> str:
    """A recipe with a damaged tree; one that is no YAML any more gets damage of its text."""
    try:
        tree = yaml.safe_load(text)
    except Exception:
        return mutate_text(rng, text, TOKENS)
    if not isinstance(tree, dict):
        return mutate_text(rng, text, TOKENS)
    return json.dumps(mutate_tree(rng, tree), default=str)  # JSON is YAML


def _read_recipe(path: Path) -> None:
    from effdet.config import load_config, make_config

    config = load_config(path, json.loads((path.parent / "overrides.json").read_text()))
    written = write_text(path.parent / "written.yaml", config.to_yaml())
    assert load_config(written) == config, "written and read again, it is another recipe"
    assert make_config(json.loads(json.dumps(config.to_dict()))) == config
    json.dumps(config.to_dict(), allow_nan=False)


@functools.cache
def _card() -> Any:
    from effdet.config import make_config
    from effdet.models import ModelOptions, make_spec
    from effdet.types import PostprocessOptions
    from effdet.weights.card import ModelCard

    spec = make_spec(ModelOptions("efficientdet_lite0", image_size=(64, 64)))
    config = make_config({"model": {"name": "efficientdet_lite0"}, "data": {"root": "data"}}).to_dict()
    return ModelCard(
        spec,
        ("cat", "dog"),
        (3, 7),
        postprocess=vars(PostprocessOptions()),
        metrics={"AP": 0.5},
        score_threshold=0.4,
        class_thresholds=(0.3, 0.5),
        temperature=1.5,
        config=config,
        versions={"torch": "2.0"},
    )


def plain_card() -> dict[str, Any]:
    """The card of a detector of two classes as plain containers."""
    return json.loads(json.dumps(_card().to_dict()))


def _make_card(rng: random.Random, folder: Path) -> Path:
    from effdet.types import PostprocessOptions
    from effdet.weights.exported import ExportCard

    export = ExportCard(_card(), "detections", postprocess=PostprocessOptions(), source="best.pt")
    tree: Any = json.loads(export.to_json())
    count = damages(rng, folder)
    as_text = rng.random() < 0.2
    for _ in range(0 if as_text else count):
        tree = mutate_tree(rng, tree) if rng.random() < 0.5 else {**tree, "model": mutate_tree(rng, tree["model"])}
        if not isinstance(tree, dict) or "model" not in tree:
            break
    text = json.dumps(tree)
    for _ in range(count if as_text else 0):
        text = mutate_text(rng, text)
    return write_text(folder / "card.json", text)


def _read_card(path: Path) -> None:
    from effdet.runtimes.metadata import read_description
    from effdet.weights.card import recipe_of
    from effdet.weights.exported import ExportCard

    described = read_description(path)
    assert isinstance(described, ExportCard)
    check_card_is_sound(described.model)
    assert described.batch_size is None or described.batch_size > 0
    described.to_json()
    recipe_of(described.model, path)


def check_card_is_sound(card: Any) -> None:
    """Asserts that a card can be used: one name and id of each class, sizes, and rates between 0 and 1."""
    from effdet.types import PostprocessOptions

    assert 0 < len(card.class_names) == len(card.category_ids) == len(set(card.category_ids))
    assert all(isinstance(name, str) for name in card.class_names)
    assert all(type(number) is int for number in card.category_ids)
    assert all(0 < side <= 16384 for side in card.spec.image_size)
    assert len(card.spec.backbone.mean) == len(card.spec.backbone.std) == card.spec.in_channels
    assert min(card.spec.backbone.std) > 0
    assert all(0 <= value <= 1 for value in card.class_thresholds)
    assert card.class_thresholds == () or len(card.class_thresholds) == len(card.class_names)
    assert card.value_range is None or card.value_range[0] < card.value_range[1], "black is not below white"
    if card.task == "detection":
        options = PostprocessOptions(**card.postprocess)
        assert 0 <= options.score_threshold <= 1
        assert options.max_detections >= 1
    "".join(card.class_names).encode()


BORDERS = (
    Border("recipe", _make_recipe, _read_recipe),
    Border("card", _make_card, _read_card),
)
