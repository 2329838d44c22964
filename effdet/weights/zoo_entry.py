"""One public weights file: what is needed to download and to use it.

The files themselves are in `zoo_detectors.py` and `zoo_classifiers.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from effdet.types import Interpolation, Padding, Task

Triple = tuple[float, float, float]

# Normalisations: mean and std of RGB values 0..255.
IMAGENET: tuple[Triple, Triple] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
HALF: tuple[Triple, Triple] = ((127.5,) * 3, (127.5,) * 3)
LITE: tuple[Triple, Triple] = ((127.0,) * 3, (128.0,) * 3)


@dataclass(frozen=True)
class ZooEntry:
    """One public weights file.

    Attributes:
        name: its name here, SOURCE/NAME.
        architecture: the model, a name of `list_models()`.
        source: the project that publishes the file.
        url: address of the file; None for an installed package.
        package: the distribution that contains the file; None if there is a URL.
        sha256: first hex characters of the file's SHA-256, if its name contains them, else None.
        classes: rows of the head in the file: 90 for COCO, 1000 or 21843 for ImageNet.
        licence: of the weights, in words.
        data: what they were trained on, in words.
        image_size: side of the square network input, in pixels, at which the metric was measured.
        mean: RGB mean that is subtracted from images, 0..255.
        std: RGB divisor that follows, 0..255.
        padding: 'same' as in TensorFlow, or 'symmetric'.
        norm_eps: epsilon of the backbone's BatchNorm layers.
        crop: fraction of the resized image's short side that a classifier's evaluation keeps; 1.0 for detectors.
        interpolation: how images are resized.
        anchor_aspects: (width, height) factors of the anchor shapes; None for classifiers.
        black_padding: whether a letterbox is filled with black instead of the mean.
        antialias: whether a detector's images were resized with antialiasing; classifiers' always were.
        metric: name of the published metric.
        value: the published metric: AP times 100, or top-1 in percent; None if there is none.
        metric_source: who published it, and how it was measured.
    """

    name: str
    architecture: str
    source: Literal["effdet", "zylo117", "timm", "torchvision", "package"]
    url: str | None
    package: str | None
    sha256: str | None
    classes: int
    licence: str
    data: str
    image_size: int
    mean: Triple
    std: Triple
    padding: Padding
    norm_eps: float
    crop: float
    interpolation: Interpolation
    anchor_aspects: tuple[tuple[float, float], ...] | None
    black_padding: bool
    antialias: bool
    metric: str
    value: float | None
    metric_source: str

    @property
    def file_name(self) -> str:
        """Last component of the URL; for a package its name."""
        return (self.url or self.package or "").rpartition("/")[2]

    @property
    def task(self) -> Task:
        """Whether the file holds a detector or a classifier."""
        return "classification" if self.anchor_aspects is None else "detection"


def hash_prefix(file: str) -> str:
    """The hash in names such as tf_efficientdet_d0_34-f153e0cf.pth."""
    return file.rpartition("-")[2].removesuffix(".pth")
