"""The public weights of detectors: a row for each file.

Lookups by name and by model are in `zoo.py`.
"""

from __future__ import annotations

from typing import Literal

from effdet.weights.zoo_entry import HALF, IMAGENET, Triple, ZooEntry, hash_prefix

# The reference rounded its factors at first; weights need the factors that they were trained with.
_ROUNDED_ASPECTS = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
_EXACT_ASPECTS = ((1.0, 1.0), (2**0.5, 0.5**0.5), (0.5**0.5, 2**0.5))


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
    normalisation: tuple[Triple, Triple] = IMAGENET,
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
        hash_prefix(file),
        image_size,
        average_precision,
        "effdet README, hard NMS",
        "Apache-2.0",
        normalisation=HALF if advprop or "lite" in name else IMAGENET,
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


# The preferred file of a model is first.

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

DETECTORS = (*_EFFDET, *_ZYLO117)
