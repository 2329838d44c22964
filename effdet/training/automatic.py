"""The recipe of a training for which none is given: it fits the data set, the weights at hand, and the hardware.

Recipes that are given are read in `config/loading.py`. The choice is printed as the command that says the same.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console

from effdet.config import ClassificationConfig, Config, DataConfig, DetectionConfig, load_config, make_config
from effdet.data.formats import read_tables, task_of_data
from effdet.data.image_table import ImageTable
from effdet.devices import pick_device
from effdet.errors import ConfigError, WeightsError
from effdet.models import ModelOptions, ModelSpec, make_spec
from effdet.text import count_of
from effdet.training.records.logs import usable_cores
from effdet.types import Task
from effdet.weights.create import options_of
from effdet.weights.pretrained import fetch_default

RECIPES: dict[Task, str] = {"detection": "finetune", "classification": "classification/finetune"}


class Scale(NamedTuple):
    """How much a kind of hardware can do in a first training: some ten minutes on two CPU cores, less on a GPU.

    Attributes:
        model: name of the model.
        batch_size: images per step.
        images: images that are seen in all epochs together.
        epochs: least and most epochs.
        pixels: area of the input, for detectors.
    """

    model: str
    batch_size: int
    images: int
    epochs: tuple[int, int]
    pixels: int = 0


SCALES: dict[tuple[Task, bool], Scale] = {  # of a task, without and with a GPU
    ("detection", False): Scale("efficientdet_lite0", 8, 4600, (8, 60), 384 * 512),
    ("detection", True): Scale("efficientdet_d0", 16, 20_000, (12, 100), 512 * 512),
    ("classification", False): Scale("efficientnet_lite0", 32, 12_000, (3, 40)),
    ("classification", True): Scale("efficientnet_b0", 64, 100_000, (8, 60)),
}
_NAMES = {"coco": "COCO", "imagenet": "ImageNet"}  # of weights, in messages
SIDE_STEP = 64  # sides of the input are multiples of it
SMALLEST_AREA = 256 * 256  # pixels of the input
ENLARGED = 2.0  # most pixels of the input for one pixel of the images
# With new neck and heads; three times the rate of a recipe that starts from COCO weights, see configs/finetune.yaml.
IMAGENET_LEARNING_RATE = 3e-3


def choose_recipe(
    overrides: Sequence[str], device_name: str | None, console: Console
) -> DetectionConfig | ClassificationConfig:
    """The recipe for a data set; prints it as a command.

    Args:
        overrides: `section.key=value`, of which one says where the data is; they win over what is chosen.
        device_name: such as 'cpu' or 'cuda:0'; None for a GPU if there is one.
        console: where the choice is printed.

    Raises:
        ConfigError: an override is unknown or of the wrong type, or nothing says where the data is.
        DataError: the data set cannot be read.
    """
    task = _task(overrides)
    recipe = RECIPES[task]
    on_gpu = pick_device(device_name).type == "cuda"
    scale = SCALES[task, on_gpu]
    draft = load_config(recipe, [f"model.name={scale.model}", *overrides])
    tables = read_tables(draft.data)
    given = {override.partition("=")[0] for override in overrides}
    chosen = {"model.name": scale.model, **_schedule(len(tables.train), scale), **_loading(on_gpu)}
    spec = make_spec(options_of(draft.model))
    if task == "detection" and draft.model.image_size is None:
        chosen["model.image_size"] = _input_size(tables.train, scale.pixels)
    if not _is_given("model.weights", given):
        chosen |= _weights(draft, spec, console)
    changes = [f"{key}={_text(value)}" for key, value in chosen.items() if not _is_given(key, given)]
    hardware = "a GPU" if on_gpu else count_of(usable_cores(), "CPU core")
    console.print(
        f"no recipe is given; for {count_of(len(tables.train), 'training image')} and {hardware} this one is chosen:"
    )
    console.print(f"  effdet train {recipe} {' '.join(map(shlex.quote, [*overrides, *changes]))}")
    return load_config(recipe, [*changes, *overrides])


def question_recipe(config: Config, num_images: int) -> str | None:
    """A question about a recipe that is made for a much larger data set; None if it fits."""
    steps = config.train.epochs * num_images / config.train.batch_size
    if num_images >= 5000 or config.train.epochs < 150 or config.optim.base_batch_size is None:
        return None
    return (
        f"this recipe is made to train on COCO or ImageNet for {config.train.epochs} epochs, but the data set has "
        f"{count_of(num_images, 'image')}, {steps:,.0f} steps; is that wanted? Settings for a small data set: "
        f"effdet train {RECIPES[config.task]} data.root=..., or no recipe at all"
    )


def _task(overrides: Sequence[str]) -> Task:
    """Detection or classification, by the overrides or else by the data set."""
    values = dict(override.partition("=")[::2] for override in overrides)
    if "task" in values:
        if values["task"] not in RECIPES:
            raise ConfigError(f"'task' is '{values['task']}'; expected {' or '.join(RECIPES)}")
        return "detection" if values["task"] == "detection" else "classification"
    if "model.name" in values:
        return make_spec(ModelOptions(values["model.name"])).task
    places = ("data.root", "data.url", "data.format", "data.train")
    own = [text for text in overrides if text.startswith(places)]
    return task_of_data([data for task in RECIPES if (data := _data(task, own)) is not None])


def _data(task: Task, overrides: Sequence[str]) -> DataConfig | None:
    """The section `data` that overrides make; None if they do not fit the task."""
    try:
        return make_config({"task": task}, overrides).data
    except ConfigError:
        return None


def _schedule(num_images: int, scale: Scale) -> dict[str, Any]:
    """Length of the training, by the number of images."""
    least, most = scale.epochs
    epochs = min(max(round(scale.images / num_images), least), most)
    return {
        "train.epochs": epochs,
        "train.batch_size": scale.batch_size,
        "train.accumulation_steps": 1,
        "optim.warmup_epochs": max(1, round(epochs / 10)),
        "eval.every_epochs": max(1, math.ceil(epochs / 4)),
    }


def _loading(on_gpu: bool) -> dict[str, Any]:
    """Loader processes: they have their own cores beside a GPU, and a few of the CPU's otherwise."""
    cores = usable_cores()
    return {"data.workers": min(max(cores - 1 if on_gpu else cores // 2, 1), 8)}


def _input_size(table: ImageTable, pixels: int) -> tuple[int, int]:
    """(H, W) of the input, of about `pixels` pixels: in the aspect ratio of the images, square if they differ."""
    sizes = np.array([size for size in table.sizes.tolist() if min(size) > 0] or [(1, 1)])  # type: ignore[attr-defined]
    height, width = np.median(sizes, axis=0)
    upright = float(np.mean(sizes[:, 0] > sizes[:, 1]))
    aspect = 1.0 if 0.2 < upright < 0.8 else float(np.clip(width / height, 0.5, 2.0))
    area = min(pixels, max(ENLARGED * height * width, SMALLEST_AREA))
    sides = math.sqrt(area / aspect), math.sqrt(area * aspect)
    rows, columns = (max(round(side / SIDE_STEP), 1) * SIDE_STEP for side in sides)
    return rows, columns


def _weights(draft: Config, spec: ModelSpec, console: Console) -> dict[str, Any]:
    """The best weights that can be had: COCO's, ImageNet's, or none; prints why others are not used."""
    wanted = ("coco", "imagenet") if spec.task == "detection" else ("imagenet",)
    for weights in wanted:
        try:
            fetch_default(weights, spec)
        except WeightsError as error:
            console.print(f"no {_NAMES[weights]} weights of {spec.name}: {error}", style="yellow")
            continue
        if weights != wanted[0]:
            console.print(f"training starts from {_NAMES[weights]} weights of the backbone instead", style="yellow")
        rate = {"optim.learning_rate": IMAGENET_LEARNING_RATE} if spec.task == "detection" and weights != "coco" else {}
        return {"model.weights": weights, **rate}
    console.print("training starts from random weights, which needs many more images and epochs", style="yellow")
    return {"model.weights": None, "optim.learning_rate": IMAGENET_LEARNING_RATE}


def _is_given(key: str, given: set[str]) -> bool:
    """Whether the overrides give a key, or the section that holds it."""
    return any(key == name or key.startswith(f"{name}.") for name in given)


def _text(value: Any) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    return f"[{','.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
