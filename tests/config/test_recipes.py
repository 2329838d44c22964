import functools
from pathlib import Path

import pytest
import torch

from effdet.config import DetectionConfig, load_config
from effdet.models import EFFICIENTDETS, EfficientDet, make_spec
from effdet.models.analysis import activation_bytes
from effdet.weights.create import options_of

REPOSITORY = Path(__file__).resolve().parent.parent.parent
RECIPES = sorted((REPOSITORY / "configs").rglob("*.yaml"))
CLASSIFICATION = [path for path in RECIPES if path.parent.name == "classification"]
DETECTION = [path for path in RECIPES if path not in CLASSIFICATION]
BASE_OF_DETECTORS = "configs/detection/coco.yaml"  # names no model
D_NETWORKS = ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x")
LITE_DETECTORS = ("lite0", "lite1", "lite2", "lite3", "lite3x", "lite4")
DETECTORS = D_NETWORKS + LITE_DETECTORS
B_NETWORKS = ("b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7")
LITE_NETWORKS = ("lite0", "lite1", "lite2", "lite3", "lite4")
V2_NETWORKS = ("v2_s", "v2_m", "v2_l")
V2_B_NETWORKS = ("v2_b0", "v2_b1", "v2_b2", "v2_b3")
CLASSIFIERS = B_NETWORKS + LITE_NETWORKS + V2_NETWORKS + V2_B_NETWORKS
MAX_PIXELS = 16 * 384 * 384  # of a micro-batch, that of the detector Lite1
MAX_BYTES = 5.5 * 2**30  # of a micro-batch's activations in float32, about those of Lite1; half of it in bfloat16


def name_of(path):
    return path.relative_to(REPOSITORY).as_posix()


@functools.cache
def config_of(path):
    return load_config(path)


def detector(network):
    return config_of(REPOSITORY / "configs" / f"{network}.yaml")


def classifier(network):
    return config_of(REPOSITORY / "configs" / "classification" / f"{network}.yaml")


@functools.cache
def network_of(path):
    model = config_of(path).model
    with torch.device("meta"):
        return make_spec(options_of(model)).build(model.num_classes or 3)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_loads_and_builds_its_network(path):
    config, model = config_of(path), network_of(path)
    assert isinstance(model, EfficientDet) == isinstance(config, DetectionConfig)
    assert model.num_classes == (config.model.num_classes or 3)


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_a_recipe_opens_with_what_it_is_and_its_command(path):
    _, *lines = path.read_text(encoding="utf-8").splitlines()  # the first one names the schema for editors
    comment = "\n".join(lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))])
    assert not comment.startswith("#   ")
    name = name_of(path).removeprefix("configs/").removesuffix(".yaml")
    assert f"#   effdet train {name}" in comment.splitlines()[1:] or f"#   effdet train {name} " in comment


def test_the_recipes_of_classifiers_are_in_a_folder_of_their_own():
    assert {config_of(path).task for path in CLASSIFICATION} == {"classification"}
    assert {config_of(path).task for path in DETECTION} == {"detection"}


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_all_micro_batches_have_one_size(path):
    train = config_of(path).train
    assert train.batch_size % train.accumulation_steps == 0


# Detection


@pytest.mark.parametrize("path", [path for path in DETECTION if name_of(path) != BASE_OF_DETECTORS], ids=name_of)
def test_a_micro_batch_of_a_detector_fits_a_common_machine(path):
    config = config_of(path)
    height, width = make_spec(options_of(config.model)).image_size
    images = config.train.batch_size // config.train.accumulation_steps
    assert images == 1 or images * height * width <= MAX_PIXELS


@pytest.mark.parametrize("network", DETECTORS)
def test_every_published_detector_has_a_recipe_of_its_name(network):
    config = detector(network)
    assert config.model.name == f"efficientdet_{network}"
    assert config.train.epochs == (600 if network in ("d7", "d7x") else 300)


@pytest.mark.parametrize("network", DETECTORS)
def test_the_published_recipe_of_detectors_is_followed(network):
    config = detector(network)
    optim = config.optim
    assert (optim.name, optim.momentum, optim.weight_decay, optim.grad_clip_norm) == ("sgd", 0.9, 4e-5, 10)
    assert (optim.learning_rate, optim.base_batch_size, optim.warmup_epochs) == (0.08, 64, 1)
    assert optim.learning_rate * optim.warmup_start_factor == pytest.approx(0.008)
    assert optim.schedule == "cosine"
    assert (config.loss.alpha, config.loss.gamma, config.loss.huber_delta, config.loss.box_weight) == (
        0.25,
        1.5,
        0.1,
        50,
    )
    assert (config.augment.horizontal_flip, config.augment.scale_jitter) == (0.5, (0.1, 2.0))
    assert config.train.ema_decay == 0.9998
    assert config.model.norm_momentum == 0.01


@pytest.mark.parametrize("network", DETECTORS)
def test_a_recipe_names_the_backbone_that_imagenet_weights_are_of(network):
    comment = (REPOSITORY / "configs" / f"{network}.yaml").read_text(encoding="utf-8").partition("base:")[0]
    assert "model.weights=coco" in comment
    if detector(network).model.weights is None:
        assert f"from {EFFICIENTDETS[f'efficientdet_{network}'].backbone.name}," in comment


# Classification


@pytest.mark.parametrize("path", CLASSIFICATION, ids=name_of)
def test_a_micro_batch_of_a_classifier_fits_a_common_machine(path):
    config = config_of(path)
    images, size = (
        config.train.batch_size // config.train.accumulation_steps,
        make_spec(options_of(config.model)).image_size,
    )
    if config.progressive:
        size = (max(config.progressive.image_size),) * 2
    assert images == 1 or images * activation_bytes(network_of(path), size) <= MAX_BYTES


@pytest.mark.parametrize("network", CLASSIFIERS)
def test_every_published_classifier_has_a_recipe_of_its_name(network):
    family, _, size = network.rpartition("_")
    assert classifier(network).model.name == f"efficientnet{family}_{size}"


@pytest.mark.parametrize("network", CLASSIFIERS)
def test_the_published_recipe_of_classifiers_is_followed(network):
    config = classifier(network)
    optim = config.optim
    assert (optim.name, optim.momentum, optim.weight_decay, optim.grad_clip_norm) == ("rmsprop", 0.9, 1e-5, None)
    assert (optim.learning_rate, optim.base_batch_size) == (0.016, 256)
    assert (optim.warmup_epochs, optim.warmup_start_factor) == (5, 0)
    assert (optim.schedule, optim.decay_factor, optim.decay_epochs) == ("exponential", 0.97, 2.4)
    assert (config.train.epochs, config.train.ema_decay, config.loss.label_smoothing) == (350, 0.9999, 0.1)
    assert (config.augment.horizontal_flip, config.augment.random_erasing) == (0.5, 0)
    assert config.augment.crop_aspect == pytest.approx((3 / 4, 4 / 3))
    assert config.augment.crop_area == ((0.05, 1) if network in V2_NETWORKS else (0.08, 1))
    assert (config.augment.mixup_alpha, config.augment.cutmix_alpha) == (0, 0)
    assert config.model.norm_momentum == (0.1 if network.startswith("v2_") else 0.01)
    assert (config.model.weights, config.model.image_size) == (None, None)


@pytest.mark.parametrize("network", CLASSIFIERS)
def test_dropout_and_stochastic_depth_are_those_of_the_networks(network):
    model = classifier(network).model
    assert (model.dropout, model.drop_path) == (None, None)
    assert make_spec(options_of(model)).drop_path == 0.2


@pytest.mark.parametrize(("network", "magnitude"), [("b5", 17), ("b7", 28)])
def test_randaugment_is_as_published(network, magnitude):
    augment = classifier(network).augment
    assert (augment.rand_augment.layers, augment.rand_augment.magnitude) == (2, magnitude)


def test_randaugment_is_stronger_for_larger_networks():
    magnitudes = [classifier(network).augment.rand_augment.magnitude for network in B_NETWORKS]
    assert magnitudes == sorted(set(magnitudes))
    assert {classifier(network).augment.rand_augment.layers for network in B_NETWORKS} == {2}


@pytest.mark.parametrize("network", [*[name for name in B_NETWORKS if name not in ("b5", "b7")], *V2_B_NETWORKS])
def test_where_randaugment_stands_in_the_recipe_says_so(network):
    text = (REPOSITORY / "configs" / "classification" / f"{network}.yaml").read_text(encoding="utf-8")
    assert "RandAugment stands in" in text
    assert "our choice" in " ".join(text.replace("#", "").split())


@pytest.mark.parametrize("network", LITE_NETWORKS)
def test_lite_is_augmented_by_crop_and_flip_alone(network):
    assert classifier(network).augment.rand_augment.layers == 0


@pytest.mark.parametrize(
    ("network", "train_size", "eval_size", "magnitude", "alpha"),
    [
        ("v2_s", 300, 384, 10, 0),
        ("v2_m", 384, 480, 15, 0.2),
        ("v2_l", 384, 480, 20, 0.5),
        ("v2_b0", 192, 224, None, 0),
        ("v2_b1", 192, 240, None, 0),
        ("v2_b2", 208, 260, None, 0),
        ("v2_b3", 240, 300, None, 0),
    ],
)
def test_progressive_learning_follows_the_reference_code(network, train_size, eval_size, magnitude, alpha):
    config = classifier(network)
    progressive, stages = config.progressive, range(4)
    assert progressive.num_stages == 4
    assert progressive.image_size == tuple(int(128 + (train_size - 128) * (stage + 1) / 4) for stage in stages)
    assert make_spec(options_of(config.model)).image_size == (eval_size, eval_size)
    assert progressive.dropout is None  # a line of the reference that raises it is switched off
    if magnitude is None:
        assert progressive.rand_augment_magnitude is None
    else:
        expected = [5 + (magnitude - 5) * stage / 3 for stage in stages]
        assert progressive.rand_augment_magnitude == pytest.approx(expected, abs=0.005)
    assert progressive.mixup_alpha == progressive.cutmix_alpha
    assert (progressive.mixup_alpha or (0,) * 4) == pytest.approx([alpha * stage / 3 for stage in stages], abs=5e-4)


def test_other_classifiers_have_no_stages():
    assert {classifier(network).progressive for network in (*B_NETWORKS, *LITE_NETWORKS)} == {None}


# Fine-tuning and training from scratch

# What these recipes settle; the model, its micro-batches and the data are for the user to change.
STARTING_POINTS = {
    "configs/finetune.yaml": {
        "model": {"name": "efficientdet_d0", "weights": "coco", "backbone_weights": None, "norm_momentum": 0.1},
        "augment": {"scale_jitter": (0.6, 1.4), "mosaic": 0, "mixup": 0, "copy_paste": 0},
        "optim": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "base_batch_size": None,
            "momentum": 0.9,
            "weight_decay": 1e-4,
        }
        | {"warmup_epochs": 2, "warmup_start_factor": 0.1, "schedule": "cosine", "grad_clip_norm": 10},
        "train": {"epochs": 20, "batch_size": 16, "ema_decay": 0.999, "batch_norm": "auto", "freeze": ()},
    },
    "configs/scratch.yaml": {
        "model": {"name": "efficientdet_d0", "weights": None, "backbone_weights": None, "norm_momentum": 0.01},
        "augment": {"scale_jitter": (0.1, 2.0), "mosaic": 0, "mixup": 0, "copy_paste": 0},
        "optim": {"name": "sgd", "learning_rate": 0.08, "base_batch_size": 64, "momentum": 0.9, "weight_decay": 4e-5}
        | {"warmup_epochs": 1, "warmup_start_factor": 0.1, "schedule": "cosine", "grad_clip_norm": 10},
        "train": {"epochs": 300, "batch_size": 16, "ema_decay": 0.9998, "batch_norm": "auto", "freeze": ()},
    },
    "configs/classification/finetune.yaml": {
        "model": {"name": "efficientnet_lite0", "weights": "imagenet", "norm_momentum": 0.1, "drop_path": 0.1},
        "augment": {"crop_area": (0.5, 1), "mixup_alpha": 0, "cutmix_alpha": 0},
        "optim": {
            "name": "adamw",
            "learning_rate": 1e-3,
            "base_batch_size": None,
            "momentum": 0.9,
            "weight_decay": 1e-2,
        }
        | {"warmup_epochs": 1, "warmup_start_factor": 0.1, "schedule": "cosine", "grad_clip_norm": 10},
        "train": {"epochs": 8, "batch_size": 32, "ema_decay": 0.99, "batch_norm": "auto", "freeze": ()},
    },
    "configs/classification/scratch.yaml": {
        "model": {"name": "efficientnet_b0", "weights": None, "norm_momentum": 0.01, "drop_path": None},
        "augment": {"crop_area": (0.08, 1), "mixup_alpha": 0, "cutmix_alpha": 0},
        "optim": {"name": "rmsprop", "learning_rate": 0.016, "base_batch_size": 256, "momentum": 0.9}
        | {"weight_decay": 1e-5, "warmup_epochs": 5, "warmup_start_factor": 0, "schedule": "exponential"}
        | {"decay_factor": 0.97, "decay_epochs": 2.4, "grad_clip_norm": None},
        "train": {"epochs": 350, "batch_size": 256, "ema_decay": 0.9999, "batch_norm": "auto", "freeze": ()},
    },
}


@pytest.mark.parametrize("name", STARTING_POINTS)
def test_a_recipe_to_start_from_has_its_values(name):
    config = config_of(REPOSITORY / name)
    for section, values in STARTING_POINTS[name].items():
        given = getattr(config, section)
        assert {key: getattr(given, key) for key in values} == values, section
    assert (config.data.root, config.output_dir) == (None, None)
    assert "# What to change:" in (REPOSITORY / name).read_text(encoding="utf-8")


def test_a_detector_is_fine_tuned_as_in_the_measured_recipe_but_from_coco_more_gently_and_longer():
    config, measured = detector("finetune"), detector("bccd")
    assert differing_keys(config, measured) == {
        *("data.format", "data.train.split", "data.val.split", "model.name", "model.image_size", "model.weights"),
        *("optim.learning_rate", "eval.every_epochs"),
        *("train.epochs", "train.batch_size", "train.accumulation_steps", "train.ema_decay"),
    }
    assert config.optim.learning_rate < measured.optim.learning_rate
    assert config.train.epochs > measured.train.epochs


def test_training_from_scratch_is_training_by_the_papers_recipe():
    assert detector("scratch") == detector("d0")
    assert differing_keys(detector("scratch"), DetectionConfig()) == {"train.batch_size", "train.accumulation_steps"}
    assert differing_keys(classifier("scratch"), classifier("imagenet")) == {"data.workers"}


def test_the_model_of_a_recipe_to_start_from_is_an_override():
    config = load_config(
        REPOSITORY / "configs" / "finetune.yaml", ["model.name=efficientdet_d2", "data.root=/data/mine"]
    )
    assert (config.model.name, config.model.weights) == ("efficientdet_d2", "coco")


def differing_keys(one, other):
    """The dotted keys in which two recipes differ."""
    one, other = (dict(leaves(config.to_dict())) for config in (one, other))
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def leaves(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
