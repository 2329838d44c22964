from pathlib import Path

import pytest
import torch

from effdet.config import load_config
from effdet.models import EFFICIENTDETS, build_efficientdet

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPES = sorted((REPOSITORY / "configs").rglob("*.yaml"))
NETWORKS = [name.removeprefix("efficientdet_") for name in EFFICIENTDETS]
PIXELS_OF_A_PART = 16 * 384 * 384  # the most, that of Lite1


def name_of(path):
    return path.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_loads_and_builds_its_network(path):
    config = load_config(path)
    with torch.device("meta"):
        model = build_efficientdet(
            config.model.name,
            config.model.num_classes or 3,
            image_size=config.model.image_size,
            padding=config.model.padding,
            drop_path=config.model.drop_path,
            norm_momentum=config.model.norm_momentum,
            anchor_scale=config.model.anchor_scale,
            anchor_aspects=config.model.anchor_aspects,
        )
    assert len(model.anchors) > 0


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_opens_with_what_it_is_and_its_command(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])
    assert f"python tools/train.py {name_of(path)}" in comment


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_all_parts_of_a_batch_are_of_one_size(path):
    train = load_config(path).train
    assert train.batch_size % train.accumulate == 0


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_part_of_a_batch_fits_a_common_machine(path):
    config = load_config(path)
    side = EFFICIENTDETS[config.model.name].image_size
    height, width = config.model.image_size or (side, side)
    images = config.train.batch_size // config.train.accumulate
    assert images == 1 or images * height * width <= PIXELS_OF_A_PART or path.parent.name == "detection"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_detector_has_a_recipe_of_its_name(network):
    config = load_config(REPOSITORY / "configs" / f"{network}.yaml")
    assert config.model.name == f"efficientdet_{network}"
    assert config.train.epochs == (600 if network in ("d7", "d7x") else 300)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_published_recipe_is_followed(network):
    config = load_config(REPOSITORY / "configs" / f"{network}.yaml")
    optim = config.optim
    assert (optim.name, optim.momentum, optim.weight_decay, optim.clip_norm) == ("sgd", 0.9, 4e-5, 10)
    assert (optim.learning_rate, optim.reference_batch, optim.warmup_epochs) == (0.08, 64, 1)
    assert optim.learning_rate * optim.warmup_start == pytest.approx(0.008)
    assert (config.loss.alpha, config.loss.gamma, config.loss.huber_delta, config.loss.box_weight) == (
        0.25,
        1.5,
        0.1,
        50,
    )
    assert (config.augment.horizontal_flip, config.augment.scale_jitter) == (0.5, (0.1, 2.0))
    assert config.train.ema_decay == 0.9998
