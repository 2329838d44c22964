"""What is measured: the image, and models that are built by name with random weights.

Files and public weights are opened by the predictor as everywhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from effdet.data.images import read_image
from effdet.data.synthetic.files import encode_jpeg
from effdet.data.synthetic.scenes import draw_scene
from effdet.errors import ConfigError
from effdet.models import EfficientDet, ModelOptions, list_models, make_spec
from effdet.postprocess import logit
from effdet.weights.card import ModelCard
from effdet.weights.checkpoint import save_checkpoint
from effdet.weights.pretrained import DEFAULT_NUM_CLASSES

DRAWN_SIZE = (480, 640)  # (H, W) of the drawn image in pixels
SCENE_SIZE = (256, 256)  # (H, W) of the drawn image that sets the scores of random weights, in pixels
SPREAD, HIGH, HIGH_FRACTION = 1.0, 0.01, 0.01  # one of a hundred scores of random weights is above 0.01


@dataclass(frozen=True)
class Subject:
    """A model to measure.

    Attributes:
        name: as the user gave it.
        weights: what the predictor opens: a file or a name of public weights.
        random: whether the weights are random.
    """

    name: str
    weights: str
    random: bool


@dataclass(frozen=True)
class BenchmarkImage:
    """The image file that models are measured with.

    Attributes:
        path: the file.
        size: (H, W) in pixels.
        description: what it is, for reports.
    """

    path: Path
    size: tuple[int, int]
    description: str


def benchmark_image(given: str | Path | None, folder: Path) -> BenchmarkImage:
    """The given image, or a scene of 640 x 480 pixels that is drawn and written into `folder` as a JPEG.

    Raises:
        DataError: there is no such file, or it is damaged or no image.
    """
    path = folder / "scene.jpg" if given is None else Path(given)
    if given is None:
        path.write_bytes(encode_jpeg(draw_scene(0, 1, DRAWN_SIZE).image))
    height, width = read_image(path).shape[:2]
    name = "a drawn JPEG" if given is None else path.name
    return BenchmarkImage(path, (height, width), f"{name} of {width} x {height} pixels, {path.stat().st_size:,} bytes")


def find_subjects(models: Sequence[str], image_size: tuple[int, int] | None, folder: Path) -> list[Subject]:
    """The models to measure; those named as in `effdet models` are written into `folder` with random weights.

    Args:
        models: names of models, checkpoints, exported files or names of public weights.
        image_size: (H, W) of the input of models with random weights; None for that of each model.
        folder: an existing folder.

    Raises:
        ConfigError: an image size is given for a model that has its own.
        WeightsError: a file cannot be written.
    """
    subjects = []
    for number, name in enumerate(models):
        if name not in list_models():
            if image_size is not None:
                raise ConfigError(
                    f"{name}: a file has an input size of its own; leave --image-size out, or name a model such as "
                    "efficientdet_d0"
                )
            subjects.append(Subject(name, name, random=False))
            continue
        path = folder / f"{number}-{name}.pt"
        write_random_checkpoint(name, path, image_size)
        subjects.append(Subject(name, str(path), random=True))
    return subjects


@torch.no_grad()
def write_random_checkpoint(name: str, path: Path, image_size: tuple[int, int] | None = None) -> None:
    """Writes a checkpoint of a model with random weights, the same for the same name.

    The scores of a detector vary, and few are high. Initial scores are all equal, and sorting and NMS would cost less
    than in use.

    Args:
        name: a name of `effdet models`.
        path: the file to write.
        image_size: (H, W) of the input; None for that of the model.
    """
    spec = make_spec(ModelOptions(name, image_size=image_size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = spec.build(DEFAULT_NUM_CLASSES[spec.task])
        if isinstance(model, EfficientDet):
            _spread_scores(model)
    labels = range(model.num_classes)
    card = ModelCard(spec, tuple(f"class {label}" for label in labels), tuple(labels))
    save_checkpoint(path, model.state_dict(), card)


def _spread_scores(model: EfficientDet) -> None:
    """Scales the last class layer so that logits have the standard deviation `SPREAD`, and few scores exceed `HIGH`.

    Without trained statistics of BatchNorm layers the features are tiny (1e-20 in D4), and the prior hides them.
    """
    layer = model.class_head.predict.pointwise
    assert layer.bias is not None
    layer.bias.zero_()
    image = torch.from_numpy(draw_scene(0, 0, SCENE_SIZE).image).permute(2, 0, 1)
    logits = model.eval()(image[None]).class_logits.flatten()
    scale = SPREAD / logits.std()
    layer.weight.mul_(scale)
    layer.bias.add_(logit(HIGH) - logits.topk(int(HIGH_FRACTION * len(logits))).values[-1] * scale)
